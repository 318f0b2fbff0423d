//! Names and paths of cgroups: the kernel sends a name once, paths are put together here.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use cgfleet_ebpf::abi::cg_record;
use cgfleet_model::escape_path;
use rustc_hash::FxHashMap;

use crate::kernel::Name;

/// A cgroup among all hierarchies: hierarchy id, cgroup id.
type NodeKey = (u32, u64);

#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    /// The kernel's hash of the name, `None` until a record told.
    name_hash: Option<u32>,
    /// 0 for a root, `None` until a record told.
    parent_id: Option<u64>,
    /// Cached; cgroups do not move, and a v1 rename drops every path of its hierarchy.
    path: Option<Arc<str>>,
    seen_at: Instant,
}

/// The cgroups whose names are known. Paths are as the mounts show them: a cgroup above what is mounted
/// is `/..`, and the one above that `/../..`, as in /proc/self/cgroup in a cgroup namespace (cgroups(7)).
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Every row of every walk is looked up here, and its keys are the kernel's own.
    nodes: FxHashMap<NodeKey, Node>,
    /// By hierarchy: the cgroup that its mount shows as the root.
    mounted: HashMap<u32, u64>,
}

impl Tree {
    /// A tree of hierarchies that are mounted like this: hierarchy id, id of the mount's root.
    pub(super) fn mounted(mounted: impl IntoIterator<Item = (u32, u64)>) -> Self {
        Self { nodes: FxHashMap::default(), mounted: mounted.into_iter().collect() }
    }

    /// Takes in a name that the kernel sent.
    pub(super) fn name(&mut self, name: Name, now: Instant) {
        let Name { hierarchy_id, cgroup_id, name } = name;
        let key = (hierarchy_id, cgroup_id);
        let renamed = self.nodes.get(&key).is_some_and(|node| node.name != name);
        if renamed {
            let same_hierarchy = self.nodes.iter_mut().filter(|(other, _)| other.0 == key.0);
            same_hierarchy.for_each(|(_, node)| node.path = None);
        }
        let parent_id = self.nodes.get(&key).and_then(|node| node.parent_id);
        self.nodes.insert(key, Node { name, name_hash: None, parent_id, path: None, seen_at: now });
    }

    /// Takes in where a cgroup hangs, and says whether its name is known. A name that hashes
    /// differently than it did is another one (v1 cgroups can be renamed) and so not known.
    pub(super) fn link(&mut self, record: &cg_record, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(&(record.hierarchy_id, record.id)) else { return false };
        node.parent_id = Some(record.parent_id);
        node.seen_at = now;
        *node.name_hash.get_or_insert(record.name_hash) == record.name_hash
    }

    /// The path of a cgroup as text; `None` if a name between it and the root is not known, or it is
    /// beside what is mounted.
    pub(super) fn path(&mut self, hierarchy_id: u32, id: u64) -> Option<Arc<str>> {
        let mounted = self.mounted.get(&hierarchy_id).copied();
        let mut below: Vec<u64> = Vec::new();
        let mut at = id;
        let mut path: Arc<str> = loop {
            if mounted == Some(at) {
                break Arc::from("/");
            }
            let node = self.nodes.get(&(hierarchy_id, at))?;
            if let Some(path) = &node.path {
                break Arc::clone(path);
            }
            match (node.parent_id?, mounted) {
                (0, Some(mounted)) => return self.path_above(hierarchy_id, id, mounted),
                (0, None) => break Arc::from("/"),
                (parent, _) => {
                    below.push(at);
                    at = parent;
                }
            }
        };
        while let Some(id) = below.pop() {
            let node = self.nodes.get_mut(&(hierarchy_id, id))?;
            let above = if &*path == "/" { "" } else { &*path };
            path = format!("{above}/{}", escape_path(&node.name)).into();
            node.path = Some(Arc::clone(&path));
        }
        Some(path)
    }

