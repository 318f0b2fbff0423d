//! What the demo checks by itself in cgctl's answers. Pure: text in, verdict out.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// usage_usec by cgroup path.
pub(super) type Usage = HashMap<String, u64>;

/// Whether `cgctl hosts -o json` lists the host as up, with a tick in the store.
pub(super) fn host_is_ready(hosts: &str, hostname: &str) -> bool {
    let Ok(hosts) = serde_json::from_str::<Value>(hosts) else { return false };
    let mut hosts = hosts["hosts"].as_array().into_iter().flatten();
    hosts
        .any(|host| host["hostname"] == hostname && host["state"] == "up" && host["last_tick_at"].is_string())
}

/// From where the agent has the values of ordinary cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reader {
    /// Its BPF programs.
    Bpf,
    /// Cgroup files, because of this.
    Files(String),
}

impl Reader {
    /// As `cgctl doctor -o json` says.
    pub(super) fn of_doctor(answer: &str) -> Result<Self> {
        let answer: Value = serde_json::from_str(answer).context("the doctor's answer is no JSON")?;
        let engines = answer["engines"].as_array().context("the doctor names no engines")?;
        let unlocked = engines.iter().find(|engine| engine["name"] == "unlocked");
        let unlocked = unlocked.context("the doctor does not name the unlocked engine")?;
        if unlocked["available"] == true {
            return Ok(Self::Bpf);
        }
        let reason = unlocked["reason"].as_str().context("the doctor does not say why there is no BPF")?;
        Ok(Self::Files(reason.to_owned()))
    }

    /// The source that a row has to name.
    fn source(&self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::Files(_) => "file",
        }
    }
}

/// Checks the rows of `cgctl query --order ancestors -o ndjson` against what the cgroups' own files
/// said before and after, and returns what holds.
pub(super) fn ancestors(rows: &str, reader: &Reader, before: &Usage, after: &Usage) -> Result<Vec<String>> {
    let rows = objects(rows)?;
    if let Some(failed) = rows.iter().find(|row| row.get("error").is_some()) {
        bail!("the answer names an error: {failed}");
    }
    let rows =
        rows.iter().filter(|row| row.get("path").is_some()).map(Row::parse).collect::<Result<Vec<_>>>()?;
    let paths: Vec<_> = rows.iter().map(|row| row.path.as_str()).collect();
    let mut expected: Vec<_> = before.keys().map(String::as_str).filter(|path| *path != "/").collect();
    expected.sort_by_key(|path| std::cmp::Reverse(path.len()));
    expected.push("/");
    ensure!(paths == expected, "the ancestors should be {expected:?}, but the answer has {paths:?}");
    for pair in rows.windows(2) {
        ensure!(
            pair[0].parent_id == Some(pair[1].cgroup_id),
            "{} is not the parent of {}",
            pair[1].path,
            pair[0].path
        );
    }
    let mut verified = vec![format!("the answer goes from the leaf to the root: {}", paths.join(" → "))];
    for row in &rows {
        verified.push(row.check_usage(reader, before, after)?);
    }
    Ok(verified)
}

/// How many points `cgctl history -o ndjson` printed.
pub(super) fn history_points(points: &str) -> Result<usize> {
    Ok(objects(points)?.iter().filter(|point| point["tick_at"].is_string()).count())
}

fn objects(ndjson: &str) -> Result<Vec<Value>> {
    let lines = ndjson.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
}

struct Row {
    path: String,
    cgroup_id: u64,
    /// Absent at the root.
    parent_id: Option<u64>,
    source: String,
    usage_usec: u64,
}

impl Row {
    fn parse(row: &Value) -> Result<Self> {
        let parse = || -> Result<Self> {
            Ok(Self {
                path: row["path"].as_str().context("no path")?.to_owned(),
                cgroup_id: row["cgroup_id"].as_u64().context("no cgroup_id")?,
                parent_id: row["parent_id"].as_u64(),
                source: row["cpu"]["source"].as_str().context("no cpu.source")?.to_owned(),
                usage_usec: row["cpu"]["usage_usec"].as_u64().context("no cpu.usage_usec")?,
            })
        };
        parse().with_context(|| format!("row {row}"))
    }

