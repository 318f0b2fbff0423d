//! Which number of a kernel record is which metric, and in which unit the kernel holds it: pure.

use cgfleet_ebpf::abi;
use cgfleet_model::{Comparison, Condition, Limit, Metric, MetricSet};

use crate::kernel::StopWhen;

/// How the kernel holds a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::walker) enum RawUnit {
    /// As the metric has it.
    Same,
    /// Nanoseconds, where the metric has microseconds.
    Nanoseconds,
    /// Pages, where the metric has bytes.
    Pages,
    /// Pages, of which so many mean no limit: PAGE_COUNTER_MAX (include/linux/page_counter.h).
    PageLimit,
    /// Tasks, of which so many mean no limit: PIDS_MAX (kernel/cgroup/pids.c).
    PidLimit,
}

/// One number.
#[derive(Debug, Clone, Copy)]
pub(in crate::walker) struct Raw {
    pub(in crate::walker) metric: Metric,
    pub(super) group: abi::cg_group,
    pub(super) detail: abi::cg_detail,
    pub(super) unit: RawUnit,
}

/// The kernel's page size, in bytes.
pub(super) fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

fn page_counter_max() -> u64 {
    i64::MAX.cast_unsigned() / page_bytes()
}

/// PID_MAX_LIMIT + 1 (include/linux/threads.h).
const PIDS_MAX: u64 = 4 * 1024 * 1024 + 1;
const NS_PER_USEC: u64 = 1000;

impl RawUnit {
    /// The kernel's number in the metric's unit.
    pub(super) fn to_metric(self, raw: u64) -> u64 {
        match self {
            Self::Nanoseconds => raw / NS_PER_USEC,
            Self::PageLimit if raw >= page_counter_max() => Limit::Max.into(),
            Self::PidLimit if raw >= PIDS_MAX => Limit::Max.into(),
            Self::Pages | Self::PageLimit => raw.saturating_mul(page_bytes()),
            Self::Same | Self::PidLimit => raw,
        }
    }

    /// The least number of the kernel's that comes to `value` or more.
    fn least_of(self, value: u64) -> u64 {
        match self {
            Self::Same => value,
            Self::Nanoseconds => value.saturating_mul(NS_PER_USEC),
            Self::PidLimit => value.min(PIDS_MAX),
            Self::Pages => value.div_ceil(page_bytes()),
            // Nothing is between the largest limit and none.
            Self::PageLimit => value.div_ceil(page_bytes()).min(page_counter_max()),
        }
    }
}

macro_rules! raws {
    ($($group:ident { $($metric:ident: $detail:ident as $unit:ident,)* })*) => {
        /// Every number that is in `cg_record` or `cg_details`.
        pub(in crate::walker) const RAWS: &[Raw] = &[$($(Raw {
            metric: Metric::$metric,
            group: abi::$group,
            detail: abi::$detail,
            unit: RawUnit::$unit,
        },)*)*];
    };
}

