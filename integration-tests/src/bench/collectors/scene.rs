//! Where each collector's events are made: cgroups, files, and a worker in them.

use anyhow::{Context as _, Result};
use cgfleet_model::Collector;
use cgfleet_proto::v1::CgroupTarget;

use super::workload::{Work, Workload};
use crate::{bench::probe::cpus, cgroups::TestTree, load::Stage, walk::by_path};

/// A place for one collector's events. The worker goes first when it is dropped.
pub(super) struct Scene {
    pub(super) workload: Workload,
    /// The cgroup whose sum has the events.
    pub(super) target: CgroupTarget,
    _trees: Vec<TestTree>,
    _stage: Option<Stage>,
}

impl Scene {
    /// Makes it, with a worker that does its work `repeats` times when it is asked.
    pub(super) fn of(collector: Collector, repeats: u32) -> Result<Self> {
        match collector {
            Collector::Attach => attach(repeats),
            Collector::Reclaim => reclaim(repeats),
            Collector::Runqueue => runqueue(repeats),
            Collector::BlockIo => block_io(repeats),
        }
    }
}

/// A process moves from one cgroup to another and back.
fn attach(repeats: u32) -> Result<Scene> {
    let tree = TestTree::v2()?;
    tree.make("a")?;
    tree.make("b")?;
    let workload = Workload::start(Work::Move, repeats, &[], &[tree.directory("a"), tree.directory("b")])?;
    Ok(Scene { workload, target: by_path(tree.path("")), _trees: vec![tree], _stage: None })
}

/// Two threads on one CPU hand each other a byte.
fn runqueue(repeats: u32) -> Result<Scene> {
    let tree = TestTree::v2()?;
    let cpu = *cpus()?.last().context("a process has a CPU")?;
    let workload = Workload::start(Work::Switch { cpu }, repeats, &[tree.directory("")], &[])?;
    Ok(Scene { workload, target: by_path(tree.path("")), _trees: vec![tree], _stage: None })
}

/// A process asks for its own memory to be reclaimed, of which nothing can be.
fn reclaim(repeats: u32) -> Result<Scene> {
    let tree = TestTree::v2()?;
    tree.make("r")?;
    let target = by_path(tree.path("r"));
    if let Some(v1) = tree.beside_on_v1("memory")? {
        let joins = [tree.directory("r"), v1.directory("")];
        let workload =
            Workload::start(Work::Reclaim, repeats, &joins, &[v1.directory("memory.force_empty")])?;
        return Ok(Scene { workload, target, _trees: vec![tree, v1], _stage: None });
    }
    tree.enable_controllers("")?;
    let joins = [tree.directory("r")];
    let workload = Workload::start(Work::Reclaim, repeats, &joins, &[tree.directory("r/memory.reclaim")])?;
    Ok(Scene { workload, target, _trees: vec![tree], _stage: None })
}

/// A process reads blocks of a disk, past the page cache.
fn block_io(repeats: u32) -> Result<Scene> {
    let stage = Stage::make()?;
    let (tree, hierarchy) = match TestTree::v1("blkio")? {
        Some(v1) => (v1, "blkio"),
        None => (TestTree::v2()?, ""),
    };
    tree.enable_controllers("")?;
    tree.make("d")?;
    let target = CgroupTarget { hierarchy: hierarchy.to_owned(), ..by_path(tree.path("d")) };
    let disk = stage.place(Vec::new()).disk;
    let workload = Workload::start(Work::Read, repeats, &[tree.directory("d")], &[disk])?;
    Ok(Scene { workload, target, _trees: vec![tree], _stage: Some(stage) })
}
