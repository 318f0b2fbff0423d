//! cgctl as the demo runs it: shown with its command line, bounded, its output read.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::stop::Stop;
use crate::{
    checkout::Checkout,
    command::{CommandFailed, cannot_start, command_line},
};

/// No command of the demo takes a tenth of this.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// cgctl and where it asks.
pub(super) struct Client {
    program: PathBuf,
    server_url: String,
    agent_address: String,
    /// Takes what a command prints: a file never blocks its writer.
    output: PathBuf,
}

impl Client {
    pub(super) fn new(checkout: &Checkout, server_url: String, agent_address: String, dir: &Path) -> Self {
        Self { program: checkout.program("cgctl"), server_url, agent_address, output: dir.join("cgctl.out") }
    }

    /// The command as a person would type it.
    pub(super) fn line(&self, args: &[&str]) -> String {
        command_line(&self.command(args))
    }

    /// A command that asks the agent straight, without the server.
    pub(super) fn agent_line(&self, verb: &str, args: &[&str]) -> String {
        command_line(&self.agent_command(verb, args))
    }

    /// What such a command prints.
    pub(super) fn read_agent(&self, verb: &str, args: &[&str], stop: &Stop) -> Result<String> {
        self.read_from(self.agent_command(verb, args), stop)
    }

    /// Shows the command and what it prints.
    pub(super) fn show(&self, args: &[&str], stop: &Stop) -> Result<()> {
        println!("\n$ {}", self.line(args));
        print!("{}", self.read(args, stop)?);
        Ok(())
    }

    /// What the command prints; its complaints go to our stderr.
    pub(super) fn read(&self, args: &[&str], stop: &Stop) -> Result<String> {
        self.read_from(self.command(args), stop)
    }

    fn read_from(&self, mut command: Command, stop: &Stop) -> Result<String> {
        let status = self.bounded(&mut command, stop)?;
        if !status.success() {
            return Err(CommandFailed::new(&command, status).into());
        }
        fs::read_to_string(&self.output).context("read what cgctl printed")
    }

    /// The same while a failure is expected: None for it, and no complaints.
    pub(super) fn read_quietly(&self, args: &[&str], stop: &Stop) -> Result<Option<String>> {
        let status = self.bounded(self.command(args).stderr(Stdio::null()), stop)?;
        let text = fs::read_to_string(&self.output).context("read what cgctl printed")?;
        Ok(status.success().then_some(text))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--server", &self.server_url]).args(args);
        command
    }

    fn agent_command(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args([verb, "--agent", &self.agent_address]).args(args);
        command
    }

    fn bounded(&self, command: &mut Command, stop: &Stop) -> Result<ExitStatus> {
        let output = File::create(&self.output).context("create cgctl's output file")?;
        let mut child =
            command.stdin(Stdio::null()).stdout(output).spawn().with_context(|| cannot_start(command))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            if let Some(status) = child.try_wait().context("wait for cgctl")? {
                return Ok(status);
            }
            let interrupted = stop.sleep(POLL_EVERY);
            if interrupted.is_err() || Instant::now() > deadline {
                child.kill().context("kill cgctl")?;
                child.wait().context("wait for cgctl")?;
                interrupted?;
                bail!("`{}` gave no answer within {} s", command_line(command), ANSWER_WITHIN.as_secs());
            }
        }
    }
}
