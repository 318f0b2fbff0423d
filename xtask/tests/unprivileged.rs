//! What an ordinary user is told on a machine that lacks something.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

const NOBODY: u32 = 65_534;

/// Nothing is on this PATH, so whatever is looked for there is missing, and so is sudo.
#[test]
fn what_is_missing_is_named_with_the_command_that_installs_it() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_xtask"));
    demo.args(["demo", "--once"]).env_clear().env("PATH", "/nonexistent").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        demo.uid(NOBODY).gid(NOBODY);
    }
    let ran = demo.output().unwrap();
    let [says, error] = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(ran.status.code(), Some(1), "{says}{error}");
    for missing in
        ["missing: a C compiler and", "missing: clang 15 or newer that targets BPF (compiles ebpf/)"]
    {
        assert!(says.contains(missing), "{says}");
    }
    assert!(!says.contains("demo: build"), "it went on: {says}");
    let install =
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends gcc libc6-dev clang-19";
    assert!(error.contains("neither root nor sudo") && error.contains(install), "{error}");
}
