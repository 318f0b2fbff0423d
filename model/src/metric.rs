//! The metric catalogue: every metric's name, unit, kind and kernel source, once.
//!
//! Names are the field paths of `CgroupSample`; a test in the proto crate names any field or entry
//! that lacks its counterpart.

/// One metric. The discriminant is its number in stored ticks: append, never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Metric {
    /// All CPU time.
    CpuUsage = 0,
    /// CPU time in user mode.
    CpuUser = 1,
    /// CPU time in kernel mode.
    CpuSystem = 2,
}

/// Metrics that are read together or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricGroup {
    /// CPU time.
    Cpu,
}

/// Whether a metric only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Only grows, until its cgroup is removed or the host reboots.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// What is known of a metric.
#[derive(Debug, Clone, Copy)]
pub struct MetricInfo {
    /// The metric this describes.
    pub metric: Metric,
    /// Its field path in `CgroupSample`, for example `cpu.usage_usec`.
    pub name: &'static str,
    /// Its unit, the suffix of its name.
    pub unit: &'static str,
    /// Counter or gauge.
    pub kind: MetricKind,
    /// The group it is read with.
    pub group: MetricGroup,
    /// The cgroup v2 file and key that show the same value.
    pub kernel_file: &'static str,
    /// One sentence for people.
    pub description: &'static str,
}

/// The catalogue, in the order of the metrics' numbers.
const CATALOGUE: [MetricInfo; 3] = [
    MetricInfo {
        metric: Metric::CpuUsage,
        name: "cpu.usage_usec",
        unit: "usec",
        kind: MetricKind::Counter,
        group: MetricGroup::Cpu,
        kernel_file: "cpu.stat usage_usec",
        description: "CPU time consumed by the cgroup and its descendants.",
    },
    MetricInfo {
        metric: Metric::CpuUser,
        name: "cpu.user_usec",
        unit: "usec",
        kind: MetricKind::Counter,
        group: MetricGroup::Cpu,
        kernel_file: "cpu.stat user_usec",
        description: "CPU time consumed in user mode.",
    },
    MetricInfo {
        metric: Metric::CpuSystem,
        name: "cpu.system_usec",
        unit: "usec",
        kind: MetricKind::Counter,
        group: MetricGroup::Cpu,
        kernel_file: "cpu.stat system_usec",
        description: "CPU time consumed in kernel mode.",
    },
];

impl Metric {
    /// Every metric, in the order of their numbers.
    pub const ALL: [Self; CATALOGUE.len()] = {
        let mut all = [Self::CpuUsage; CATALOGUE.len()];
        let mut at = 0;
        while at < all.len() {
            assert!(CATALOGUE[at].metric as usize == at, "catalogue order and metric numbers differ");
            all[at] = CATALOGUE[at].metric;
            at += 1;
        }
        all
    };

    /// Its entry in the catalogue.
    pub fn info(self) -> &'static MetricInfo {
        &CATALOGUE[self as usize]
    }

    /// Its field path in `CgroupSample`.
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

/// A set of metrics, for example what a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MetricSet(u64);

impl MetricSet {
    /// Every metric.
    pub fn all() -> Self {
        Metric::ALL.into_iter().collect()
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
                Metric::ALL.into_iter().filter(|metric| is_or_contains(path, metric.name())).collect();
            if named == Self::default() {
                return Err(UnknownMetric { path: path.to_owned() });
            }
            set.0 |= named.0;
        }
        Ok(set)
    }

    /// Whether the metric is in the set.
    pub fn contains(self, metric: Metric) -> bool {
        self.0 & (1 << metric as u8) != 0
    }

    /// Whether any metric of the group is in the set.
    pub fn touches(self, group: MetricGroup) -> bool {
        Metric::ALL.into_iter().any(|metric| metric.info().group == group && self.contains(metric))
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
    /// The paths that are allowed, comma-separated: the groups, then every metric.
    pub fn allowed() -> String {
        allowed()
    }
}

fn allowed() -> String {
    let mut names: Vec<&str> = Vec::new();
    for metric in Metric::ALL {
        let group = metric.name().split('.').next().unwrap_or_default();
        if !names.contains(&group) {
            names.push(group);
        }
    }
    names.extend(Metric::ALL.map(Metric::name));
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str], expect: Result<&[Metric], &str>) {
        let expect = expect
            .map(|metrics| metrics.iter().copied().collect::<MetricSet>())
            .map_err(|path| UnknownMetric { path: path.to_owned() });
        assert_eq!(MetricSet::from_paths(paths.iter().copied()), expect, "{paths:?}");
    }

    #[test]
    fn a_path_names_a_metric_or_its_group() {
        check(&[], Ok(&Metric::ALL));
        check(&["cpu"], Ok(&[Metric::CpuUsage, Metric::CpuUser, Metric::CpuSystem]));
        check(&["cpu.usage_usec"], Ok(&[Metric::CpuUsage]));
        check(&["cpu.user_usec", "cpu.user_usec"], Ok(&[Metric::CpuUser]));
        check(&["cp"], Err("cp"));
        check(&["cpu."], Err("cpu."));
        check(&[""], Err(""));
        check(&["cpu.usage_usec", "disk"], Err("disk"));
    }

    #[test]
    fn a_name_ends_in_its_unit() {
        for metric in Metric::ALL {
            let info = metric.info();
            assert!(info.name.ends_with(&format!("_{}", info.unit)), "{}", info.name);
        }
    }
}
