//! Cgroups that were freed while no agent ran: their places in a collector's maps are given back.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use crate::{
    cgroupfs::{Hierarchies, Hierarchy, children, open_child},
    kernel::{CgroupKey, Collector},
};

use super::fold::{Merge, level};

/// Gives them back, children first, so that what they counted stays in what is still there.
pub(super) fn release(collector: &Collector, merge: Merge, hierarchies: &Hierarchies) -> io::Result<()> {
    let parents: HashMap<CgroupKey, u64> =
        collector.totals()?.into_iter().map(|(key, total)| (key, total.parent_id)).collect();
    // A namespace shows a part of the tree only.
    if parents.is_empty() || hierarchies.has_namespace() {
        return Ok(());
    }
    let mut there = HashSet::new();
    let used: HashSet<u32> = parents.keys().map(|key| key.hierarchy_id).collect();
    for hierarchy in hierarchies.iter().filter(|hierarchy| used.contains(&hierarchy.id)) {
        add_all(hierarchy, hierarchies, &mut there)?;
    }
    let mut gone: Vec<CgroupKey> = parents.keys().copied().filter(|key| !there.contains(key)).collect();
    gone.sort_by_cached_key(|key| Reverse(level(*key, &parents)));
    gone.into_iter().try_for_each(|key| collector.release(key, |to, from| merge.add(to, from)))
}

/// Folds what was counted while nothing folded, children first.
pub(super) fn settle(collector: &Collector, merge: Merge) -> io::Result<()> {
    let parents: HashMap<CgroupKey, u64> =
        collector.totals()?.into_iter().map(|(key, total)| (key, total.parent_id)).collect();
    let mut keys: Vec<CgroupKey> = parents.keys().copied().collect();
    keys.sort_by_cached_key(|key| Reverse(level(*key, &parents)));
    collector.settle(&keys, |to, from| merge.add(to, from))
}

/// Adds every cgroup of a hierarchy that has a directory.
fn add_all(
    hierarchy: &Hierarchy,
    hierarchies: &Hierarchies,
    there: &mut HashSet<CgroupKey>,
) -> io::Result<()> {
    let hierarchy_id = hierarchy.id;
    let root = hierarchies.locate_in(hierarchy_id, b"/")?;
    there.insert(CgroupKey { hierarchy_id, cgroup_id: root.cgroup_id });
    add_below(root.directory.as_fd(), hierarchy_id, there)
}

/// Goes down before it goes on, so that no more directories are open than there are levels.
fn add_below(directory: BorrowedFd<'_>, hierarchy_id: u32, there: &mut HashSet<CgroupKey>) -> io::Result<()> {
    for child in children(directory)? {
        there.insert(CgroupKey { hierarchy_id, cgroup_id: child.cgroup_id });
        if let Some(directory) = open_child(directory, &child)? {
            add_below(directory.as_fd(), hierarchy_id, there)?;
        }
    }
    Ok(())
}