raws! {
    CG_GROUP_CPU {
        CpuUsage: CG_DETAIL_CPU_USAGE as Nanoseconds,
    }
    CG_GROUP_BANDWIDTH {
        CpuNrPeriods: CG_NR_PERIODS as Same,
        CpuNrThrottled: CG_NR_THROTTLED as Same,
        CpuThrottled: CG_THROTTLED_NS as Nanoseconds,
    }
    CG_GROUP_MEMORY {
        MemoryCurrent: CG_MEMORY_USAGE as Pages,
        MemoryPeak: CG_MEMORY_WATERMARK as Pages,
        MemorySwapCurrent: CG_SWAP_USAGE as Pages,
        MemoryMin: CG_MEMORY_MIN as PageLimit,
        MemoryLow: CG_MEMORY_LOW as PageLimit,
        MemoryHigh: CG_MEMORY_HIGH as PageLimit,
        MemoryMax: CG_MEMORY_MAX as PageLimit,
        MemorySwapMax: CG_SWAP_MAX as PageLimit,
    }
    CG_GROUP_MEMORY_EVENTS {
        MemoryEventsLow: CG_EVENTS_LOW as Same,
        MemoryEventsHigh: CG_EVENTS_HIGH as Same,
        MemoryEventsMax: CG_EVENTS_MAX as Same,
        MemoryEventsOom: CG_EVENTS_OOM as Same,
        MemoryEventsOomKill: CG_EVENTS_OOM_KILL as Same,
        MemoryEventsOomGroupKill: CG_EVENTS_OOM_GROUP_KILL as Same,
    }
    CG_GROUP_MEMORY_EVENTS_LOCAL {
        MemoryEventsLocalLow: CG_EVENTS_LOCAL_LOW as Same,
        MemoryEventsLocalHigh: CG_EVENTS_LOCAL_HIGH as Same,
        MemoryEventsLocalMax: CG_EVENTS_LOCAL_MAX as Same,
        MemoryEventsLocalOom: CG_EVENTS_LOCAL_OOM as Same,
        MemoryEventsLocalOomKill: CG_EVENTS_LOCAL_OOM_KILL as Same,
        MemoryEventsLocalOomGroupKill: CG_EVENTS_LOCAL_OOM_GROUP_KILL as Same,
    }
    CG_GROUP_IO {
        IoRbytes: CG_IO_RBYTES as Same,
        IoWbytes: CG_IO_WBYTES as Same,
        IoDbytes: CG_IO_DBYTES as Same,
        IoRios: CG_IO_RIOS as Same,
        IoWios: CG_IO_WIOS as Same,
        IoDios: CG_IO_DIOS as Same,
    }
    CG_GROUP_PIDS {
        PidsCurrent: CG_PIDS_COUNTER as Same,
        PidsMax: CG_PIDS_LIMIT as PidLimit,
    }
    CG_GROUP_PRESSURE {
        PressureIoSome: CG_PSI_IO_SOME_NS as Nanoseconds,
        PressureIoFull: CG_PSI_IO_FULL_NS as Nanoseconds,
        PressureMemorySome: CG_PSI_MEMORY_SOME_NS as Nanoseconds,
        PressureMemoryFull: CG_PSI_MEMORY_FULL_NS as Nanoseconds,
        PressureCpuSome: CG_PSI_CPU_SOME_NS as Nanoseconds,
        PressureCpuFull: CG_PSI_CPU_FULL_NS as Nanoseconds,
    }
    CG_GROUP_STRUCTURE {
        StructurePopulated: CG_POPULATED as Same,
        StructureFrozen: CG_FROZEN as Same,
        StructureNrDescendants: CG_NR_DESCENDANTS as Same,
        StructureNrDyingDescendants: CG_NR_DYING_DESCENDANTS as Same,
    }
}

/// Of cgroup v1, what means something else there than the metric says, or is nowhere shown: minima and the
/// like were never settable, and swap is counted together with memory.
const NOT_ON_V1: &[Metric] = &[
    Metric::MemorySwapCurrent,
    Metric::MemoryMin,
    Metric::MemoryLow,
    Metric::MemoryHigh,
    Metric::MemorySwapMax,
    Metric::MemoryEventsLow,
    Metric::MemoryEventsHigh,
    Metric::MemoryEventsMax,
    Metric::MemoryEventsOom,
    Metric::MemoryEventsOomKill,
    Metric::MemoryEventsOomGroupKill,
    Metric::MemoryEventsLocalLow,
    Metric::MemoryEventsLocalHigh,
    Metric::MemoryEventsLocalMax,
    Metric::MemoryEventsLocalOom,
    Metric::MemoryEventsLocalOomKill,
    Metric::MemoryEventsLocalOomGroupKill,
    Metric::StructureFrozen,
];

impl Raw {
    /// Whether it means the same in this hierarchy as in cgroup v2.
    pub(in crate::walker) fn is_in(&self, hierarchy_id: u32) -> bool {
        hierarchy_id == 0 || !NOT_ON_V1.contains(&self.metric)
    }
}

/// The record groups that hold any of these metrics.
pub(in crate::walker) fn groups_of(metrics: MetricSet) -> abi::cg_group {
    RAWS.iter().filter(|raw| metrics.contains(raw.metric)).fold(0, |groups, raw| groups | raw.group)
}

