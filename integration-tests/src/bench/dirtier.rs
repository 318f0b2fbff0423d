//! Makes every cgroup of a tree dirty: a process passes through them all and runs a moment in each, so
//! that rstat has something to flush in each.

use std::{
    fs,
    path::{Path, PathBuf},
    process, slice,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::sched_yield;

use super::{
    files::{CPU_STAT, CgroupFiles},
    trees::Grown,
    worker::{self, Worker},
};

pub(super) const NAME: &str = "dirtier";

/// The process, at rest outside of the tree.
#[derive(Debug)]
pub(super) struct Dirtier(Worker);

impl Dirtier {
    /// Starts it for a tree, and sees that each of the cgroups really gets CPU time.
    pub(super) fn start(grown: &Grown) -> Result<Self> {
        let top = grown.tree.directory("").display().to_string();
        let mut dirtier = Self(Worker::start(NAME, &[], slice::from_ref(&top))?);
        let cpu_stats = CgroupFiles::of(top.into(), &grown.directories, &[CPU_STAT])?;
        let before = cpu_stats.first_numbers()?;
        dirtier.pass_through()?;
        let after = cpu_stats.first_numbers()?;
        let grew = before.iter().zip(&after).filter(|(before, after)| after > before).count();
        ensure!(grew == grown.directories.len(), "only {grew} of {} got CPU time", grown.directories.len());
        Ok(dirtier)
    }

    /// Runs a moment in each cgroup.
    pub(super) fn pass_through(&mut self) -> Result<()> {
        self.0.ask().map(drop)
    }
}

/// The process: `arguments` are the directory of the tree's top, which is one below the mount's root.
pub(super) fn work(arguments: &[String]) -> Result<()> {
    let top = Path::new(arguments.first().context("no tree is named")?);
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("this host has no cgroup v2")?;
    let home = top.parent().context("a tree is below a mount")?.join(own).join("cgroup.procs");
    let mut procs = Vec::new();
    add_procs(top, &mut procs)?;
    let pid = process::id().to_string();
    let enter =
        |procs: &PathBuf| fs::write(procs, &pid).with_context(|| format!("enter {}", procs.display()));
    worker::serve(|| {
        for procs in &procs {
            enter(procs)?;
            // The scheduler puts what was run so far to the account of the cgroup it was run in when it
            // picks the next task (kernel/sched/fair.c, update_curr).
            sched_yield()?;
        }
        enter(&home)?;
        Ok(String::new())
    })
}

fn add_procs(directory: &Path, procs: &mut Vec<PathBuf>) -> Result<()> {
    procs.push(directory.join("cgroup.procs"));
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            add_procs(&entry.path(), procs)?;
        }
    }
    Ok(())
}
