//! Collectors: what the agent's own BPF programs count, because no file of the kernel shows it.

use std::fmt;

use crate::MetricGroup;

/// A collector, which counts one kind of event by cgroup. Its metrics are the group of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Collector {
    /// Direct reclaim.
    Reclaim,
    /// Tasks that move.
    Attach,
    /// Waiting for a CPU.
    Runqueue,
    /// Requests to block devices.
    BlockIo,
}

impl Collector {
    /// Every collector, in the order of their groups.
    pub const ALL: &[Self] = &[Self::Reclaim, Self::Attach, Self::Runqueue, Self::BlockIo];

    /// The group of its metrics.
    pub fn group(self) -> MetricGroup {
        match self {
            Self::Reclaim => MetricGroup::Reclaim,
            Self::Attach => MetricGroup::Attach,
            Self::Runqueue => MetricGroup::Runqueue,
            Self::BlockIo => MetricGroup::BlockIo,
        }
    }

    /// The collector that counts a group's metrics; `None` if the kernel keeps them.
    pub fn of_group(group: MetricGroup) -> Option<Self> {
        Self::ALL.iter().copied().find(|collector| collector.group() == group)
    }

    /// Its name, which is its group's.
    pub fn name(self) -> &'static str {
        self.group().name()
    }

    /// The collector with this name.
    pub fn from_name(name: &str) -> Result<Self, UnknownCollector> {
        let found = Self::ALL.iter().copied().find(|collector| collector.name() == name);
        found.ok_or_else(|| UnknownCollector { name: name.to_owned() })
    }

    /// One sentence for people: which events, and whose they are.
    pub fn description(self) -> &'static str {
        match self {
            Self::Reclaim => {
                "Direct reclaim of a memory cgroup (limits, memory.high, memory.reclaim), by the cgroup of the \
                 task that reclaims."
            }
            Self::Attach => "Tasks moved into a cgroup by cgroup.procs or cgroup.threads, forks not counted.",
            Self::Runqueue => "Time from a task's wakeup or preemption until it runs, by the task's cgroup.",
            Self::BlockIo => {
                "Time from issue to completion of a block request, by the cgroup that it is charged to."
            }
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no collector has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown collector {name:?}; allowed: {}", Self::allowed())]
pub struct UnknownCollector {
    /// The name as given.
    pub name: String,
}

impl UnknownCollector {
    /// What is allowed, for people.
    pub fn allowed() -> String {
        let names: Vec<&str> = Collector::ALL.iter().map(|collector| collector.name()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metric, Origin};

    #[test]
    fn a_collector_has_the_name_and_the_metrics_of_its_group() {
        for collector in Collector::ALL {
            assert_eq!(Collector::from_name(collector.name()), Ok(*collector));
            assert_eq!(Collector::of_group(collector.group()), Some(*collector));
            assert!(collector.group().metrics().count() > 0, "{collector}");
        }
        for metric in Metric::ALL {
            let info = metric.info();
            let counted_by = match info.origin {
                Origin::Collector(collector) => Some(collector),
                Origin::Files { .. } => None,
            };
            assert_eq!(counted_by, Collector::of_group(info.group), "{}", info.name);
            assert_eq!(counted_by.is_some(), info.v2().is_none(), "{}", info.name);
        }
    }

    #[test]
    fn a_name_that_no_collector_has_is_refused_with_those_that_have_one() {
        let check = |name: &str| {
            let refused = Collector::from_name(name).unwrap_err().to_string();
            assert_eq!(
                refused,
                format!("unknown collector {name:?}; allowed: reclaim, attach, runqueue, block_io")
            );
        };
        ["", "cpu", "Reclaim", "reclaim.count"].into_iter().for_each(check);
    }
}
