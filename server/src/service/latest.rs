//! GetLatest: what the last ticks of hosts had.

use std::sync::Arc;

use cgfleet_model::MetricSet;
use cgfleet_proto::{
    metrics_of_read_mask,
    v1::{
        CgroupTarget, GetLatestRequest, GetLatestResponse, HostError, LatestTick as WireTick, SampleBatch,
        get_latest_response::Part,
    },
};
use cgfleet_rpc::wire_error::WireError;
use futures::{StreamExt as _, stream};

use super::{Answers, Fleet, query::select};
use crate::{
    hosts::Host,
    latest::{LatestTarget, LatestTick, SharedTick, TickMoment},
    store::{Store, StoreError},
};

/// The most rows in one message.
const BATCH_ROWS_MAX: usize = 1000;

/// What is wanted of each host.
#[derive(Debug, Clone)]
struct Wanted {
    target: LatestTarget,
    max_depth: Option<u32>,
    metrics: MetricSet,
}

pub(super) fn get_latest(
    fleet: &Fleet,
    request: GetLatestRequest,
) -> Result<Answers<GetLatestResponse>, WireError> {
    let wanted = Wanted {
        target: target(request.target.unwrap_or_default())?,
        max_depth: request.max_depth,
        metrics: metrics_of_read_mask(request.read_mask.as_ref())?,
    };
    let hosts = select(fleet, &request.hosts.unwrap_or_default())?;
    let store = fleet.store.clone();
    // One host at a time is made, and waits for who reads.
    let answers = stream::iter(hosts).then(move |host| {
        let (store, wanted) = (store.clone(), wanted.clone());
        async move { stream::iter(answer(&host, &store, &wanted).await) }
    });
    Ok(Box::pin(answers.flatten().map(Ok)))
}

/// Empty is the root.
fn target(CgroupTarget { path, cgroup_id, hierarchy }: CgroupTarget) -> Result<LatestTarget, WireError> {
    if !hierarchy.is_empty() {
        return Err(WireError::invalid_field("target.hierarchy", hierarchy, "empty: ticks are of cgroup v2"));
    }
    match (path.as_str(), cgroup_id) {
        (_, 0) => {
            let names = path.split('/').filter(|name| !name.is_empty() && *name != ".");
            let path: String = names.flat_map(|name| ["/", name]).collect();
            Ok(LatestTarget::Path(if path.is_empty() { "/".to_owned() } else { path }))
        }
        ("", cgroup_id) => Ok(LatestTarget::Id(cgroup_id)),
        (path, cgroup_id) => {
            let allowed = format!("path or cgroup_id, not both (cgroup_id is {cgroup_id})");
            Err(WireError::invalid_field("target.path", path, allowed))
        }
    }
}

/// All parts of a host.
async fn answer(host: &Arc<Host>, store: &Store, wanted: &Wanted) -> Vec<GetLatestResponse> {
    let parts = match latest(host, store).await {
        Ok(tick) => {
            tick.map_or_else(|| vec![Part::Tick(WireTick::default())], |tick| parts(&tick.lock(), wanted))
        }
        Err(error) => vec![Part::Error(HostError::from(WireError::from(error)))],
    };
    let (host_id, hostname) = (host.host_id().to_string(), host.record().hostname);
    let response =
        |part| GetLatestResponse { host_id: host_id.clone(), hostname: hostname.clone(), part: Some(part) };
    parts.into_iter().map(response).collect()
}

/// From memory, or from the store until ingest has received one since the server started.
async fn latest(host: &Host, store: &Store) -> Result<Option<SharedTick>, StoreError> {
    if let Some(tick) = host.latest() {
        return Ok(Some(tick));
    }
    let Some(stored) = store.latest_tick(host.host_id()).await? else { return Ok(None) };
    let moment = TickMoment {
        agent_epoch: stored.agent_epoch,
        sequence: stored.sequence,
        boot_id: stored.boot_id,
        tick_at: stored.tick_at,
        sampled_at: stored.sampled_at,
    };
    let damaged = |source| StoreError::Payload { host_id: host.host_id(), tick_at: stored.tick_at, source };
    let tick = LatestTick::of_stored(moment, &stored.samples).map_err(damaged)?;
    Ok(Some(host.latest_or(SharedTick::from(tick))))
}

fn parts(tick: &LatestTick, wanted: &Wanted) -> Vec<Part> {
    let Some(moment) = tick.moment() else { return vec![Part::Tick(WireTick::default())] };
    let rows = tick.rows(&wanted.target, wanted.max_depth, wanted.metrics);
    let end = WireTick {
        tick_at: Some(moment.tick_at.into()),
        sampled_at: Some(moment.sampled_at.into()),
        agent_epoch: moment.agent_epoch.to_string(),
        sequence: moment.sequence,
        boot_id: moment.boot_id.to_string(),
        rows: rows.len() as u64,
    };
    let batches = rows.chunks(BATCH_ROWS_MAX).map(|rows| Part::Rows(SampleBatch { samples: rows.to_vec() }));
    batches.chain([Part::Tick(end)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_or_an_id_of_v2() {
        let check = |path: &str, cgroup_id, expect: Option<LatestTarget>| {
            let wire = CgroupTarget { path: path.into(), cgroup_id, ..CgroupTarget::default() };
            assert_eq!(target(wire).ok(), expect, "{path} {cgroup_id}");
        };
        let path = |path: &str| Some(LatestTarget::Path(path.into()));
        check("", 0, path("/"));
        check("//a/./b/", 0, path("/a/b"));
        check("", 7, Some(LatestTarget::Id(7)));
        check("/a", 7, None);
        assert!(target(CgroupTarget { hierarchy: "cpu".into(), ..CgroupTarget::default() }).is_err());
    }
}
