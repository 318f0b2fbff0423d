//! Processes that an earlier server left on the data directory: a whole Postgres if the server was
//! killed, sessions for a moment if its Postgres was. Two on one directory must never be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use super::{
    FAST_STOP_DEADLINE, IMMEDIATE_STOP_DEADLINE, POLL_INTERVAL, PrivatePostgresError, cluster::Cluster,
};

/// Ends them and returns when they are gone.
pub(super) async fn stop_leftovers(cluster: &Cluster) -> Result<(), PrivatePostgresError> {
    let data_dir = cluster.data_dir();
    // Sessions without a postmaster notice that and leave; a postmaster is told to end its own.
    let postmaster = PidFile::of(&data_dir).postmaster();
    let found = processes_in(&data_dir);
    if found.is_empty() {
        return Ok(());
    }
    tracing::warn!(processes = found.len(), "stopping the Postgres that a killed server left running");
    signal_all(&data_dir, Signal::SIGINT, found.into_iter().filter(|pid| Some(*pid) == postmaster))?;
    if gone_within(&data_dir, FAST_STOP_DEADLINE).await {
        return Ok(());
    }
    signal_all(&data_dir, Signal::SIGQUIT, processes_in(&data_dir).into_iter())?;
    if gone_within(&data_dir, IMMEDIATE_STOP_DEADLINE).await {
        return Ok(());
    }
    let (operation, limit) = ("stopping the Postgres of a killed server", IMMEDIATE_STOP_DEADLINE);
    Err(PrivatePostgresError::Timeout { operation, limit, log: cluster.log_tail() })
}

async fn gone_within(data_dir: &Path, patience: std::time::Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !processes_in(data_dir).is_empty() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
    true
}

/// Live processes of a Postgres on this directory: it is the working directory of each. The number
/// in the pid file alone proves nothing, as it outlives a crash and may since belong to anybody.
fn processes_in(data_dir: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let works_there = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // Unreadable for processes of other users, which cannot be ours.
        let works_in = fs::read_link(entry.path().join("cwd")).ok()?;
        (works_in == data_dir).then(|| Pid::from_raw(pid))
    };
    entries.filter_map(works_there).collect()
}

fn signal_all(
    data_dir: &Path,
    signal: Signal,
    pids: impl Iterator<Item = Pid>,
) -> Result<(), PrivatePostgresError> {
    for pid in pids {
        match kill(pid, signal) {
            // ESRCH: it ended by itself meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                let (operation, path) = ("stop the Postgres that runs on", data_dir.to_owned());
                return Err(PrivatePostgresError::StateDir { operation, path, source: error.into() });
            }
        }
    }
    Ok(())
}

/// `postmaster.pid`: in its first line a process id, in its eighth how far the start is
/// (src/include/utils/pidfile.h).
pub(super) struct PidFile(PathBuf);

impl PidFile {
    pub(super) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("postmaster.pid"))
    }

    /// Whether this postmaster accepts connections.
    pub(super) fn says_ready(&self, postmaster: u32) -> bool {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(&postmaster.to_string()) && lines.nth(6) == Some("ready")
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(&self.0).ok()?;
        text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
    }
}
