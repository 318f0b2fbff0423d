//! Removed cgroups are reported, each once, with the values that they had in the end.
//!
//! The agent's walker and its kernel side are used directly, as root, and by an agent's stream of changes.

mod after_walks;
mod kernel_side;
mod streamed;
mod watched;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_agent::{
    cgroupfs::Hierarchies,
    collectors::Collectors,
    kernel::{Bounds, Kernel, Lifecycle, Start, WalkRequest, with_loader},
    walker::{Engine, Walker, WalkerLimits},
    workloads::Workloads,
};
use cgfleet_ebpf::abi;
use integration_tests::cgroups::TestTree;
use tokio::sync::Mutex;

/// What one test removes, all are told of.
pub(crate) static ALONE: Mutex<()> = Mutex::const_new(());

/// The default of removed_slots_max.
pub(crate) const SLOTS: u32 = 8192;

pub(crate) fn kernel() -> Result<Kernel> {
    let slice_max = Duration::from_micros(200);
    let bounds = Bounds { records_max: 4096, locked_visits_max: 4096, names_max: 8192, slice_max };
    Ok(with_loader(|loader| Kernel::load(loader, bounds))?)
}

pub(crate) fn load_lifecycle(slots: u32) -> Result<Lifecycle> {
    Ok(with_loader(|loader| Lifecycle::load(loader, slots))?)
}

/// The directory of what is mounted as the root of cgroup v2, and its id.
pub(crate) fn root() -> Result<(File, u64)> {
    let root = Hierarchies::read()?.locate_in(0, b"/")?;
    Ok((root.directory, root.cgroup_id))
}

/// A walker that can watch removals.
pub(crate) fn walker(slots: u32, kept_max: u32) -> Result<Walker> {
    let hierarchies = Hierarchies::read()?;
    let (collectors, workloads) = (Collectors::none("not needed"), Workloads::new(Path::new("/none")));
    let engine = Engine::new(Ok(kernel()?), collectors, workloads, &hierarchies, 1_000_000);
    let engine = engine.with_lifecycle(load_lifecycle(slots)?, kept_max);
    let limits = WalkerLimits {
        queue_max: 64,
        walk_waiters_max: 64,
        kept_rows_max: 0,
        flush_waiters_max: 64,
        flushes_per_second_max: 100,
    };
    Ok(Walker::start(engine, limits)?)
}

/// Whether this kernel tells final CPU time.
pub(crate) fn holds() -> Result<bool> {
    let holds = load_lifecycle(16)?.holds();
    // Any kernel but the oldest that has the iterator.
    let is_oldest = fs::read_to_string("/proc/sys/kernel/osrelease")?.starts_with("6.1.");
    ensure!(holds != is_oldest, "final CPU time: {holds}");
    Ok(holds)
}

/// CPU time of a cgroup, in ns, just flushed.
pub(crate) fn flushed_usage_ns(kernel: &mut Kernel, directory: &File) -> Result<u64> {
    let start = Start::Directory(directory.as_fd());
    let request =
        WalkRequest { groups: abi::CG_GROUP_CPU, ..WalkRequest::of(start, abi::CG_ORDER_SELF_ONLY) };
    kernel.flush_topmost(&request)?;
    let drained = kernel.walk_slice(&request, None)?;
    let record = drained.records.first().context("a record")?;
    ensure!(record.valid == abi::CG_GROUP_CPU, "{record:?}");
    Ok(record.cpu_usage_ns)
}

/// Removed descendants that the kernel has not freed.
pub(crate) fn dying_below(tree: &TestTree) -> Result<u64> {
    let text = fs::read_to_string(tree.directory("").join("cgroup.stat"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("nr_dying_descendants "));
    Ok(value.context("cgroup.stat has no nr_dying_descendants")?.parse()?)
}

/// A process that uses some CPU time in each of these cgroups, one after the other, and then leaves for
/// another: of what it does there, nothing is charged to them, however late.
pub(crate) fn work_through(tree: &TestTree, cgroups: &[String], then: &str) -> Result<Child> {
    let script = "for cgroup do echo $$ > \"$cgroup/cgroup.procs\" || exit 1; \
                  i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; done";
    let directories: Vec<PathBuf> =
        cgroups.iter().map(String::as_str).chain([then]).map(|below| tree.directory(below)).collect();
    let mut worker = Command::new("sh")
        .args(["-c", &format!("{script}; echo done; read line"), "sh"])
        .args(directories)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let output = worker.stdout.as_mut().context("its output")?;
    BufReader::new(output).read_line(&mut said)?;
    ensure!(said == "done\n", "the worker said {said:?}");
    Ok(worker)
}
