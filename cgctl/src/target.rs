//! TARGET on the command line: one cgroup, by path or by id.

use cgfleet_model::{InvalidEscape, unescape_path};
use cgfleet_proto::v1::CgroupTarget;

/// Reads a TARGET: `/path`, the absolute directory of a cgroup, `HIERARCHY:/path`, or a cgroup id.
///
/// What begins with `/` is a path, whatever colons follow.
pub(crate) fn parse_target(text: &str) -> Result<CgroupTarget, InvalidTarget> {
    if text.starts_with('/') {
        return of_path("", text);
    }
    if let Some((hierarchy, path)) = text.split_once(":/").filter(|(hierarchy, _)| !hierarchy.is_empty()) {
        return of_path(hierarchy, &text[text.len() - path.len() - 1..]);
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidTarget::Form);
    }
    match text.parse() {
        Ok(cgroup_id @ 1..) => Ok(CgroupTarget { cgroup_id, ..CgroupTarget::default() }),
        _ => Err(InvalidTarget::Id),
    }
}

fn of_path(hierarchy: &str, path: &str) -> Result<CgroupTarget, InvalidTarget> {
    unescape_path(path)?;
    Ok(CgroupTarget { path: path.to_owned(), hierarchy: hierarchy.to_owned(), ..CgroupTarget::default() })
}

/// A TARGET that names no cgroup; clap says what was given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum InvalidTarget {
    #[error(
        "allowed: a path from the root of the hierarchy (/a/b), the directory of a cgroup (/sys/fs/cgroup/a/b), \
         HIERARCHY:/path for cgroup v1 (memory:/a, name=systemd:/a), or a cgroup id (1234)"
    )]
    Form,
    #[error("allowed as a cgroup id: 1 to {}", u64::MAX)]
    Id,
    #[error("{0}; write a backslash in a cgroup's name as \\x5c")]
    Escape(#[from] InvalidEscape),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_a_hierarchy_and_path_or_an_id() {
        let check = |text: &str, (hierarchy, path, cgroup_id): (&str, &str, u64)| {
            let expect = CgroupTarget { path: path.to_owned(), cgroup_id, hierarchy: hierarchy.to_owned() };
            assert_eq!(parse_target(text), Ok(expect), "{text}");
        };
        check("/", ("", "/", 0));
        check("/a/b", ("", "/a/b", 0));
        check("/sys/fs/cgroup/memory/a", ("", "/sys/fs/cgroup/memory/a", 0));
        check("/memory:/a", ("", "/memory:/a", 0));
        check("/a\\x5cx2d", ("", "/a\\x5cx2d", 0));
        check("memory:/a", ("memory", "/a", 0));
        check("cpu,cpuacct:/", ("cpu,cpuacct", "/", 0));
        check("name=systemd:/a:/b", ("name=systemd", "/a:/b", 0));
        check("1", ("", "", 1));
        check("18446744073709551615", ("", "", u64::MAX));
    }

    #[test]
    fn anything_else_is_refused() {
        let check = |text: &str, expect: &str| {
            let refused = parse_target(text).unwrap_err().to_string();
            assert!(refused.contains(expect), "{text}: {refused}");
        };
        for text in ["", "a/b", "a", "memory:", "memory:a", ":/a", "-1", "+1", "1.5", "0x10", "1 ", "./a"] {
            check(text, "(/a/b)");
        }
        check("0", "1 to 18446744073709551615");
        check("18446744073709551616", "1 to 18446744073709551615");
        check("/a\\b", "\\x5c");
        check("memory:/a\\", "\\x5c");
    }
}
