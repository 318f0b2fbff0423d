//! Where each metric comes from on this host, and why.

use cgfleet_model::{Collector, Metric, MetricGroup};
use cgfleet_proto::v1::Source;

use super::bpf::{self, MemoryStatIndex, RAWS};
use crate::cgroupfs::{Hierarchies, Hierarchy, has_file};

/// Where one metric comes from, of ordinary cgroups whose controllers are enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricSource {
    /// The metric.
    pub metric: Metric,
    /// `None`: it cannot be read.
    pub source: Option<Source>,
    /// The hierarchy that has it; empty for cgroup v2.
    pub hierarchy: String,
    /// Why this source.
    pub reason: String,
}

/// The sources of every metric. `memory_stat` is `None` without BPF.
pub(super) fn sources(hierarchies: &Hierarchies, memory_stat: Option<&MemoryStatIndex>) -> Vec<MetricSource> {
    Metric::ALL.iter().map(|metric| source(hierarchies, memory_stat, *metric)).collect()
}

fn source(hierarchies: &Hierarchies, memory_stat: Option<&MemoryStatIndex>, metric: Metric) -> MetricSource {
    if let Some(collector) = Collector::of_group(metric.info().group) {
        // Whether it is there may change; the service asks it.
        let reason = format!("counted by the collector {collector}");
        return MetricSource { metric, source: None, hierarchy: String::new(), reason };
    }
    let controller = controller_of(metric);
    let of_v2 = hierarchies.by_id(0).filter(|_| controller.is_none_or(|it| hierarchies.has_on_v2(it)));
    let of_v1 = || {
        let mut v1 = hierarchies.iter().filter(|hierarchy| !hierarchy.is_v2());
        v1.find(|hierarchy| is_on_v1(hierarchy, metric))
    };
    let Some(hierarchy) = of_v2.or_else(of_v1) else {
        let controller = controller.unwrap_or("cgroup v2");
        let reason = format!("no hierarchy that is mounted has it ({controller})");
        return MetricSource { metric, source: None, hierarchy: String::new(), reason };
    };
    let (source, reason) = match memory_stat {
        None => (Some(Source::File), "without BPF, every value is read from its file".to_owned()),
        Some(memory_stat) => with_bpf(hierarchy, memory_stat, metric),
    };
    MetricSource { metric, source, hierarchy: hierarchy.name.clone(), reason }
}

fn with_bpf(
    hierarchy: &Hierarchy,
    memory_stat: &MemoryStatIndex,
    metric: Metric,
) -> (Option<Source>, String) {
    let group = metric.info().group;
    let is_v1_cpu_time = !hierarchy.is_v2() && hierarchy.has_controller("cpuacct");
    let (source, reason) = match group {
        MetricGroup::Cpu if is_v1_cpu_time => (Some(Source::File), "cgroup v1 keeps it outside rstat"),
        MetricGroup::Cpu if !bpf::is_read_by_bpf(metric, memory_stat) => (
            None,
            "the kernel scales it only when cpu.stat is read; given for the root, on cgroup v1 (cpuacct) and by \
             the files engine",
        ),
        MetricGroup::MemoryStat => return of_memory_stat(memory_stat, metric),
        MetricGroup::Pressure => {
            (Some(Source::Bpf), "kept by psi; as of the kernel's last update, 2 s at most")
        }
        MetricGroup::Structure => (Some(Source::Bpf), "of the cgroup itself"),
        MetricGroup::Cpu if metric == Metric::CpuUsage => {
            (Some(Source::Bpf), "kept by rstat; from cpu.stat for the root")
        }
        _ => (Some(Source::Bpf), "kept by the controller"),
    };
    (source, reason.to_owned())
}

fn of_memory_stat(memory_stat: &MemoryStatIndex, metric: Metric) -> (Option<Source>, String) {
    if bpf::is_read_by_bpf(metric, memory_stat) {
        return (Some(Source::Bpf), format!("its place is {}", memory_stat.method_of(metric)));
    }
    if memory_stat.unshown().contains(metric) {
        return (None, "the memory.stat of this kernel does not show it".to_owned());
    }
    let reason =
        "its place among the kernel's counters is not certain; a walk that asks for it reads memory.stat";
    (Some(Source::File), reason.to_owned())
}

/// The controller that has to be there for a metric; `None` for what every cgroup v2 cgroup has.
fn controller_of(metric: Metric) -> Option<&'static str> {
    match metric.info().group {
        MetricGroup::Cpu if matches!(metric, Metric::CpuUsage | Metric::CpuUser | Metric::CpuSystem) => None,
        MetricGroup::Cpu => Some("cpu"),
        MetricGroup::Memory
        | MetricGroup::MemoryStat
        | MetricGroup::MemoryEvents
        | MetricGroup::MemoryEventsLocal => Some("memory"),
        MetricGroup::Io => Some("io"),
        MetricGroup::Pids => Some("pids"),
        // No controller counts what collectors count.
        MetricGroup::Pressure
        | MetricGroup::Structure
        | MetricGroup::Reclaim
        | MetricGroup::Attach
        | MetricGroup::Runqueue
        | MetricGroup::BlockIo => None,
    }
}

/// Whether a v1 hierarchy shows it, or keeps it as v2 does.
fn is_on_v1(hierarchy: &Hierarchy, metric: Metric) -> bool {
    let is_kept = controller_of(metric).is_some_and(|controller| hierarchy.has_controller(controller))
        && RAWS.iter().any(|raw| raw.metric == metric && raw.is_in(hierarchy.id));
    has_file(hierarchy, metric) || is_kept
}
