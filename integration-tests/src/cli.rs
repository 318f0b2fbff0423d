//! Running commands as a user would.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::process::Command;

/// What a command said.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a binary of this workspace; nothing may hang, so it is given 30 s.
pub async fn run(name: &str, arguments: &[&str]) -> Result<Ran> {
    run_command(Command::new(crate::daemon::binary(name)?).args(arguments)).await
}

/// Runs any command, bounded in time.
pub async fn run_command(command: &mut Command) -> Result<Ran> {
    let spawned = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output: Output =
        tokio::time::timeout(Duration::from_secs(30), spawned).await.context("the command hangs")??;
    Ok(Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}
