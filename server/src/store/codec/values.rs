//! What a tick says of its cgroups, keyed and sorted: the thing that payloads carry.

use cgfleet_model::{Metric, MetricGroup, MetricSet};
use cgfleet_proto::v1::CgroupSample;

/// A cgroup within one boot of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupKey {
    /// The hierarchy's id as in /proc/self/cgroup; 0 is cgroup v2.
    pub hierarchy_id: u32,
    /// The kernel's id of the cgroup.
    pub cgroup_id: u64,
}

impl CgroupKey {
    /// The key of a sample.
    pub fn of(sample: &CgroupSample) -> Self {
        Self { hierarchy_id: sample.hierarchy_id, cgroup_id: sample.cgroup_id }
    }
}

/// What was measured of one cgroup at one tick; what was not measured is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricValues {
    pub(super) present: MetricSet,
    /// Of the metrics that are present, in their order.
    pub(super) values: Vec<u64>,
}

impl MetricValues {
    /// The values of a sample.
    pub fn of(sample: &CgroupSample) -> Self {
        let groups = MetricGroup::ALL.iter().filter(|group| sample.source(**group).is_some());
        let measured: MetricSet = groups
            .flat_map(|group| group.metrics())
            .filter(|metric| sample.metric(*metric).is_some())
            .collect();
        Self {
            present: measured,
            values: measured.iter().filter_map(|metric| sample.metric(metric)).collect(),
        }
    }

    /// The value of a metric; `None` if it was not measured.
    pub fn get(&self, metric: Metric) -> Option<u64> {
        self.present.contains(metric).then(|| self.values.get(self.present.rank(metric)).copied())?
    }

    /// Which metrics were measured.
    pub fn present(&self) -> MetricSet {
        self.present
    }

    /// The values of these, in the metrics' order.
    pub fn values(&self) -> &[u64] {
        &self.values
    }

    /// Sets every metric of `sample` to what was measured.
    pub fn write_to(&self, sample: &mut CgroupSample) {
        for metric in Metric::ALL {
            sample.set_metric(*metric, self.get(*metric));
        }
    }
}

/// Every cgroup of one tick, by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TickValues {
    /// Ascending by key, each key once.
    pub(super) entries: Vec<(CgroupKey, MetricValues)>,
}

impl TickValues {
    /// The values of a tick's samples, in any order. A cgroup that occurs twice counts once.
    pub fn of(samples: &[CgroupSample]) -> Self {
        let mut entries: Vec<_> =
            samples.iter().map(|sample| (CgroupKey::of(sample), MetricValues::of(sample))).collect();
        entries.sort_by_key(|(key, _)| *key);
        entries.dedup_by_key(|(key, _)| *key);
        Self { entries }
    }

    /// What was measured of a cgroup; `None` if the tick does not contain it.
    pub fn get(&self, key: CgroupKey) -> Option<&MetricValues> {
        let at = self.entries.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(&self.entries[at].1)
    }

    /// Every cgroup, ascending by key.
    pub fn iter(&self) -> impl Iterator<Item = (CgroupKey, &MetricValues)> {
        self.entries.iter().map(|(key, values)| (*key, values))
    }

    /// How many cgroups the tick contains.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the tick contains no cgroup.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
