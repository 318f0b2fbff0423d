//! Other programs: shown, run with stdin closed, and judged by their exit status.

use std::{
    env, fmt,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, anyhow};

/// A program ran and said that it failed.
#[derive(Debug)]
pub(crate) struct CommandFailed {
    line: String,
    status: ExitStatus,
}

impl CommandFailed {
    pub(crate) fn new(command: &Command, status: ExitStatus) -> Self {
        Self { line: command_line(command), status }
    }

    /// The program's own exit code, so that it passes through xtask.
    pub(crate) fn exit_code(&self) -> u8 {
        self.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.line, self.status)
    }
}

impl std::error::Error for CommandFailed {}

/// The cargo that runs us, so that a chosen toolchain stays chosen.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Prints the command and runs it, its output straight to ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", command_line(command));
    let status = command.stdin(Stdio::null()).status().with_context(|| cannot_start(command))?;
    if status.success() { Ok(()) } else { Err(CommandFailed::new(command, status).into()) }
}

/// Prints the command and runs it, its complaints straight to ours: what it writes to stdout.
pub(crate) fn run_capturing(command: &mut Command) -> Result<String> {
    println!("$ {}", command_line(command));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| cannot_start(command))?;
    if !output.status.success() {
        return Err(CommandFailed::new(command, output.status).into());
    }
    text(command, output.stdout)
}

/// Whether the command can be started and succeeds. Says nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// What the command writes to stdout.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(anyhow!(CommandFailed::new(command, output.status)).context(said));
    }
    text(command, output.stdout)
}

fn text(command: &Command, stdout: Vec<u8>) -> Result<String> {
    String::from_utf8(stdout).with_context(|| format!("output of `{}`", command_line(command)))
}

pub(crate) fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", command_line(command))
}

/// The command as a person would type it in the current directory.
pub(crate) fn command_line(command: &Command) -> String {
    let here = env::current_dir().map(|dir| format!("{}/", dir.display())).unwrap_or_default();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| {
        let word = word.to_string_lossy();
        let word = word.strip_prefix(here.as_str()).unwrap_or(&word);
        if word.is_empty() || word.contains([' ', '"', '$', '*', '|', '\\']) {
            format!("'{word}'")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}
