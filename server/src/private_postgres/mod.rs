//! A Postgres of the server's own, for when no DATABASE_URL is given: made, started and stopped with
//! the server and as the same user, reachable only through a socket in its state directory.
//!
//! Must not know: SQL beyond what makes role and database, or what is stored.

mod binaries;
mod cluster;
mod dump;
mod error;
mod leftovers;
mod restarts;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use self::{
    binaries::Binaries,
    cluster::Cluster,
    leftovers::PidFile,
    restarts::{Restart, Restarts},
};
pub use self::{
    dump::{backup, restore},
    error::PrivatePostgresError,
};
use crate::store::Database;

/// The name of the role and of its database.
const ROLE: &str = "cgfleet";

/// Part of the socket's name; nothing listens on a port.
const PORT: u16 = 5432;

/// How long Postgres may take to accept connections: after a crash it first replays its log.
const START_DEADLINE: Duration = Duration::from_mins(2);

/// How long a fast shutdown may take, which ends sessions and writes a checkpoint.
const FAST_STOP_DEADLINE: Duration = Duration::from_mins(1);

/// How long an immediate shutdown may take, which only ends processes; the next start replays.
const IMMEDIATE_STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Time between two looks at a process that cannot be awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a private Postgres needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivatePostgresOptions {
    /// The server's state directory, which exists; Postgres gets `postgres` in it.
    pub state_dir: PathBuf,
    /// Where initdb and postgres are; found by themselves if not given.
    pub bin_dir: Option<PathBuf>,
}

/// A running private Postgres. If it is dropped without [`stop`](Self::stop), it is told to stop and
/// not waited for.
#[derive(Debug)]
pub struct PrivatePostgres {
    postmaster: Child,
    cluster: Cluster,
    socket_dir: PathBuf,
    bin_dir: PathBuf,
}

impl PrivatePostgres {
    /// Starts it, after making its data directory if there is none and stopping what a killed server
    /// left running. Returns when it accepts connections. Postgres refuses to run as root.
    pub async fn start(options: &PrivatePostgresOptions) -> Result<Self, PrivatePostgresError> {
        let cluster = Cluster::lock(&options.state_dir)?;
        let socket_dir = cluster.socket_dir()?;
        let data_major = cluster.data_major()?;
        let binaries = Binaries::find(options.bin_dir.as_deref(), data_major.as_deref()).await?;
        match data_major {
            Some(found) if found != binaries.major => {
                let (installed, bin_dir) = (binaries.major, binaries.dir);
                let data_dir = cluster.data_dir();
                return Err(PrivatePostgresError::OtherMajor { data_dir, found, installed, bin_dir });
            }
            Some(_) => leftovers::stop_leftovers(&cluster).await?,
            None => {
                let dir = cluster.data_dir();
                tracing::info!(dir = %dir.display(), major = binaries.major, "making a data directory");
                cluster.make_data_dir(&binaries).await?;
            }
        }
        cluster::make_private_dir(&socket_dir)?;
        let postmaster = spawn_postmaster(&binaries.program("postgres"), &cluster, &socket_dir)?;
        let mut postgres = Self { postmaster, cluster, socket_dir, bin_dir: binaries.dir };
        postgres.wait_until_ready().await?;
        tracing::info!(pid = postgres.postmaster.id(), major = binaries.major, "the private Postgres runs");
        Ok(postgres)
    }

    /// Starts Postgres again whenever it ends although nobody stopped it; returns why it was given up. Where its file
    /// system is full, it never is.
    pub async fn keep_running(&mut self, is_full: impl Fn() -> bool) -> PrivatePostgresError {
        let mut restarts = Restarts::default();
        let mut error = self.exited().await;
        loop {
            match restarts.next(Instant::now().into_std(), is_full()) {
                Restart::After(pause) => {
                    tracing::error!(%error, "the private Postgres has ended, starting it again");
                    sleep(pause).await;
                }
                Restart::GiveUp { times, within } => {
                    return PrivatePostgresError::GivenUp { times, within, last: error.to_string() };
                }
            }
            error = match self.start_again().await {
                Ok(()) => self.exited().await,
                Err(error) => error,
            };
        }
    }