/// The condition as the kernel side can test it; `None` if the metric is no number of this hierarchy's
/// records.
pub(super) fn stop_when(condition: Condition, hierarchy_id: u32) -> Option<StopWhen> {
    let raw = RAWS.iter().find(|raw| raw.metric == condition.metric && raw.is_in(hierarchy_id))?;
    // Whole numbers: at most v is less than v + 1.
    let (comparison, bound) = match condition.comparison {
        Comparison::Less => (abi::CG_LESS, Some(condition.value)),
        Comparison::LessOrEqual => (abi::CG_LESS, condition.value.checked_add(1)),
        Comparison::GreaterOrEqual => (abi::CG_GREATER_OR_EQUAL, Some(condition.value)),
        Comparison::Greater => (abi::CG_GREATER_OR_EQUAL, condition.value.checked_add(1)),
    };
    // Behind the largest number there is nothing: everything is less than that.
    let value = bound.map(|bound| raw.unit.least_of(bound));
    let comparison_value = match (comparison, value) {
        (comparison, Some(value)) => (comparison, value),
        (abi::CG_LESS, None) => (abi::CG_GREATER_OR_EQUAL, 0),
        (_, None) => (abi::CG_LESS, 0),
    };
    Some(StopWhen {
        group: raw.group,
        detail: raw.detail,
        comparison: comparison_value.0,
        value: comparison_value.1,
    })
}

#[cfg(test)]
mod tests {
    use cgfleet_model::{MetricGroup, MetricKind};

    use super::*;

    /// What walks read of every group but memory.stat, and what they do not.
    #[test]
    fn every_metric_is_a_number_of_a_record_or_named_here() {
        let elsewhere = [Metric::CpuUser, Metric::CpuSystem];
        for metric in Metric::ALL {
            let count = RAWS.iter().filter(|raw| raw.metric == *metric).count();
            let info = metric.info();
            let is_elsewhere = info.group == MetricGroup::MemoryStat || elsewhere.contains(metric);
            let in_record = !is_elsewhere && info.v2().is_some();
            assert_eq!(count, usize::from(in_record), "{}", metric.name());
        }
        let mut details: Vec<_> = RAWS.iter().map(|raw| raw.detail).collect();
        details.sort_unstable();
        assert_eq!(details, (0..=abi::CG_DETAILS).collect::<Vec<_>>(), "each number is one metric");
    }

    /// What the kernel side does (ebpf/src/record.h, is_stop_when).
    fn holds(stop: StopWhen, raw: u64) -> bool {
        if stop.comparison == abi::CG_LESS { raw < stop.value } else { raw >= stop.value }
    }

    #[test]
    fn a_condition_holds_in_the_kernel_where_it_holds_for_the_metric() {
        let interesting = |unit| {
            let edges = [0, 1, 999, 1000, 1001, 4095, 4096, 4097, PIDS_MAX - 1, PIDS_MAX, page_counter_max()];
            edges.into_iter().filter(move |raw| unit != RawUnit::PidLimit || *raw <= PIDS_MAX)
        };
        for raw in RAWS {
            let is_limit = raw.metric.info().kind == MetricKind::Limit;
            for value in [0, 1, 2, 4096, 4097, 1_000_000, u64::MAX - 1, u64::MAX] {
                if value == u64::MAX && !is_limit {
                    continue;
                }
                for comparison in [
                    Comparison::Less,
                    Comparison::LessOrEqual,
                    Comparison::Greater,
                    Comparison::GreaterOrEqual,
                ] {
                    let condition = Condition { metric: raw.metric, comparison, value };
                    let stop = stop_when(condition, 0).unwrap();
                    for number in interesting(raw.unit) {
                        let expect = condition.holds(Some(raw.unit.to_metric(number)));
                        assert_eq!(holds(stop, number), expect, "{condition} of {number} ({:?})", raw.unit);
                    }
                }
            }
        }
        let user = Condition { metric: Metric::CpuUser, comparison: Comparison::Less, value: 1 };
        assert_eq!(stop_when(user, 0), None);
        let frozen = Condition { metric: Metric::StructureFrozen, ..user };
        assert_eq!((stop_when(frozen, 0).is_some(), stop_when(frozen, 4)), (true, None), "not of v1");
    }
}
