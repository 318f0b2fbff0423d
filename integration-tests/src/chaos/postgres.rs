//! The private Postgres of a server, from outside: killed, stopped, and asked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The Postgres in a server's state directory.
#[derive(Debug, Clone)]
pub struct Postgres {
    base: PathBuf,
}

impl Postgres {
    /// That of a server with this state directory.
    pub fn of(state_dir: &Path) -> Self {
        Self { base: state_dir.join("postgres") }
    }

    /// Kills its first process, as `kill -9`; the others leave by themselves.
    pub fn kill_9(&self) -> Result<()> {
        let pid_file = fs::read_to_string(self.base.join("data/postmaster.pid"))?;
        let pid = pid_file.lines().next().context("an empty postmaster.pid")?.trim().parse()?;
        Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?)
    }

    /// Stops every process of it, until what is returned is dropped: nobody is answered, and nobody refused.
    pub fn stand_still(&self) -> Result<StandingStill> {
        let standing_still = StandingStill(self.processes());
        ensure!(!standing_still.0.is_empty(), "no Postgres runs in {}", self.base.display());
        standing_still.signal(Signal::SIGSTOP);
        Ok(standing_still)
    }

    /// Those that work in its data directory.
    fn processes(&self) -> Vec<Pid> {
        let data_dir = self.base.join("data");
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let works_there = |entry: fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let works_in = fs::read_link(entry.path().join("cwd")).ok()?;
            (works_in == data_dir).then(|| Pid::from_raw(pid))
        };
        entries.filter_map(works_there).collect()
    }

    /// What psql prints for a statement: a row a line, fields with a space between them.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.sql_as("cgfleet", statement)
    }

    /// The same as another role of the database.
    pub fn sql_as(&self, role: &str, statement: &str) -> Result<String> {
        let output = Command::new("psql")
            .args(["-XAtF", " ", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", "cgfleet", "-c", statement])
            .arg("-h")
            .arg(self.base.join("run"))
            .output()
            .context("run psql (package postgresql-client)")?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Processes that are stopped; they go on when it is dropped.
#[derive(Debug)]
pub struct StandingStill(Vec<Pid>);

impl StandingStill {
    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            match kill(*pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => eprintln!("{signal} to {pid}: {error}"),
            }
        }
    }
}

impl Drop for StandingStill {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}
