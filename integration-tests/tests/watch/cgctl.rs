//! `cgctl watch`.

use std::{collections::BTreeMap, fs, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use integration_tests::{
    cgroups::TestTree,
    cli::{self, Ran},
    daemon::{binary, state_dir},
    fleet, wait,
    walk::by_path,
    watch::structure_now,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::{ROWS, agent, make_long_rows, server};

const FIELDS: &str = "structure.populated,structure.frozen,structure.nr_descendants";

fn objects(ran: &Ran) -> Result<Vec<Value>> {
    ran.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What came, in order: `host joined`, `snapshot`, `update`, …
fn events(objects: &[Value], hostname: &str) -> Vec<String> {
    let of_host = objects.iter().filter(|object| object["hostname"] == hostname);
    let words = of_host.map(|object| [&object["event"], &object["change"]].map(|word| word.as_str()));
    words.map(|words| words.into_iter().flatten().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_a_walk_shows_and_goes_on_where_it_ended() -> Result<()> {
    let server = server().await?;
    let left = agent(&server, "left").await?;
    let mut right = agent(&server, "right").await?;
    fleet::all_up(&server, &["left", "right"]).await?;
    let tree = TestTree::v2()?;
    tree.make("a")?;
    for name in ["left", "right"] {
        // A snapshot may be as old as a tick.
        fleet::more_history(&server, name, by_path(tree.path("a")), 0).await?;
    }
    let state = state_dir()?;
    let (url, path, file) = (server.url(), tree.path(""), state.path().join("positions"));
    let file_text = file.display().to_string();
    let watch = async |arguments: &[&str]| {
        let all = ["--server", &url, "watch", &path, "--fields", FIELDS, "-o", "ndjson", "--ticks", "1"];
        cli::run("cgctl", &[&all[..], arguments].concat()).await
    };

    let ran = watch(&["--all", "--positions", &file_text]).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let first = objects(&ran)?;
    for name in ["left", "right"] {
        assert_eq!(events(&first, name)[..4], ["host joined", "snapshot", "snapshot", "synced"], "{name}");
        let rows = first.iter().filter(|row| row["hostname"] == name && row["event"] == "snapshot");
        let shown: BTreeMap<u64, (Value, Value)> = rows
            .filter_map(|row| {
                let descendants = row["structure"]["nr_descendants"].clone();
                Some((row["cgroup_id"].as_u64()?, (row["path"].clone(), descendants)))
            })
            .collect();
        let walked = structure_now(&left, &path).await?.into_iter().map(|(id, sample)| {
            let descendants = sample.structure.and_then(|structure| structure.nr_descendants);
            (id, (Value::from(sample.path), Value::from(descendants)))
        });
        assert_eq!(shown, walked.collect(), "{name}");
    }

    tree.make("b")?;
    fs::remove_dir(tree.directory("a"))?;
    right.kill_9()?;
    right.start_again().await?;
    let ran = watch(&["--all", "--positions", &file_text]).await?;
    assert!([0, 3].contains(&ran.code), "right may be lost for a moment: {ran:?}");
    let second = objects(&ran)?;
    let of_left = events(&second, "left");
    assert_eq!(of_left[0], "host joined");
    assert!(!of_left.contains(&"snapshot".to_owned()), "{of_left:?}");
    let removed = second.iter().find(|object| object["event"] == "removed").context("nothing removed")?;
    assert_eq!(removed["path"], tree.path("a"));
    assert!(["final", "last_known"].contains(&removed["values"].as_str().unwrap_or_default()), "{removed}");

    let agent_address = left.address().to_string();
    let of_agent = ["watch", "--agent", &agent_address, &path, "--ticks", "1", "--fields", FIELDS];
    let ran = cli::run("cgctl", &[&of_agent[..], &["--positions", &file_text]].concat()).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    ensure!(ran.stderr.contains("host left: joined") && !ran.stdout.contains("SNAPSHOT"), "{ran:?}");
    let other = watch(&["--all", "--positions", &file_text, "--max-depth", "1"]).await?;
    assert_eq!(other.code, 2, "{other:?}");
    ensure!(other.stderr.contains("it is of another watch"), "{other:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_a_signal_or_when_every_host_refuses() -> Result<()> {
    let server = server().await?;
    let _left = agent(&server, "left").await?;
    let mut right = agent(&server, "right").await?;
    fleet::all_up(&server, &["left", "right"]).await?;
    let tree = TestTree::v2()?;
    for name in ["left", "right"] {
        fleet::more_history(&server, name, by_path(tree.path("")), 0).await?;
    }
    let state = state_dir()?;
    let (url, path, file) = (server.url(), tree.path(""), state.path().join("positions"));

    let mut watch = Command::new(binary("cgctl")?);
    watch.args(["--server", &url, "watch", "--all", &path, "--fields", FIELDS, "--positions"]).arg(&file);
    let watch = watch
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = watch.id().context("it has ended")?;
    wait::until("positions of both hosts", Duration::from_secs(20), || async {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let positions = serde_json::from_str::<Value>(&text).ok();
        let hosts = positions.and_then(|positions| Some(positions["resume_tokens"].as_object()?.len()));
        Ok((hosts == Some(2)).then_some(()))
    })
    .await?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT)?;
    let ended = tokio::time::timeout(Duration::from_secs(10), watch.wait_with_output()).await??;
    let (stdout, stderr) = (String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?);
    assert_eq!(ended.status.code(), Some(0), "{stderr}");
    assert_eq!(stdout.lines().filter(|line| line.starts_with("EVENT ")).count(), 1, "{stdout}");
    assert_eq!(stdout.lines().filter(|line| line.starts_with("SNAPSHOT ")).count(), 2, "{stdout}");

    let run = async |arguments: &[&str]| {
        cli::run("cgctl", &[&["--server", &url, "watch", "--all", &path], arguments].concat()).await
    };
    let refused = run(&["--interval", "100ms"]).await?;
    assert_eq!(refused.code, 2, "{refused:?}");
    ensure!(refused.stderr.contains("host left: lost: INVALID_FIELD: spec.interval"), "{refused:?}");
    right.kill_9()?;
    let partial = run(&["--ticks", "1"]).await?;
    assert_eq!(partial.code, 3, "{partial:?}");
    ensure!(partial.stderr.contains("host right: lost: HOST_UNREACHABLE"), "{partial:?}");
    ensure!(partial.stderr.contains("1/2 hosts, 1 failed"), "{partial:?}");
    let bounded = run(&["--timeout", "1s"]).await?;
    assert_eq!(bounded.code, 0, "{bounded:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_cuts_no_tick_in_two() -> Result<()> {
    let server = server().await?;
    let _only = agent(&server, "only").await?;
    fleet::all_up(&server, &["only"]).await?;
    let tree = TestTree::v2()?;
    make_long_rows(&tree)?;
    tree.make("last")?;
    // A snapshot may be as old as a tick, and the first that has the last may be from while the others were made.
    fleet::more_history(&server, "only", by_path(tree.path("last")), 1).await?;
    let mut watch = Command::new(binary("cgctl")?);
    watch.args(["--server", &server.url(), "watch", "--all", &tree.path(""), "-o", "ndjson"]);
    watch.args(["--fields", FIELDS]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = watch.kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("its output")?).lines();
    let mut next = async || {
        let line =
            tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.context("no line")??;
        anyhow::Ok(line.map(|line| serde_json::from_str::<Value>(&line)).transpose()?)
    };
    // Then it waits with the rest, which no pipe has room for.
    while next().await?.context("it ended")?["event"] != "snapshot" {}
    kill(Pid::from_raw(watch.id().context("it has ended")?.cast_signed()), Signal::SIGINT)?;
    let (mut snapshots, mut last) = (1, Value::Null);
    while let Some(object) = next().await? {
        snapshots += usize::from(object["event"] == "snapshot");
        last = object["event"].clone();
    }
    assert_eq!(watch.wait().await?.code(), Some(0));
    assert_eq!(snapshots, ROWS + 4, "the tree, its last and the two above the rows");
    assert!(last == "synced" || last == "bookmark", "{last}");
    Ok(())
}
