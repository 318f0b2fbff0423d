//! What this host can do.

use cgfleet_privileges::{Held, PrivilegeError};
use cgfleet_proto::v1::{
    AgentLimit, CgroupLayout, Collector, CollectorFolding, CollectorState, EngineCapability,
    GetCapabilitiesResponse, Hierarchy, MetricCapability, Privileges, RemovedValues, Source,
};

use super::spec;
use crate::{
    cgroupfs::Hierarchies,
    config::AgentConfig,
    identity::Identity,
    walker::{self, Description, Engine, MetricSource, Order, WalkEngine},
};

/// What does not change while the agent runs.
pub(crate) fn capabilities(
    engine: &Engine,
    identity: &Identity,
    hierarchies: &Hierarchies,
    config: &AgentConfig,
) -> Result<GetCapabilitiesResponse, PrivilegeError> {
    let mounted = hierarchies.iter().map(|hierarchy| Hierarchy {
        hierarchy_id: hierarchy.id,
        name: hierarchy.name.clone(),
        mount_point: hierarchy.mount_point.to_string_lossy().into_owned(),
    });
    let Held { uid, gid, capabilities, no_new_privs } = Held::now()?;
    Ok(GetCapabilitiesResponse {
        host_id: identity.host_id.to_string(),
        hostname: identity.hostname.clone(),
        kernel_release: identity.kernel_release.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        engines: engine.engines().into_iter().map(engine_capability).collect(),
        orders: Order::ALL.into_iter().map(|order| spec::wire_order(order).into()).collect(),
        hierarchies: mounted.collect(),
        metrics: Vec::new(),
        layout: layout(hierarchies).into(),
        sample_interval: config.sample_interval.get().try_into().ok(),
        has_cgroup_namespace: hierarchies.has_namespace(),
        limits: limits(config),
        privileges: Some(Privileges { uid, gid, capabilities, no_new_privs }),
        collectors: Vec::new(),
        removed_values: engine
            .removed_values()
            .map_or(RemovedValues::Unspecified, walker::RemovedValues::to_wire)
            .into(),
    })
}

/// Capabilities, with what may change as it is now.
pub(super) fn described(
    capabilities: GetCapabilitiesResponse,
    Description { sources, collectors }: Description,
) -> GetCapabilitiesResponse {
    let mut metrics: Vec<_> = sources.into_iter().map(metric).collect();
    for metric in &mut metrics {
        let of_metric = |collector: &&Collector| {
            metric.metric.strip_prefix(&collector.name).is_some_and(|rest| rest.starts_with('.'))
        };
        let Some(collector) = collectors.iter().find(of_metric) else { continue };
        let source = match (collector.state(), collector.folding()) {
            (CollectorState::On, CollectorFolding::Rstat) => Source::Rstat,
            (CollectorState::On, _) => Source::Fold,
            _ => Source::Unspecified,
        };
        metric.set_source(source);
        metric.reason = match collector.state() {
            CollectorState::On => collector.folding_reason.clone(),
            CollectorState::Unavailable => collector.reason.clone(),
            _ => format!("its collector is off; `cgctl collectors --enable {}`", collector.name),
        };
    }
    GetCapabilitiesResponse { metrics, collectors, ..capabilities }
}

fn engine_capability((engine, available): (WalkEngine, Result<&'static str, String>)) -> EngineCapability {
    let (available, reason) = match available {
        Ok(remark) => (true, remark.to_owned()),
        Err(reason) => (false, reason),
    };
    EngineCapability { engine: engine.to_wire().into(), available, reason }
}

fn metric(MetricSource { metric, source, hierarchy, reason }: MetricSource) -> MetricCapability {
    let source = source.unwrap_or(Source::Unspecified).into();
    MetricCapability { metric: metric.name().to_owned(), source, reason, hierarchy }
}

fn layout(hierarchies: &Hierarchies) -> CgroupLayout {
    let has_controllers = |name: &str| !name.is_empty() && !name.starts_with("name=");
    let has_v1 = hierarchies.iter().any(|hierarchy| has_controllers(&hierarchy.name));
    match (hierarchies.by_id(0).is_some(), has_v1) {
        (true, false) => CgroupLayout::V2,
        (true, true) => CgroupLayout::Hybrid,
        (false, true) => CgroupLayout::V1,
        (false, false) => CgroupLayout::Unspecified,
    }
}

fn limits(config: &AgentConfig) -> Vec<AgentLimit> {
    let limits = [
        ("walk_rows_max", config.walk_rows_max),
        ("slice_rows_max", config.slice_rows_max),
        ("slice_names_max", config.slice_names_max),
        ("locked_rows_max", config.locked_rows_max),
        ("collector_cgroups_max", config.collector_cgroups_max),
        ("walk_queue_max", config.walk_queue_max),
        ("walk_waiters_max", config.walk_waiters_max),
        ("walk_cache_rows_max", config.walk_cache_rows_max),
        ("flush_waiters_max", config.flush_waiters_max),
        ("flushes_per_second_max", config.flushes_per_second_max),
        ("subscribers_max", config.subscribers_max),
        ("views_max", config.views_max),
    ];
    limits.map(|(key, value)| AgentLimit { key: key.to_owned(), value: value.into() }).into()
}
