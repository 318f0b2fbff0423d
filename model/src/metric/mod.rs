//! The metric catalogue: every metric's name, unit, kind and origin, once.
//!
//! Names are the field paths of `CgroupSample`; a test in the proto crate names any field or entry
//! that lacks its counterpart.

mod catalogue;
mod kernel_file;
mod set;

use crate::Collector;

pub use catalogue::Metric;
pub use kernel_file::{KernelFile, Shape};
pub use set::{MetricSet, UnknownMetric};

/// Metrics that are read together or not at all. The discriminant is its number in stored ticks: append,
/// never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MetricGroup {
    /// CPU time and bandwidth.
    Cpu,
    /// Memory usage and limits.
    Memory,
    /// Keys of memory.stat.
    MemoryStat,
    /// memory.events.
    MemoryEvents,
    /// memory.events.local.
    MemoryEventsLocal,
    /// Block I/O.
    Io,
    /// Tasks.
    Pids,
    /// Pressure stall information.
    Pressure,
    /// What the cgroup is, rather than what it uses.
    Structure,
    /// Direct reclaim, by its collector.
    Reclaim,
    /// Tasks that move, by their collector.
    Attach,
    /// Waiting for a CPU, by its collector.
    Runqueue,
    /// Requests to block devices, by their collector.
    BlockIo,
}

impl MetricGroup {
    /// Every group.
    pub const ALL: &[Self] = &[
        Self::Cpu,
        Self::Memory,
        Self::MemoryStat,
        Self::MemoryEvents,
        Self::MemoryEventsLocal,
        Self::Io,
        Self::Pids,
        Self::Pressure,
        Self::Structure,
        Self::Reclaim,
        Self::Attach,
        Self::Runqueue,
        Self::BlockIo,
    ];

    /// Its metrics, in the catalogue's order.
    pub fn metrics(self) -> impl Iterator<Item = Metric> {
        MetricSet::of_group(self).iter()
    }

    /// Its field in `CgroupSample`, which is the first part of its metrics' names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::MemoryStat => "memory_stat",
            Self::MemoryEvents => "memory_events",
            Self::MemoryEventsLocal => "memory_events_local",
            Self::Io => "io",
            Self::Pids => "pids",
            Self::Pressure => "pressure",
            Self::Structure => "structure",
            Self::Reclaim => "reclaim",
            Self::Attach => "attach",
            Self::Runqueue => "runqueue",
            Self::BlockIo => "block_io",
        }
    }
}

/// How a metric's value moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Only grows, until its cgroup is removed or the host reboots.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Is set by somebody, and may be `max`: see [`Limit`](crate::Limit).
    Limit,
}

/// How closely a value that was read elsewhere has to agree with the metric's cgroup file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Agreement {
    /// It lies between what the file shows before and after.
    Between,
    /// So, give or take what the kernel lets lie unflushed: 64 pages or events for each CPU
    /// (mm/memcontrol.c, memcg_vmstats_needs_flush).
    FlushThreshold,
}

/// Who keeps a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The kernel, which shows it in files.
    Files {
        /// Where a cgroup v2 file shows the same value.
        v2: KernelFile,
        /// Where a file of cgroup v1 does; `None` if none does, or not with the same meaning.
        v1: Option<KernelFile>,
    },
    /// A collector: no file shows it.
    Collector(Collector),
}

/// What is known of a metric.
#[derive(Debug, Clone, Copy)]
pub struct MetricInfo {
    /// The metric this describes.
    pub metric: Metric,
    /// Its field path in `CgroupSample`, for example `cpu.usage_usec`.
    pub name: &'static str,
    /// Its unit, the suffix of its name; `1` for plain numbers.
    pub unit: &'static str,
    /// Counter, gauge or limit.
    pub kind: MetricKind,
    /// The group it is read with.
    pub group: MetricGroup,
    /// Who keeps it.
    pub origin: Origin,
    /// One sentence for people.
    pub description: &'static str,
}

impl MetricInfo {
    /// Where a cgroup v2 file shows the same value; `None` if none does.
    pub fn v2(&self) -> Option<KernelFile> {
        match self.origin {
            Origin::Files { v2, .. } => Some(v2),
            Origin::Collector(_) => None,
        }
    }

    /// Where a file of cgroup v1 does; `None` if none does, or not with the same meaning.
    pub fn v1(&self) -> Option<KernelFile> {
        match self.origin {
            Origin::Files { v1, .. } => v1,
            Origin::Collector(_) => None,
        }
    }

    /// How closely its file has to agree with it.
    pub fn agreement(&self) -> Agreement {
        match self.group {
            MetricGroup::MemoryStat => Agreement::FlushThreshold,
            _ => Agreement::Between,
        }
    }
}

impl Metric {
    /// Every metric, in the order of their numbers.
    pub const ALL: &[Self] = &{
        let mut all = [Self::CpuUsage; catalogue::CATALOGUE.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = catalogue::CATALOGUE[at].metric;
            at += 1;
        }
        all
    };

    /// Its entry in the catalogue.
    pub fn info(self) -> &'static MetricInfo {
        &catalogue::CATALOGUE[self as usize]
    }

    /// Its field path in `CgroupSample`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The metric with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|metric| metric.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_with_its_group_and_ends_in_its_unit() {
        for metric in Metric::ALL {
            let info = metric.info();
            let field = info.name.strip_prefix(info.group.name()).and_then(|rest| rest.strip_prefix('.'));
            let field = field.unwrap_or_else(|| panic!("{} is not of group {:?}", info.name, info.group));
            assert!(info.unit == "1" || field.ends_with(info.unit), "{}: {}", info.name, info.unit);
        }
    }

    #[test]
    fn a_metric_is_found_by_its_name() {
        for metric in Metric::ALL {
            assert_eq!(Metric::from_name(metric.name()), Some(*metric), "names are unique");
        }
        assert_eq!(Metric::from_name("cpu"), None);
    }
}
