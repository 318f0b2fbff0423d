//! Each fence fires on what it forbids, at the right line, and only there.

use super::*;

/// (rule, file, source that breaks it, line of the finding).
const BROKEN: &[(&str, &str, &str, usize)] = &[
    ("aya", "agent/src/walker.rs", "//! x\nuse aya::Ebpf;", 2),
    ("aya", "ebpf/src/lib.rs", "//! x\nfn f() { aya_obj::load() }", 2),
    ("unsafe", "agent/src/main.rs", "//! x\nfn f() { unsafe { g() } }", 2),
    ("unsafe", "cgctl/src/lib.rs", "//! x\n#![allow(unsafe_code)]", 2),
    ("sqlx", "server/src/ingest.rs", "//! x\nuse sqlx::PgPool;", 2),
    ("sqlx", "server/tests/store.rs", "//! x\nuse sqlx;", 2),
    ("status", "server/src/fanout.rs", "//! x\nuse tonic::{\n Code,\n Status};", 4),
    ("status", "agent/src/walker.rs", "//! x\n\nfn f() -> tonic::Status {}", 3),
    ("status", "agent/src/walker.rs", "//! x\nuse tonic::*;", 2),
    ("anyhow", "server/src/lib.rs", "//! x\nfn f() -> anyhow::Result<()> {}", 2),
    ("cgroupfs", "server/src/hosts.rs", "//! x\nconst C: &str = \"/sys/fs/cgroup\";", 2),
    ("model", "model/src/lib.rs", "//! x\nuse std::{fmt, fs::File};", 2),
    ("agent-imports", "agent/Cargo.toml", "[lints]\nworkspace = true\n[dependencies]\ncgfleet-server = 1", 4),
    ("server-imports", "server/Cargo.toml", "cgfleet-agent.workspace = true\n[lints]\nworkspace = true", 1),
    ("xtask-imports", "xtask/Cargo.toml", "cgfleet-proto.workspace = true\n[lints]\nworkspace = true", 1),
    ("lints", "cgctl/Cargo.toml", "[package]\nworkspace = true\n[lints]\n[x]\nworkspace = true", 1),
    ("purpose", "cgctl/src/lib.rs", "// not it\n", 1),
    ("unfinished", "cgctl/src/lib.rs", "//! x\n#[test]\n#[ignore = \"later\"]\nfn t() {}", 3),
    ("unfinished", "cgctl/src/lib.rs", "//! x\nfn t() { todo!() }", 2),
    ("unfinished", "cgctl/src/lib.rs", "//! x\nfn t() { dbg!(1); }", 2),
    ("unfinished", "cgctl/src/lib.rs", "//! x\nfn t() { unimplemented!() }", 2),
    ("markers", "ebpf/src/walk.c", "/*\n * FIXME: later\n */", 2),
    ("machine", "docs/development.md", "See `/home/me/x`.", 1),
    ("machine", ".ci/run", "cd /root/x", 1),
];

/// (file, source that breaks nothing).
const SOUND: &[(&str, &str)] = &[
    ("agent/src/kernel/iter.rs", "//! x\nuse aya::Ebpf;\n// SAFETY: y\nunsafe fn f() {}"),
    ("server/src/store/head.rs", "//! x\nuse sqlx::PgPool;"),
    ("server/src/service/query.rs", "//! x\nuse tonic::Status;"),
    ("agent/src/error.rs", "//! x\nuse tonic::Status;"),
    ("server/src/main.rs", "//! x\nuse anyhow::Result;"),
    ("server/src/fanout.rs", "//! unsafe, sqlx::x, tonic::Status\nuse tonic::{Code, transport::Channel};"),
    ("cgctl/src/lib.rs", "//! x\nstruct Todo { ignore: bool }\n#[ignored]\nfn status() {}"),
    ("cgctl/Cargo.toml", "[lints]\nworkspace = true\n\n[dependencies]\ncgfleet-proto.workspace = true"),
    ("docs/x.md", "`$HOME/work/x`, https://host.example/home/x, /sys/fs/cgroup/work/x, a todo"),
];

#[test]
fn every_rule_fires_at_the_line_that_breaks_it() {
    for (rule, path, text, line) in BROKEN {
        let findings = check_file(path, text);
        let expect = format!("{path}:{line}: {rule}: ");
        assert!(findings.len() == 1 && findings[0].starts_with(&expect), "{path}: {expect}: {findings:?}");
    }
}

#[test]
fn what_is_allowed_breaks_nothing() {
    for (path, text) in SOUND {
        assert_eq!(check_file(path, text), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn a_file_of_401_lines_is_too_long() {
    let text = "//! x\n".repeat(400);
    assert_eq!(check_file("cgctl/src/lib.rs", &text), Vec::<String>::new());
    let findings = check_file("cgctl/src/lib.rs", &format!("{text}//! x\n"));
    assert!(findings[0].starts_with("cgctl/src/lib.rs:401: length: 401 lines"), "{findings:?}");
}

#[test]
fn every_rule_has_an_example_and_every_exception_a_rule_and_a_reason() {
    let has_example =
        |rule: &&Rule| rule.name == "length" || BROKEN.iter().any(|(name, ..)| *name == rule.name);
    let forgotten: Vec<_> = RULES.iter().filter(|rule| !has_example(rule)).map(|rule| rule.name).collect();
    assert_eq!(forgotten, Vec::<&str>::new());
    for (rule, path, reason) in EXCEPTIONS {
        assert!(RULES.iter().any(|known| known.name == *rule) && !reason.is_empty(), "{rule} {path}");
    }
}
