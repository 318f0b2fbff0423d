//! Names and paths of cgroups: the kernel sends a name once, paths are put together here.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use cgfleet_ebpf::abi::{cg_key, cg_record};
use cgfleet_model::escape_path;

/// A cgroup among all hierarchies: hierarchy id, cgroup id.
type NodeKey = (u32, u64);

#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    /// 0 for a root, `None` until a record told.
    parent_id: Option<u64>,
    /// Cached; cgroups do not move, and a v1 rename drops every path of its hierarchy.
    path: Option<Arc<str>>,
    seen_at: Instant,
}

/// The cgroups whose names are known.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: HashMap<NodeKey, Node>,
}

impl Tree {
    /// Takes in a name that the kernel sent.
    pub(super) fn name(&mut self, key: cg_key, name: Box<[u8]>, now: Instant) {
        let key = (key.hierarchy_id, key.id);
        let renamed = self.nodes.get(&key).is_some_and(|node| node.name != name);
        if renamed {
            let same_hierarchy = self.nodes.iter_mut().filter(|(other, _)| other.0 == key.0);
            same_hierarchy.for_each(|(_, node)| node.path = None);
        }
        let parent_id = self.nodes.get(&key).and_then(|node| node.parent_id);
        self.nodes.insert(key, Node { name, parent_id, path: None, seen_at: now });
    }

    /// Takes in where a cgroup hangs.
    pub(super) fn link(&mut self, record: &cg_record, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&(record.hierarchy_id, record.id)) {
            node.parent_id = Some(record.parent_id);
            node.seen_at = now;
        }
    }

    /// The path of a cgroup as text; `None` if a name between it and the root is not known.
    pub(super) fn path(&mut self, hierarchy_id: u32, id: u64) -> Option<Arc<str>> {
        let mut below: Vec<u64> = Vec::new();
        let mut at = id;
        let mut path: Arc<str> = loop {
            let node = self.nodes.get(&(hierarchy_id, at))?;
            if let Some(path) = &node.path {
                break Arc::clone(path);
            }
            below.push(at);
            match node.parent_id? {
                0 => break Arc::from(""),
                parent => at = parent,
            }
        };
        while let Some(id) = below.pop() {
            let node = self.nodes.get_mut(&(hierarchy_id, id))?;
            path = match (node.parent_id, &*path) {
                (Some(0), _) => Arc::from("/"),
                (_, "/") => format!("/{}", escape_path(&node.name)).into(),
                (_, above) => format!("{above}/{}", escape_path(&node.name)).into(),
            };
            node.path = Some(Arc::clone(&path));
        }
        Some(path)
    }

    /// How many names are known.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Drops the cgroups that no walk has met for `age`, and returns their keys.
    pub(super) fn drop_unseen(&mut self, age: Duration, now: Instant) -> Vec<cg_key> {
        let unseen = self.nodes.extract_if(|_, node| now.duration_since(node.seen_at) > age);
        unseen.map(|((hierarchy_id, id), _)| cg_key { id, hierarchy_id, padding: 0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u64) -> cg_key {
        cg_key { id, hierarchy_id: 0, padding: 0 }
    }

    /// A tree of `(id, parent, name)`; a parent of 0 is a root.
    fn tree(nodes: &[(u64, u64, &[u8])], now: Instant) -> Tree {
        let mut tree = Tree::default();
        for (id, parent_id, name) in nodes {
            tree.name(key(*id), (*name).into(), now);
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
    fn a_rename_changes_the_paths_below() {
        let now = Instant::now();
        let mut tree = tree(&[(1, 0, b""), (2, 1, b"old"), (3, 2, b"c")], now);
        assert_eq!(tree.path(0, 3).as_deref(), Some("/old/c"));
        tree.name(key(2), (*b"new").into(), now);
        assert_eq!(tree.path(0, 3).as_deref(), Some("/new/c"));
    }

    #[test]
    fn what_no_walk_meets_is_dropped() {
        let start = Instant::now();
        let mut tree = tree(&[(1, 0, b""), (2, 1, b"gone")], start);
        let later = start + Duration::from_mins(1);
        tree.link(&cg_record { id: 1, ..cg_record::default() }, later);
        let dropped = tree.drop_unseen(Duration::from_secs(30), later);
        assert_eq!(dropped.iter().map(|key| key.id).collect::<Vec<_>>(), [2]);
        assert_eq!(tree.len(), 1);
    }
}
