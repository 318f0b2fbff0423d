//! What this host can do.

use cgfleet_model::Metric;
use cgfleet_proto::v1::{GetCapabilitiesResponse, Hierarchy, MetricCapability, Source, WalkEngine};

use super::{Agent, spec};
use crate::walker::Order;

pub(super) fn capabilities(agent: &Agent) -> GetCapabilitiesResponse {
    let hierarchies = agent.hierarchies.iter().map(|hierarchy| Hierarchy {
        hierarchy_id: hierarchy.id,
        name: hierarchy.name.clone(),
        mount_point: hierarchy.mount_point.to_string_lossy().into_owned(),
    });
    GetCapabilitiesResponse {
        host_id: agent.identity.host_id.to_string(),
        hostname: agent.identity.hostname.clone(),
        kernel_release: agent.identity.kernel_release.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        engines: vec![WalkEngine::Unlocked.into(), WalkEngine::Locked.into()],
        orders: Order::ALL.into_iter().map(|order| spec::wire_order(order).into()).collect(),
        hierarchies: hierarchies.collect(),
        metrics: Metric::ALL.into_iter().map(metric).collect(),
        walk_rows_max: agent.walk_rows_max,
        sample_interval: agent.sampler.interval().try_into().ok(),
    }
}

fn metric(metric: Metric) -> MetricCapability {
    let (source, reason) = match metric {
        Metric::CpuUsage => {
            (Source::Bpf, "kept by rstat; from cpu.stat for the root, from cpuacct on cgroup v1")
        }
        Metric::CpuUser | Metric::CpuSystem => (
            Source::Unspecified,
            "the kernel scales it only when cpu.stat is read; given for the root and on cgroup v1 (cpuacct)",
        ),
    };
    MetricCapability { metric: metric.name().to_owned(), source: source.into(), reason: reason.to_owned() }
}
