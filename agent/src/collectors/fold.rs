//! Where the kernel does not fold: the sums of subtrees from what was counted in each cgroup. Pure.

use std::{cmp::Reverse, collections::HashMap};

use cgfleet_model::{Collector, Metric, MetricKind};

use crate::kernel::CgroupKey;

/// How a collector's numbers become one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merge {
    /// The one that is a maximum; the others are sums.
    max_word: Option<usize>,
}

impl Merge {
    /// Its metrics are its first numbers, in their order.
    pub(super) fn of(collector: Collector) -> Self {
        let is_max = |metric: Metric| metric.info().kind == MetricKind::Gauge;
        Self { max_word: collector.group().metrics().position(is_max) }
    }

    /// Adds numbers to others.
    pub(super) fn add(self, to: &mut [u64], from: &[u64]) {
        for (word, (to, from)) in to.iter_mut().zip(from).enumerate() {
            *to = if Some(word) == self.max_word { *from.max(to) } else { to.wrapping_add(*from) };
        }
    }
}

/// Adds what was counted in each cgroup to all above it. `parents` has every cgroup that something was
/// counted in or below; the parent of a root is 0.
pub(super) fn fold(
    merge: Merge,
    own: HashMap<CgroupKey, Vec<u64>>,
    parents: &HashMap<CgroupKey, u64>,
) -> HashMap<CgroupKey, Vec<u64>> {
    let mut totals = own;
    for key in children_first(parents) {
        let Some(parent_id) = parents.get(&key).copied().filter(|id| *id != 0) else { continue };
        let Some(words) = totals.get(&key).cloned() else { continue };
        let parent = CgroupKey { cgroup_id: parent_id, ..key };
        let to = totals.entry(parent).or_insert_with(|| vec![0; words.len()]);
        merge.add(to, &words);
    }
    totals
}

/// All of them, each before its parent.
pub(super) fn children_first(parents: &HashMap<CgroupKey, u64>) -> Vec<CgroupKey> {
    let mut keys: Vec<CgroupKey> = parents.keys().copied().collect();
    keys.sort_by_cached_key(|key| (Reverse(level(*key, parents)), key.hierarchy_id, key.cgroup_id));
    keys
}

/// How many cgroups are above one; bounded, for what is read while it changes may be a ring.
fn level(key: CgroupKey, parents: &HashMap<CgroupKey, u64>) -> usize {
    let parent = |key: &CgroupKey| {
        let parent_id = parents.get(key).copied().filter(|id| *id != 0)?;
        Some(CgroupKey { cgroup_id: parent_id, ..*key })
    };
    std::iter::successors(Some(key), parent).take(parents.len() + 1).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cgroup_id: u64) -> CgroupKey {
        CgroupKey { hierarchy_id: 0, cgroup_id }
    }

    /// `tree`: (id, parent, own); the sums as (id, words).
    fn check(tree: &[(u64, u64, [u64; 2])], max_word: Option<usize>, expect: &[(u64, [u64; 2])]) {
        let own = tree.iter().map(|(id, _, words)| (key(*id), words.to_vec())).collect();
        let parents = tree.iter().map(|(id, parent, _)| (key(*id), *parent)).collect();
        let totals = fold(Merge { max_word }, own, &parents);
        for (id, words) in expect {
            assert_eq!(totals[&key(*id)], words, "{id} of {tree:?}");
        }
        assert_eq!(totals.len(), expect.len());
    }

    #[test]
    fn a_parent_is_the_sum_of_its_children_and_of_itself() {
        let tree = [(4, 2, [1, 10]), (3, 2, [2, 20]), (1, 0, [0, 0]), (2, 1, [4, 5])];
        check(&tree, None, &[(4, [1, 10]), (3, [2, 20]), (2, [7, 35]), (1, [7, 35])]);
    }

    #[test]
    fn a_maximum_is_the_largest_below() {
        let tree = [(3, 2, [1, 7]), (2, 1, [2, 9]), (1, 0, [0, 3])];
        check(&tree, Some(1), &[(3, [1, 7]), (2, [3, 9]), (1, [3, 9])]);
    }

    #[test]
    fn what_is_read_while_it_changes_ends_too() {
        check(&[(1, 2, [1, 0]), (2, 1, [1, 0])], None, &[(1, [3, 0]), (2, [2, 0])]);
    }

    #[test]
    fn hierarchies_are_kept_apart() {
        let of = |hierarchy_id, cgroup_id| CgroupKey { hierarchy_id, cgroup_id };
        let own = HashMap::from([(of(0, 2), vec![1]), (of(5, 2), vec![10])]);
        let parents = HashMap::from([(of(0, 2), 1), (of(5, 2), 1), (of(0, 1), 0), (of(5, 1), 0)]);
        let totals = fold(Merge { max_word: None }, own, &parents);
        assert_eq!((&totals[&of(0, 1)][..], &totals[&of(5, 1)][..]), (&[1][..], &[10][..]));
    }

    #[test]
    fn metrics_that_are_gauges_are_maxima() {
        assert_eq!(Merge::of(Collector::Runqueue).max_word, Some(2));
        assert_eq!(Merge::of(Collector::Reclaim).max_word, None);
    }
}
