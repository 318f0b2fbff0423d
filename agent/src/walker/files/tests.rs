//! Walks of directories that are no cgroups: order, depth, and what is in the way.

use std::{path::Path, thread};

use cgfleet_model::MetricSet;

use super::*;

fn hierarchy(mount_point: &Path) -> Hierarchy {
    let root_id = fs::metadata(mount_point).unwrap().ino();
    Hierarchy { id: 0, name: String::new(), mount_point: mount_point.to_owned(), root_id }
}

fn spec(order: Order) -> WalkSpec {
    WalkSpec { order, metrics: MetricSet::all(), ..WalkSpec::alone(Target::v2_root()) }
}

fn walk_of<'a>(hierarchy: &'a Hierarchy, spec: &'a WalkSpec) -> Walk<'a> {
    Walk { hierarchy, spec, stop_at_id: 0, limit: usize::MAX, start_level: 0, samples: Vec::new() }
}

#[test]
fn a_tree_may_be_deeper_than_the_stack() {
    const LEVELS: u32 = 500;
    let mount = tempfile::tempdir().unwrap();
    let mut directory = mount.path().to_owned();
    for _ in 0..LEVELS {
        directory.push("a");
        fs::create_dir(&directory).unwrap();
    }
    let levels = thread::Builder::new().stack_size(128 << 10).spawn(move || {
        let (hierarchy, spec) = (hierarchy(mount.path()), spec(Order::DescendantsPost));
        let mut walk = walk_of(&hierarchy, &spec);
        let root = Cgroup::line_up(&hierarchy, b"/").unwrap().remove(0);
        assert_eq!(walk.down(root).unwrap(), None);
        walk.samples.iter().map(|sample| sample.level).collect::<Vec<_>>()
    });
    assert_eq!(levels.unwrap().join().unwrap(), (0..=LEVELS).rev().collect::<Vec<_>>());
}

#[test]
fn a_line_names_the_parents_up_to_the_root() {
    let mount = tempfile::tempdir().unwrap();
    fs::create_dir_all(mount.path().join("a/b")).unwrap();
    let line = Cgroup::line_up(&hierarchy(mount.path()), b"/a/b").unwrap();
    let paths: Vec<_> = line.iter().map(|cgroup| (cgroup.path.as_slice(), cgroup.level)).collect();
    assert_eq!(paths, [(&b"/a/b"[..], 2), (b"/a", 1), (b"/", 0)]);
    let ids: Vec<_> = line.iter().map(|cgroup| cgroup.id).chain([0]).collect();
    let parents: Vec<_> = line.iter().map(|cgroup| cgroup.parent_id).collect();
    assert_eq!(parents, ids[1..]);
}

#[test]
fn a_cgroup_whose_path_is_anothers_now_is_no_row() {
    let mount = tempfile::tempdir().unwrap();
    let (hierarchy, spec) = (hierarchy(mount.path()), spec(Order::SelfOnly));
    let mut walk = walk_of(&hierarchy, &spec);
    let root = Cgroup::line_up(&hierarchy, b"/").unwrap().remove(0);
    walk.visit(&Cgroup { id: root.id + 1, ..root.clone() });
    assert!(walk.samples.is_empty());
    walk.visit(&root);
    assert_eq!(walk.samples.len(), 1);
}

#[test]
fn what_cannot_be_listed_is_an_error_and_what_is_gone_has_no_children() {
    let mount = tempfile::tempdir().unwrap();
    let (hierarchy, spec) = (hierarchy(mount.path()), spec(Order::DescendantsPre));
    let walk = walk_of(&hierarchy, &spec);
    let root = Cgroup::line_up(&hierarchy, b"/").unwrap().remove(0);
    let at = |name: String| Cgroup { directory: mount.path().join(name), ..root.clone() };
    assert!(walk.children(&at("gone".to_owned())).unwrap().is_empty());
    let hidden = walk.children(&at("a".repeat(300))).unwrap_err();
    assert!(matches!(hidden, WalkError::Reopen { .. }), "{hidden}");
}