    /// The path of a cgroup above the mount's root; `None` if it is not above it.
    fn path_above(&self, hierarchy_id: u32, id: u64, mounted: u64) -> Option<Arc<str>> {
        let (mut path, mut at) = (String::new(), mounted);
        while at != id {
            at = self.nodes.get(&(hierarchy_id, at))?.parent_id?;
            path.push_str("/..");
        }
        Some(path.into())
    }

    /// Drops the cgroups that no walk has met for `age`, and says whether there were any.
    pub(super) fn drop_unseen(&mut self, age: Duration, now: Instant) -> bool {
        let before = self.nodes.len();
        self.nodes.retain(|_, node| now.duration_since(node.seen_at) <= age);
        self.nodes.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(cgroup_id: u64, name: &[u8]) -> Name {
        Name { hierarchy_id: 0, cgroup_id, name: name.into() }
    }

    /// A tree of `(id, parent, name)`; a parent of 0 is a root.
    fn tree(nodes: &[(u64, u64, &[u8])], now: Instant) -> Tree {
        let mut tree = Tree::default();
        for (id, parent_id, name) in nodes {
            tree.name(self::name(*id, name), now);
            tree.link(&cg_record { id: *id, parent_id: *parent_id, ..cg_record::default() }, now);
        }
        tree
    }

    #[test]
    fn a_path_is_put_together_in_any_order_of_arrival() {
        let mut tree = tree(&[(3, 2, b"c\n"), (2, 1, b"b"), (1, 0, b"")], Instant::now());
        let mut check = |id, expect: Option<&str>| assert_eq!(tree.path(0, id).as_deref(), expect);
        check(3, Some("/b/c\\x0a"));
        check(2, Some("/b"));
        check(1, Some("/"));
        check(4, None);
    }

    #[test]
    fn a_path_needs_every_name_up_to_the_root() {
        let mut tree = tree(&[(3, 2, b"c")], Instant::now());
        assert_eq!(tree.path(0, 3), None);
    }

    #[test]
    fn paths_are_as_the_mount_shows_them() {
        let nodes = [(1, 0, &b""[..]), (2, 1, b"a"), (3, 2, b"b"), (4, 3, b"c"), (5, 2, b"beside")];
        let mut tree = tree(&nodes, Instant::now());
        tree.mounted = HashMap::from([(0, 3)]);
        let mut check = |id, expect: Option<&str>| assert_eq!(tree.path(0, id).as_deref(), expect);
        check(4, Some("/c"));
        check(3, Some("/"));
        check(2, Some("/.."));
        check(1, Some("/../.."));
        check(5, None);
    }

    #[test]
    fn a_rename_changes_the_paths_below() {
        let now = Instant::now();
        let mut tree = tree(&[(1, 0, b""), (2, 1, b"old"), (3, 2, b"c")], now);
        assert_eq!(tree.path(0, 3).as_deref(), Some("/old/c"));
        tree.name(name(2, b"new"), now);
        assert_eq!(tree.path(0, 3).as_deref(), Some("/new/c"));
    }

    #[test]
    fn a_name_is_known_until_it_hashes_differently() {
        let now = Instant::now();
        let mut tree = tree(&[(1, 0, b"")], now);
        let mut check = |id, name_hash, expect| {
            assert_eq!(tree.link(&cg_record { id, name_hash, ..cg_record::default() }, now), expect);
        };
        check(1, 0, true);
        check(1, 7, false);
        check(2, 0, false);
    }

    #[test]
    fn what_no_walk_meets_is_dropped() {
        let start = Instant::now();
        let mut tree = tree(&[(1, 0, b""), (2, 1, b"gone")], start);
        let later = start + Duration::from_mins(1);
        tree.link(&cg_record { id: 1, ..cg_record::default() }, later);
        assert!(tree.drop_unseen(Duration::from_secs(30), later));
        assert_eq!((tree.path(0, 1).as_deref(), tree.path(0, 2)), (Some("/"), None));
    }
}
