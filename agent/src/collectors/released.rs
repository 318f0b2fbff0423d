//! Cgroups that were freed while no agent ran: their places in a collector's maps are given back.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use crate::{
    cgroupfs::{Hierarchies, Hierarchy, children, open_child},
    kernel::{CgroupKey, Collector},
};

use super::fold::{Merge, children_first};

/// Gives them back, children first, so that what they counted stays in what is still there.
pub(super) fn release(collector: &Collector, merge: Merge, hierarchies: &Hierarchies) -> io::Result<()> {
    let keys = keys(collector)?;
    // A namespace shows a part of the tree only.
    if keys.is_empty() || hierarchies.has_namespace() {
        return Ok(());
    }
    let mut there = HashSet::new();
    let used: HashSet<u32> = keys.iter().map(|key| key.hierarchy_id).collect();
    for hierarchy in hierarchies.iter().filter(|hierarchy| used.contains(&hierarchy.id)) {
        add_all(hierarchy, hierarchies, &mut there)?;
    }
    let mut gone = keys.into_iter().filter(|key| !there.contains(key));
    gone.try_for_each(|key| collector.release(key, |to, from| merge.add(to, from)))
}

/// Folds what was counted while nothing folded, children first.
pub(super) fn settle(collector: &Collector, merge: Merge) -> io::Result<()> {
    collector.settle(&keys(collector)?, |to, from| merge.add(to, from))
}

/// The cgroups that have a place, children first.
fn keys(collector: &Collector) -> io::Result<Vec<CgroupKey>> {
    let totals = collector.totals()?.into_iter();
    Ok(children_first(&totals.map(|(key, total)| (key, total.parent_id)).collect()))
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