    /// Starts it on the same data, after what was left of it has gone.
    async fn start_again(&mut self) -> Result<(), PrivatePostgresError> {
        leftovers::stop_leftovers(&self.cluster).await?;
        self.postmaster = spawn_postmaster(&self.bin_dir.join("postgres"), &self.cluster, &self.socket_dir)?;
        self.wait_until_ready().await?;
        tracing::info!(pid = self.postmaster.id(), "the private Postgres runs again");
        Ok(())
    }

    /// The database, for the store to connect to.
    pub fn database(&self) -> Database {
        Database::Socket {
            socket_dir: self.socket_dir.clone(),
            port: PORT,
            role: ROLE.to_owned(),
            name: ROLE.to_owned(),
        }
    }

    /// Where its programs are.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The process id of its first process; `None` once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.id()
    }

    /// Returns when Postgres has ended although nobody stopped it, and says how.
    pub async fn exited(&mut self) -> PrivatePostgresError {
        match self.postmaster.wait().await {
            Ok(status) => PrivatePostgresError::Exited { status, log: self.cluster.log_tail() },
            Err(source) => PrivatePostgresError::Run { program: "postgres".into(), source },
        }
    }

    /// Stops it: sessions end, everything is written. If that takes too long it is cut short, which
    /// loses nothing but makes the next start slower.
    pub async fn stop(mut self) {
        for (signal, deadline) in
            [(Signal::SIGINT, FAST_STOP_DEADLINE), (Signal::SIGQUIT, IMMEDIATE_STOP_DEADLINE)]
        {
            self.signal(signal);
            if timeout(deadline, self.postmaster.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(%signal, ?deadline, "the private Postgres does not stop");
        }
        if let Err(error) = self.postmaster.kill().await {
            tracing::error!(%error, "cannot kill the private Postgres");
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), PrivatePostgresError> {
        let deadline = Instant::now() + START_DEADLINE;
        let pid_file = PidFile::of(&self.cluster.data_dir());
        while !self.postmaster.id().is_some_and(|pid| pid_file.says_ready(pid)) {
            if let Ok(status) = timeout(POLL_INTERVAL, self.postmaster.wait()).await {
                let status = status
                    .map_err(|source| PrivatePostgresError::Run { program: "postgres".into(), source })?;
                return Err(PrivatePostgresError::Exited { status, log: self.cluster.log_tail() });
            }
            if Instant::now() > deadline {
                let (operation, limit) = ("starting Postgres", START_DEADLINE);
                return Err(PrivatePostgresError::Timeout { operation, limit, log: self.cluster.log_tail() });
            }
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // No id means that it has ended and was reaped.
        let Some(pid) = self.postmaster.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            tracing::warn!(pid, %signal, %error, "cannot signal the private Postgres");
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
    }
}

fn spawn_postmaster(
    program: &Path,
    cluster: &Cluster,
    socket_dir: &Path,
) -> Result<Child, PrivatePostgresError> {
    cluster.begin_log()?;
    postmaster_command(program, cluster, socket_dir)
        .stdout(cluster.append_to_log()?)
        .stderr(cluster.append_to_log()?)
        .spawn()
        .map_err(|source| PrivatePostgresError::Run { program: program.to_owned(), source })
}

/// What must be so is said here, where postgresql.conf cannot change it; sizes and costs are left to
/// postgresql.conf.
fn postmaster_command(program: &Path, cluster: &Cluster, socket_dir: &Path) -> Command {
    let mut command = cluster.command(program);
    command.arg("-D").arg(cluster.data_dir());
    // A list of quoted paths, or a comma in the path would end it.
    let socket_dirs = format!("\"{}\"", socket_dir.display().to_string().replace('"', "\"\""));
    for (name, value) in [
        ("listen_addresses", ""),
        ("port", &PORT.to_string()),
        ("unix_socket_directories", &socket_dirs),
        ("unix_socket_permissions", "0700"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("log_checkpoints", "off"),
        ("log_timezone", "UTC"),
        ("timezone", "UTC"),
        ("cluster_name", "cgfleet"),
    ] {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    // Its own process group: Ctrl-C in the server's terminal is for the server, which stops it.
    command.process_group(0).stdin(Stdio::null());
    command
}