    /// The root's row must say that it is read from its file, for the kernel does not maintain its usage
    /// where BPF reads.
    fn check_usage(&self, reader: &Reader, before: &Usage, after: &Usage) -> Result<String> {
        let Self { path, source, usage_usec, .. } = self;
        let is_root = path == "/";
        if is_root {
            ensure!(source == "file", "the root should be read from its file, but its source is {source}");
        }
        let (Some(before), Some(after)) = (before.get(path), after.get(path)) else {
            ensure!(is_root, "{path} was not read before and after");
            return Ok("/: read from its file, as marked".to_owned());
        };
        let expected = reader.source();
        ensure!(
            is_root || source == expected,
            "{path}: its source is {source}, but the agent reads by {expected}"
        );
        let range = before..=after;
        ensure!(
            range.contains(&usage_usec),
            "{path}: usage_usec {usage_usec} is not between {before} and {after}"
        );
        Ok(format!("{path}: {before} ≤ usage_usec {usage_usec} ≤ {after} ({source})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: &str =
        r#"{"path":"/a/b","cgroup_id":3,"parent_id":2,"cpu":{"source":"bpf","usage_usec":15}}"#;
    const PARENT: &str =
        r#"{"path":"/a","cgroup_id":2,"parent_id":1,"cpu":{"source":"bpf","usage_usec":30}}"#;
    const ROOT: &str = r#"{"path":"/","cgroup_id":1,"cpu":{"source":"file","usage_usec":99}}"#;

    fn usage(leaf: u64, parent: u64) -> Usage {
        [("/a/b".to_owned(), leaf), ("/a".to_owned(), parent)].into()
    }

    #[test]
    fn usage_between_two_reads_and_a_root_from_its_file_are_verified() {
        let verified =
            ancestors(&format!("{LEAF}\n{PARENT}\n{ROOT}\n"), &Reader::Bpf, &usage(15, 20), &usage(16, 30));
        assert_eq!(verified.unwrap().len(), 4);
    }

    #[test]
    fn without_bpf_every_row_has_to_be_of_a_file() {
        let files = Reader::Files("no BTF".to_owned());
        let rows = format!("{LEAF}\n{PARENT}\n{ROOT}\n");
        let check = |rows: &str| ancestors(rows, &files, &usage(15, 20), &usage(16, 30));
        assert_eq!(check(&rows.replace("bpf", "file")).unwrap().len(), 4);
        let error = check(&rows).unwrap_err().to_string();
        assert!(error.contains("/a/b: its source is bpf, but the agent reads by file"), "{error}");
    }

    #[test]
    fn the_root_alone_is_an_answer_too() {
        let read = |usage| [("/".to_owned(), usage)].into();
        let check = |before, after| ancestors(ROOT, &Reader::Bpf, &read(before), &read(after));
        assert_eq!(check(98, 99).unwrap()[1], "/: 98 ≤ usage_usec 99 ≤ 99 (file)");
        assert!(check(100, 101).unwrap_err().to_string().contains("not between 100 and 101"));
    }

    #[test]
    fn the_doctor_says_who_reads() {
        let answer = |available: bool, reason: &str| {
            format!(
                r#"{{"engines":[{{"name":"files","available":true}},{{"name":"unlocked","available":{available}{reason}}}]}}"#
            )
        };
        assert_eq!(Reader::of_doctor(&answer(true, "")).unwrap(), Reader::Bpf);
        let files = Reader::of_doctor(&answer(false, r#","reason":"no BTF""#)).unwrap();
        assert_eq!(files, Reader::Files("no BTF".to_owned()));
        for bad in [&answer(false, ""), "{}", r#"{"engines":[]}"#, "oops"] {
            assert!(Reader::of_doctor(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_does_not_hold_is_named() {
        let check = |rows: &[&str], expect: &str| {
            let error =
                ancestors(&rows.join("\n"), &Reader::Bpf, &usage(15, 20), &usage(16, 30)).unwrap_err();
            assert!(format!("{error:#}").contains(expect), "{error:#}");
        };
        check(&[PARENT, LEAF, ROOT], "should be");
        check(&[LEAF, PARENT], "should be");
        check(&[LEAF, PARENT, &ROOT.replace("file", "bpf")], "the root should be read from its file");
        check(&[&LEAF.replace("15", "17"), PARENT, ROOT], "/a/b: usage_usec 17 is not between 15 and 16");
        check(&[&LEAF.replace("15", "0"), PARENT, ROOT], "/a/b: usage_usec 0 is not between");
        check(
            &[LEAF, &PARENT.replace("\"cgroup_id\":2", "\"cgroup_id\":9"), ROOT],
            "/a is not the parent of /a/b",
        );
        check(&[LEAF, PARENT, "{\"path\":\"/\"}"], "no cgroup_id");
        check(&[LEAF, r#"{"host_id":"h","error":{"reason":"X"}}"#], "names an error");
        check(&[LEAF, "oops"], "no JSON: oops");
    }

    #[test]
    fn only_ticks_are_history_points() {
        assert_eq!(
            history_points("{\"tick_at\":\"2026-01-01T00:00:00Z\"}\n{\"end\":\"complete\"}\n").unwrap(),
            1
        );
    }

    #[test]
    fn a_host_is_ready_when_it_is_up_and_has_a_tick() {
        let check = |state: &str, tick: &str, expect: bool| {
            let hosts =
                format!(r#"{{"hosts":[{{"hostname":"h","state":"{state}","last_tick_at":{tick}}}]}}"#);
            assert_eq!(host_is_ready(&hosts, "h"), expect, "{hosts}");
            assert!(!host_is_ready(&hosts, "other"));
        };
        check("up", r#""2026-01-01T00:00:00Z""#, true);
        check("up", "null", false);
        check("lost", r#""2026-01-01T00:00:00Z""#, false);
        assert!(!host_is_ready("not json", "h"));
    }
}
