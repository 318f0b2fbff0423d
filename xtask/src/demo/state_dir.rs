//! The directory in which the demo's daemons keep their state and logs.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Below the directory: server/<cluster>/postmaster.pid, with room for one level more.
const PID_FILE_DEPTH_MAX: usize = 3;
const END_WITHIN: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Removed when dropped, together with a Postgres that still runs in it.
pub(super) struct StateDir(TempDir);

impl StateDir {
    /// A fresh directory that the unprivileged daemons reach too: not below the checkout, which
    /// may lie in a home directory of mode 0700.
    pub(super) fn create() -> Result<Self> {
        let parents = ["/var/tmp".into(), "/tmp".into(), env::temp_dir()];
        let made = parents.iter().find_map(|dir| TempDir::with_prefix_in("cgfleet-demo-", dir).ok());
        let dir = made.context("no directory can be made in /var/tmp, /tmp or TMPDIR")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .context("open the demo's directory")?;
        Ok(Self(dir))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes it and says if that fails.
    pub(super) fn remove(self) -> Result<()> {
        end_orphaned_postgres(self.path());
        fs::remove_dir_all(self.path()).with_context(|| format!("remove {}", self.path().display()))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        end_orphaned_postgres(self.path());
    }
}

/// Ends a Postgres that a killed server left behind in its state directory.
fn end_orphaned_postgres(dir: &Path) {
    for pid_file in files_named("postmaster.pid", dir, PID_FILE_DEPTH_MAX) {
        let text = fs::read_to_string(&pid_file).unwrap_or_default();
        let first = text.lines().next().and_then(|line| line.trim().parse().ok());
        let Some(pid) = first.and_then(Pid::from_raw) else { continue };
        // The number may be another process's by now; the postmaster works in its data directory.
        let cwd = format!("/proc/{}/cwd", pid.as_raw_nonzero());
        let runs = || fs::read_link(&cwd).is_ok_and(|works_in| Some(works_in.as_path()) == pid_file.parent());
        if !runs() {
            continue;
        }
        eprintln!("ending the Postgres that was left behind: {}", pid_file.display());
        // SIGQUIT is Postgres's immediate shutdown; its data goes away with the directory.
        let _ = kill_process(pid, Signal::QUIT);
        let deadline = Instant::now() + END_WITHIN;
        while runs() && Instant::now() < deadline {
            thread::sleep(POLL_EVERY);
        }
    }
}

fn files_named(name: &str, dir: &Path, depth_max: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name() == name {
            found.push(entry.path());
        } else if depth_max > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_named(name, &entry.path(), depth_max - 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(works_in: &Path) -> Child {
        Command::new("sleep").arg("600").current_dir(works_in).spawn().unwrap()
    }

    #[test]
    fn a_postgres_that_was_left_behind_ends_with_its_directory() {
        let dir = StateDir::create().unwrap();
        let data = dir.path().join("server/postgres");
        fs::create_dir_all(&data).unwrap();
        let mut postmaster = sleeper(&data);
        fs::write(data.join("postmaster.pid"), format!("{}\n", postmaster.id())).unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!postmaster.wait().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn a_process_that_works_elsewhere_is_not_ours() {
        let dir = StateDir::create().unwrap();
        let mut stranger = sleeper(Path::new("/"));
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", stranger.id())).unwrap();
        dir.remove().unwrap();
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
