//! Trees that keep their size, their share of changes, and their seed.

use std::collections::{HashMap, HashSet};

use cgfleet_model::MetricSet;

use super::*;

const CALM: Activity =
    Activity { changing: 0.1, pods_replaced_per_second: 0.0, services_restarted_per_second: 0.0 };
const LIVELY: Activity =
    Activity { changing: 0.1, pods_replaced_per_second: 0.7, services_restarted_per_second: 0.3 };

fn tree(cgroups: usize, activity: Activity) -> Tree {
    Tree::new(TreeSpec { seed: 7, cgroups, activity })
}

fn assert_whole(tree: &Tree) {
    let mut paths = HashSet::new();
    let mut open: Vec<&CgroupSample> = Vec::new();
    let mut memory_of_children: HashMap<u64, u64> = HashMap::new();
    for sample in tree.samples() {
        open.truncate(sample.level as usize);
        assert_eq!(sample.parent_id, open.last().map_or(0, |parent| parent.cgroup_id), "{sample:?}");
        assert!(paths.insert(&sample.path), "{} twice", sample.path);
        let memory = sample.metric(Metric::MemoryCurrent).unwrap();
        *memory_of_children.entry(sample.parent_id).or_default() += memory;
        let present = MetricSet::all().iter().filter(|metric| sample.metric(*metric).is_some());
        let (present, mut expect): (Vec<Metric>, _) = (present.collect(), METRICS.to_vec());
        expect.sort_unstable();
        assert_eq!(present, expect);
        open.push(sample);
    }
    for sample in tree.samples().filter(|sample| memory_of_children.contains_key(&sample.cgroup_id)) {
        let of_children = memory_of_children[&sample.cgroup_id];
        assert_eq!(sample.metric(Metric::MemoryCurrent), Some(of_children), "{}", sample.path);
    }
}

#[test]
fn as_many_cgroups_as_wanted_at_any_time() {
    for cgroups in [16, 100, 500, 501, 502, 503] {
        let mut tree = tree(cgroups, LIVELY);
        for _ in 0..200 {
            assert_eq!(tree.samples().len(), cgroups);
            assert_whole(&tree);
            tree.step(Duration::from_secs(1));
        }
    }
}

#[test]
fn so_many_change_as_wanted() {
    for (changing, expect) in [(0.0, 0..=0), (0.1, 50..=56), (0.5, 250..=256), (1.0, 500..=500)] {
        let mut tree = tree(500, Activity { changing, ..CALM });
        for _ in 0..50 {
            let before: Vec<CgroupSample> = tree.samples().cloned().collect();
            tree.step(Duration::from_millis(50));
            let changed = tree.samples().zip(&before).filter(|(now, before)| now != before).count();
            assert!(expect.contains(&changed), "{changed} of 500 at {changing}");
            assert_eq!(changed, tree.changed());
        }
    }
}

#[test]
fn counters_of_a_cgroup_never_fall_and_new_cgroups_have_new_ids() {
    let mut tree = tree(100, LIVELY);
    let mut known: HashMap<u64, u64> = HashMap::new();
    for _ in 0..500 {
        let last_id = known.keys().copied().max().unwrap_or_default();
        for sample in tree.samples() {
            let usage = sample.metric(Metric::CpuUsage).unwrap();
            match known.insert(sample.cgroup_id, usage) {
                Some(before) => assert!(before <= usage, "{}: {before}, then {usage}", sample.path),
                None => assert!(sample.cgroup_id > last_id),
            }
        }
        tree.step(Duration::from_secs(1));
    }
    assert!(known.len() > 500, "{} cgroups in all", known.len());
}

#[test]
fn the_same_seed_gives_the_same_tree() {
    let ticks = |seed| {
        let mut tree = Tree::new(TreeSpec { seed, cgroups: 100, activity: LIVELY });
        for _ in 0..20 {
            tree.step(Duration::from_secs(1));
        }
        tree.samples().cloned().collect::<Vec<_>>()
    };
    assert_eq!(ticks(1), ticks(1));
    assert_ne!(ticks(1), ticks(2));
}
