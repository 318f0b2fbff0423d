//! What the kernel and memory.stat say of some cgroups at the same time: the evidence for where the
//! kernel's memory statistics are.

use std::{collections::VecDeque, ffi::OsStr, fs, os::fd::AsFd as _, os::unix::ffi::OsStrExt as _};

use cgfleet_ebpf::abi;

use super::memory_stat::Observation;
use crate::{
    cgroupfs::{Hierarchies, Hierarchy},
    kernel::{Kernel, Start, WalkRequest},
};

/// Cgroups that are looked at, from the root down.
const CGROUPS_MAX: usize = 64;

/// Observes cgroups of the hierarchy that has the memory controller.
pub(super) fn observe(kernel: &mut Kernel, hierarchies: &Hierarchies) -> Vec<Observation> {
    let Some(hierarchy) = hierarchies.by_name("memory").or_else(|| hierarchies.by_id(0)) else {
        return Vec::new();
    };
    let mut waiting = VecDeque::from([b"/".to_vec()]);
    let mut observations = Vec::new();
    let mut looked_at = 0;
    while let Some(path) = waiting.pop_front() {
        if looked_at == CGROUPS_MAX {
            break;
        }
        looked_at += 1;
        observations.extend(observe_one(kernel, hierarchies, hierarchy, &path));
        waiting.extend(children(hierarchy, &path));
    }
    observations
}

/// `None` if the cgroup is gone, or has no memory controller.
fn observe_one(
    kernel: &mut Kernel,
    hierarchies: &Hierarchies,
    hierarchy: &Hierarchy,
    path: &[u8],
) -> Option<Observation> {
    let file = hierarchy.directory(path)?.join("memory.stat");
    let located = hierarchies.locate_in(hierarchy.id, path).ok()?;
    let start = Start::Directory(located.directory.as_fd());
    let request =
        WalkRequest { groups: abi::CG_GROUP_MEMORY_STAT, ..WalkRequest::of(start, abi::CG_ORDER_SELF_ONLY) };
    let before = fs::read_to_string(&file).ok()?;
    let drained = kernel.walk_slice(&request, None).ok()?;
    let after = fs::read_to_string(&file).ok()?;
    let is_valid = drained.records.first()?.valid & abi::CG_GROUP_MEMORY_STAT != 0;
    let stat = *drained.memory_stats.first().filter(|_| is_valid)?;
    Some(Observation { stat, before, after, is_v2: hierarchy.is_v2() })
}

fn children(hierarchy: &Hierarchy, path: &[u8]) -> Vec<Vec<u8>> {
    let below = |name: &OsStr| {
        let parent = path.strip_suffix(b"/").unwrap_or(path);
        [parent, b"/", name.as_bytes()].concat()
    };
    let entries = hierarchy
        .directory(path)
        .and_then(|directory| fs::read_dir(directory).ok())
        .into_iter()
        .flatten()
        .flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| below(&entry.file_name())).collect()
}
