//! What the kernel says that a process and its threads may do.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// A thread's /proc/PID/task/TID/status.
struct Status(String);

impl Status {
    fn of(task: &Path) -> Result<Self> {
        let path = task.join("status");
        Ok(Self(fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?))
    }

    fn value(&self, key: &str) -> Result<&str> {
        let mut pairs = self.0.lines().filter_map(|line| line.split_once(':'));
        let found = pairs.find(|(name, _)| *name == key).map(|(_, value)| value.trim());
        found.with_context(|| format!("no {key} in {}", self.0))
    }

    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        self.value(key)?.split_whitespace().map(|id| Ok(id.parse()?)).collect()
    }
}

/// Checks that no thread of the process is root, holds a capability in any set, or can gain one. Gives
/// the user that all of them are, and prints them.
pub fn check_unprivileged(pid: u32) -> Result<u32> {
    let mut users = Vec::new();
    for task in tasks(pid)? {
        let status = Status::of(&task)?;
        let what = format!("{} ({})", status.value("Name")?, task.display());
        let (uids, gids, groups) = (status.ids("Uid")?, status.ids("Gid")?, status.ids("Groups")?);
        println!("{what}: Uid {uids:?} Gid {gids:?} Groups {groups:?}");
        ensure!(uids.len() == 4 && !uids.contains(&0) && !gids.contains(&0), "{what}: {}", status.0);
        ensure!(groups.iter().all(|group| gids.contains(group)), "{what} is in groups {groups:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let held = u64::from_str_radix(status.value(set)?, 16)?;
            ensure!(held == 0, "{what} has {set} {held:x}");
        }
        ensure!(status.value("NoNewPrivs")? == "1", "{what} could gain privileges by executing a program");
        users.extend(uids);
    }
    let user = *users.first().context("a process has a thread")?;
    ensure!(users.iter().all(|found| *found == user), "several users: {users:?}");
    Ok(user)
}

fn tasks(pid: u32) -> Result<Vec<PathBuf>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("threads of {pid}"))?;
    tasks.map(|task| Ok(task?.path())).collect()
}

/// The processes that a process started and those started, still there.
pub fn descendants(pid: u32) -> Result<Vec<u32>> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at) {
        for task in tasks(*parent)? {
            let children = fs::read_to_string(task.join("children"))?;
            let children: Vec<u32> = children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            found.extend(children);
        }
        at += 1;
    }
    Ok(found.split_off(1))
}

/// Checks that the directory is this user's, and that nobody else may look into it.
pub fn check_closed_to_others(directory: &Path, user: u32) -> Result<()> {
    let found = fs::metadata(directory)?;
    ensure!(found.uid() == user, "{} is of user {}", directory.display(), found.uid());
    ensure!(found.mode() & 0o077 == 0, "{} has mode {:o}", directory.display(), found.mode());
    Ok(())
}
