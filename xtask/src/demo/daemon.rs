//! A daemon of the demo: started with its log in a file, stopped within a bound, never left behind.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    checkout::Checkout,
    command::{cannot_start, command_line},
};

const LOG_TAIL_LINES: usize = 20;
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A running daemon. Dropping it stops it.
pub(super) struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
    stop_within: Duration,
    ended: Option<ExitStatus>,
}

/// A program of ours, to be given its flags.
pub(super) fn program(checkout: &Checkout, name: &str) -> Command {
    Command::new(checkout.program(name))
}

impl Daemon {
    pub(super) fn spawn(
        name: &'static str,
        mut command: Command,
        dir: &Path,
        stop_within: Duration,
    ) -> Result<Self> {
        println!("$ {}", command_line(&command));
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let err = out.try_clone().context("share the log")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // A group of its own: at the terminal's Ctrl-C we stop the daemons in order.
        let child = command.process_group(0).spawn().with_context(|| cannot_start(&command))?;
        Ok(Self { name, child, log, stop_within, ended: None })
    }

    /// Fails with the end of the log when the daemon is gone.
    pub(super) fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.poll()? {
            bail!("{} died: {status}\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    pub(super) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n  ");
        format!("the end of {}'s log:\n  {tail}", self.name)
    }

    /// Asks the daemon to stop, and kills it when it does not within its bound.
    pub(super) fn stop(&mut self) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        self.check_running()?;
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .with_context(|| format!("send SIGTERM to {}", self.name))?;
        let deadline = Instant::now() + self.stop_within;
        while Instant::now() < deadline {
            match self.poll()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} stopped badly: {status}\n{}", self.name, self.log_tail()),
                None => thread::sleep(POLL_EVERY),
            }
        }
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.ended = Some(self.child.wait().with_context(|| format!("wait for {}", self.name))?);
        bail!(
            "{} did not stop within {} s: killed\n{}",
            self.name,
            self.stop_within.as_secs(),
            self.log_tail()
        )
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("wait for {}", self.name))?;
        }
        Ok(self.ended)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &Path) -> Daemon {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        Daemon::spawn("sh", sh, dir, Duration::from_secs(20)).unwrap()
    }

    /// The shell has to set its trap first; it works in our directory, so the marker's path is absolute.
    fn stop_when_ready(mut daemon: Daemon, ready: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ready.exists() && Instant::now() < deadline {
            thread::yield_now();
        }
        daemon.stop()
    }

    #[test]
    fn a_daemon_that_dies_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = shell("echo port is taken >&2; exit 3", dir.path());
        daemon.child.wait().unwrap();
        let error = daemon.check_running().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("port is taken"), "{error}");
    }

    #[test]
    fn a_daemon_that_ends_on_sigterm_stops_well() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready");
        let loops = format!("trap 'exit 0' TERM; : > {}; while :; do sleep 0.05; done", ready.display());
        stop_when_ready(shell(&loops, dir.path()), &ready).unwrap();
    }

    #[test]
    fn a_daemon_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready");
        let loops = format!("trap '' TERM; : > {}; while :; do sleep 0.05; done", ready.display());
        let mut daemon = shell(&loops, dir.path());
        daemon.stop_within = Duration::from_millis(100);
        let error = stop_when_ready(daemon, &ready).unwrap_err().to_string();
        assert!(error.contains("did not stop within"), "{error}");
    }
}
