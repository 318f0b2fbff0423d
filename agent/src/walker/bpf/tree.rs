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

/// The serial of every hierarchy's root: the kernel gives it none.
const ROOT: u64 = 0;

/// A cgroup among all hierarchies: hierarchy id, serial of its css. A record tells these, and not the
/// cgroup's id.
type NodeKey = (u32, u64);

#[derive(Debug)]
struct Node {
    id: u64,
    name: Box<[u8]>,
    /// The kernel's hash of the name, `None` until a record told.
    name_hash: Option<u32>,
    /// `None` for a root, and until a record told.
    parent_serial: Option<u64>,
    /// Cached; cgroups do not move, and a v1 rename drops every path of its hierarchy.
    path: Option<Arc<str>>,
    seen_at: Instant,
}

/// What a cgroup is called, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) cgroup_id: u64,
    /// 0 for a root.
    pub(super) parent_id: u64,
    pub(super) path: Arc<str>,
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
        let Name { hierarchy_id, serial, cgroup_id: id, name } = name;
        let key = (hierarchy_id, serial);
        let renamed = self.nodes.get(&key).is_some_and(|node| node.name != name);
        if renamed {
            let same_hierarchy = self.nodes.iter_mut().filter(|(other, _)| other.0 == key.0);
            same_hierarchy.for_each(|(_, node)| node.path = None);
        }
        let parent_serial = self.nodes.get(&key).and_then(|node| node.parent_serial);
        let node = Node { id, name, name_hash: None, parent_serial, path: None, seen_at: now };
        self.nodes.insert(key, node);
    }

    /// Takes in where a cgroup hangs, and says whether its name is known. A name that hashes
    /// differently than it did is another one (v1 cgroups can be renamed) and so not known.
    pub(super) fn link(&mut self, record: &cg_record, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(&(record.hierarchy_id, record.serial)) else { return false };
        node.parent_serial = (record.serial != ROOT).then_some(record.parent_serial);
        node.seen_at = now;
        *node.name_hash.get_or_insert(record.name_hash) == record.name_hash
    }

    /// A cgroup that a record told of; `None` if its name or its parent's is not known, or it has no
    /// path.
    pub(super) fn named(&mut self, record: &cg_record) -> Option<Named> {
        let hierarchy_id = record.hierarchy_id;
        let node = self.nodes.get(&(hierarchy_id, record.serial))?;
        let (cgroup_id, path) = (node.id, node.path.clone());
        let parent_id = if record.serial == ROOT { 0 } else { self.id(hierarchy_id, record.parent_serial)? };
        let path = path.or_else(|| self.path(hierarchy_id, record.serial))?;
        Some(Named { cgroup_id, parent_id, path })
    }

    /// How many cgroups it has, of all hierarchies.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The id of a cgroup whose name is known.
    pub(super) fn id(&self, hierarchy_id: u32, serial: u64) -> Option<u64> {
        self.nodes.get(&(hierarchy_id, serial)).map(|node| node.id)
    }

    /// The serial of a cgroup whose name is known. Looks at all of them: few requests need it.
    pub(super) fn serial(&self, hierarchy_id: u32, id: u64) -> Option<u64> {
        let mut nodes = self.nodes.iter();
        nodes.find(|(key, node)| key.0 == hierarchy_id && node.id == id).map(|(key, _)| key.1)
    }

    /// The path of a cgroup as text; `None` if a name between it and the root is not known, or it is
    /// beside what is mounted.
    pub(super) fn path(&mut self, hierarchy_id: u32, serial: u64) -> Option<Arc<str>> {
        let mounted = self.mounted.get(&hierarchy_id).copied();
        let mut below: Vec<u64> = Vec::new();
        let mut at = serial;
        let mut path: Arc<str> = loop {
            let node = self.nodes.get(&(hierarchy_id, at))?;
            if mounted == Some(node.id) {
                break Arc::from("/");
            }
            if let Some(path) = &node.path {
                break Arc::clone(path);
            }
            match mounted {
                Some(mounted) if at == ROOT => return self.path_above(hierarchy_id, serial, mounted),
                None if at == ROOT => break Arc::from("/"),
                _ => {
                    below.push(at);
                    at = node.parent_serial?;
                }
            }
        };
        while let Some(serial) = below.pop() {
            let node = self.nodes.get_mut(&(hierarchy_id, serial))?;
            let above = if &*path == "/" { "" } else { &*path };
            path = format!("{above}/{}", escape_path(&node.name)).into();
            node.path = Some(Arc::clone(&path));
        }
        Some(path)
    }

    /// The path of a cgroup above the mount's root; `None` if it is not above it.
    fn path_above(&self, hierarchy_id: u32, serial: u64, mounted: u64) -> Option<Arc<str>> {
        let (mut path, mut at) = (String::new(), self.serial(hierarchy_id, mounted)?);
        while at != serial {
            at = self.nodes.get(&(hierarchy_id, at))?.parent_serial?;
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

    /// What a cgroup's id is more than its serial, in these tests.
    const ID: u64 = 100;

    fn name(serial: u64, name: &[u8]) -> Name {
        Name { hierarchy_id: 0, serial, cgroup_id: serial + ID, name: name.into() }
    }

    fn record(serial: u64, parent_serial: u64) -> cg_record {
        cg_record { serial, parent_serial, ..cg_record::default() }
    }

    /// A tree of `(serial, parent, name)`; a serial of 0 is a root.
    fn tree(nodes: &[(u64, u64, &[u8])], now: Instant) -> Tree {
        let mut tree = Tree::default();
        for (serial, parent_serial, name) in nodes {
            tree.name(self::name(*serial, name), now);
            tree.link(&record(*serial, *parent_serial), now);
        }
        tree
    }

    #[test]
    fn a_path_is_put_together_in_any_order_of_arrival() {
        let mut tree = tree(&[(2, 1, b"c\n"), (1, 0, b"b"), (0, 0, b"")], Instant::now());
        let mut check = |serial, expect: Option<&str>| assert_eq!(tree.path(0, serial).as_deref(), expect);
        check(2, Some("/b/c\\x0a"));
        check(1, Some("/b"));
        check(0, Some("/"));
        check(3, None);
    }

    #[test]
    fn a_path_needs_every_name_up_to_the_root() {
        let mut tree = tree(&[(2, 1, b"c")], Instant::now());
        assert_eq!(tree.path(0, 2), None);
    }

    #[test]
    fn paths_are_as_the_mount_shows_them() {
        let nodes = [(0, 0, &b""[..]), (1, 0, b"a"), (2, 1, b"b"), (3, 2, b"c"), (4, 1, b"beside")];
        let mut tree = tree(&nodes, Instant::now());
        tree.mounted = HashMap::from([(0, 2 + ID)]);
        let mut check = |serial, expect: Option<&str>| assert_eq!(tree.path(0, serial).as_deref(), expect);
        check(3, Some("/c"));
        check(2, Some("/"));
        check(1, Some("/.."));
        check(0, Some("/../.."));
        check(4, None);
    }

    #[test]
    fn ids_come_with_the_names_of_a_cgroup_and_its_parent() {
        let mut tree = tree(&[(0, 0, b""), (7, 0, b"a"), (9, 8, b"c")], Instant::now());
        let mut check = |serial, parent_serial, expect: Option<(u64, u64, &str)>| {
            let named = tree.named(&record(serial, parent_serial));
            let named = named.as_ref().map(|named| (named.cgroup_id, named.parent_id, &*named.path));
            assert_eq!(named, expect);
        };
        check(0, 0, Some((ID, 0, "/")));
        check(7, 0, Some((7 + ID, ID, "/a")));
        check(8, 7, None);
        check(9, 8, None);
        assert_eq!((tree.serial(0, 7 + ID), tree.serial(1, 7 + ID)), (Some(7), None));
    }

    #[test]
    fn the_mounts_root_is_not_named_without_its_parent() {
        let mut tree = tree(&[(7, 3, b"a")], Instant::now());
        tree.mounted = HashMap::from([(0, 7 + ID)]);
        assert_eq!(tree.path(0, 7).as_deref(), Some("/"));
        assert_eq!(tree.named(&record(7, 3)), None);
    }

    #[test]
    fn a_rename_changes_the_paths_below() {
        let now = Instant::now();
        let mut tree = tree(&[(0, 0, b""), (1, 0, b"old"), (2, 1, b"c")], now);
        assert_eq!(tree.path(0, 2).as_deref(), Some("/old/c"));
        tree.name(name(1, b"new"), now);
        assert_eq!(tree.path(0, 2).as_deref(), Some("/new/c"));
    }

    #[test]
    fn a_name_is_known_until_it_hashes_differently() {
        let now = Instant::now();
        let mut tree = tree(&[(1, 0, b"a")], now);
        let mut check = |serial, name_hash, expect| {
            assert_eq!(tree.link(&cg_record { name_hash, ..record(serial, 0) }, now), expect);
        };
        check(1, 0, true);
        check(1, 7, false);
        check(2, 0, false);
    }

    #[test]
    fn what_no_walk_meets_is_dropped() {
        let start = Instant::now();
        let mut tree = tree(&[(0, 0, b""), (1, 0, b"gone")], start);
        let later = start + Duration::from_mins(1);
        tree.link(&record(0, 0), later);
        assert!(tree.drop_unseen(Duration::from_secs(30), later));
        assert_eq!((tree.path(0, 0).as_deref(), tree.path(0, 1)), (Some("/"), None));
    }
}
