//! What the kernel and memory.stat say of some cgroups at the same time: the evidence for where the
//! kernel's memory statistics are.

use std::{collections::VecDeque, fs, os::fd::AsFd as _};

use cgfleet_ebpf::abi;

use super::memory_stat::Observation;
use crate::{
    cgroupfs::{Hierarchies, Hierarchy, Located, children},
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
        // One that is gone by now has nothing to tell.
        let Ok(located) = hierarchies.locate_in(hierarchy.id, &path) else { continue };
        observations.extend(observe_one(kernel, hierarchy, &located));
        let below = children(located.directory.as_fd()).unwrap_or_default();
        let parent = path.strip_suffix(b"/").unwrap_or(&path);
        waiting.extend(
            below.iter().take(CGROUPS_MAX).map(|child| [parent, b"/", child.name.as_bytes()].concat()),
        );
    }
    observations
}

/// `None` if the cgroup is gone, or has no memory controller.
fn observe_one(kernel: &mut Kernel, hierarchy: &Hierarchy, located: &Located) -> Option<Observation> {
    let file = hierarchy.directory(&located.path)?.join("memory.stat");
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
