//! The demo's own cgroups, with a little work in the leaves.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::subject::Subject;
use crate::checkout::Checkout;

/// Below the demo's cgroup, a parent before its children.
const CGROUPS: [&str; 4] = ["web", "web/worker-1", "web/worker-2", "batch"];
const LEAVES: [&str; 3] = ["web/worker-1", "web/worker-2", "batch"];
/// A killed process leaves its cgroup a moment after it was reaped.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);

/// The cgroups and the processes in them. Dropping it removes both.
pub(super) struct DemoTree {
    mount: PathBuf,
    name: String,
    busy: Vec<Child>,
    removed: bool,
}

impl DemoTree {
    /// Makes them; `None` where we may not.
    pub(super) fn create(checkout: &Checkout, mount: &Path) -> Result<Option<Self>> {
        if rustix::fs::access(mount, rustix::fs::Access::WRITE_OK).is_err() {
            return Ok(None);
        }
        let name = format!("cgfleet-demo-{}", process::id());
        let mut tree = Self { mount: mount.to_owned(), name, busy: Vec::new(), removed: false };
        for cgroup in std::iter::once("").chain(CGROUPS) {
            let dir = tree.dir().join(cgroup);
            fs::create_dir(&dir).with_context(|| format!("create cgroup {}", dir.display()))?;
        }
        for leaf in LEAVES {
            let mut burn = Command::new(&checkout.xtask);
            burn.arg("burn").arg(process::id().to_string()).stdin(Stdio::null());
            // A group of its own: the terminal's Ctrl-C is ours to act upon.
            let child = burn.process_group(0).spawn().context("start a busy process")?;
            let procs = tree.dir().join(leaf).join("cgroup.procs");
            let pid = child.id().to_string();
            tree.busy.push(child);
            fs::write(&procs, pid).with_context(|| format!("move a process by {}", procs.display()))?;
        }
        Ok(Some(tree))
    }

    /// The directory of the demo's topmost cgroup.
    fn dir(&self) -> PathBuf {
        self.mount.join(&self.name)
    }

    /// What there is to ask: the topmost cgroup, and a leaf that has work in it.
    pub(super) fn subject(&self) -> Subject {
        let top = format!("/{}", self.name);
        let leaf = format!("{top}/{}", LEAVES[0]);
        Subject::new(&self.mount, top, leaf)
    }

    pub(super) fn remove(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        for child in &mut self.busy {
            // One that ended by itself cannot be killed, and need not be.
            let _ = child.kill();
            child.wait().context("wait for a busy process")?;
        }
        let deadline = Instant::now() + REMOVE_WITHIN;
        for cgroup in CGROUPS.iter().rev().chain(&[""]) {
            let dir = self.dir().join(cgroup);
            remove_cgroup(&dir, deadline).with_context(|| format!("remove cgroup {}", dir.display()))?;
        }
        Ok(())
    }
}

impl Drop for DemoTree {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

fn remove_cgroup(dir: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

/// Where the v2 hierarchy is mounted: /sys/fs/cgroup, or below it beside v1.
pub(super) fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    find_cgroup2(&mounts).context("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// mountinfo is described in proc_pid_mountinfo(5): the mount point is the fifth field, the type of
/// the file system follows the lone hyphen.
fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        file_system.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4))?.map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_hierarchy_is_found_beside_v1() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:3 - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_cgroup2("32 31 0:29 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu\n"), None);
    }
}
