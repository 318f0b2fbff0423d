//! Sets of metrics: what a request asks for, and what a record holds.

use super::{Metric, MetricGroup, catalogue::CATALOGUE};

/// A set of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MetricSet(u128);

const _: () = assert!(Metric::ALL.len() <= u128::BITS as usize, "a set has a bit for each metric");

/// Rows ask for their groups all the time.
const BITS_OF_GROUPS: [u128; MetricGroup::ALL.len()] = {
    let mut bits = [0; MetricGroup::ALL.len()];
    let mut at = 0;
    while at < CATALOGUE.len() {
        bits[CATALOGUE[at].group as usize] |= 1 << at;
        at += 1;
    }
    bits
};

impl MetricSet {
    /// Every metric.
    pub fn all() -> Self {
        Self(BITS_OF_GROUPS.iter().fold(0, |all, bits| all | bits))
    }

    /// The metrics of a group.
    pub fn of_group(group: MetricGroup) -> Self {
        Self(BITS_OF_GROUPS[group as usize])
    }

    /// The metrics named by field paths: a metric (`cpu.usage_usec`) or a group (`cpu`). No paths
    /// mean all.
    pub fn from_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownMetric> {
        let mut paths = paths.into_iter().peekable();
        if paths.peek().is_none() {
            return Ok(Self::all());
        }
        let mut set = Self::default();
        for path in paths {
            let named: Self =
                Metric::ALL.iter().copied().filter(|metric| is_or_contains(path, metric.name())).collect();
            if named.is_empty() {
                return Err(UnknownMetric { path: path.to_owned() });
            }
            set.0 |= named.0;
        }
        Ok(set)
    }

    /// Whether there is no metric in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many metrics are in it.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the metric is in the set.
    pub fn contains(self, metric: Metric) -> bool {
        self.0 & (1 << metric as u8) != 0
    }

    /// Whether any metric of the group is in the set.
    pub fn touches(self, group: MetricGroup) -> bool {
        self.0 & Self::of_group(group).0 != 0
    }

    /// The metrics that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The metrics that are in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The metrics that are in this one alone.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The metrics, in the catalogue's order.
    pub fn iter(self) -> impl Iterator<Item = Metric> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let metric = *Metric::ALL.get(left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(metric)
        })
    }

    /// How many of its metrics come before this one.
    pub fn rank(self, metric: Metric) -> usize {
        (self.0 & ((1 << metric as u8) - 1)).count_ones() as usize
    }
}

impl FromIterator<Metric> for MetricSet {
    fn from_iter<I: IntoIterator<Item = Metric>>(metrics: I) -> Self {
        let mut set = Self::default();
        set.extend(metrics);
        set
    }
}

impl Extend<Metric> for MetricSet {
    fn extend<I: IntoIterator<Item = Metric>>(&mut self, metrics: I) {
        for metric in metrics {
            self.0 |= 1 << metric as u8;
        }
    }
}

/// Whether `path` is `name` or one of the messages that contain it.
fn is_or_contains(path: &str, name: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A field path that names no metric and no group.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown field {path:?}; allowed: {}", allowed())]
pub struct UnknownMetric {
    /// The path as given.
    pub path: String,
}

impl UnknownMetric {
    /// What is allowed, for people: the groups, and where to look for metrics.
    pub fn allowed() -> String {
        allowed()
    }
}

fn allowed() -> String {
    let groups: Vec<&str> = MetricGroup::ALL.iter().map(|group| group.name()).collect();
    let example = Metric::CpuUsage.name();
    format!("{}, or a metric such as {example} (`cgctl metrics` lists them)", groups.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str], expect: Result<MetricSet, &str>) {
        let expect = expect.map_err(|path| UnknownMetric { path: path.to_owned() });
        assert_eq!(MetricSet::from_paths(paths.iter().copied()), expect, "{paths:?}");
    }

    #[test]
    fn metrics_come_in_the_catalogues_order() {
        let set = MetricSet::from_iter([Metric::PidsMax, Metric::CpuUser, Metric::IoDios]);
        let metrics: Vec<Metric> = set.iter().collect();
        assert_eq!(metrics, [Metric::CpuUser, Metric::IoDios, Metric::PidsMax]);
        assert_eq!(metrics.iter().map(|metric| set.rank(*metric)).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((set.len(), MetricSet::all().iter().count()), (3, Metric::ALL.len()));
    }

    #[test]
    fn a_path_names_a_metric_or_its_group() {
        let of = |metrics: &[Metric]| Ok(metrics.iter().copied().collect());
        check(&[], of(Metric::ALL));
        check(&["pids"], of(&[Metric::PidsCurrent, Metric::PidsMax]));
        check(&["memory"], Ok(MetricSet::of_group(MetricGroup::Memory)));
        check(&["cpu.usage_usec"], of(&[Metric::CpuUsage]));
        check(&["cpu.user_usec", "cpu.user_usec"], of(&[Metric::CpuUser]));
        check(&["cp"], Err("cp"));
        check(&["cpu."], Err("cpu."));
        check(&[""], Err(""));
        check(&["cpu.usage_usec", "disk"], Err("disk"));
    }
}
