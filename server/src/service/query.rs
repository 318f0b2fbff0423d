//! Query over many hosts, and what every call over many hosts has: whom it asks, and how long.

use std::{sync::Arc, time::Duration};

use cgfleet_model::{Metric, UnknownMetric};
use cgfleet_proto::{
    metrics_of_read_mask,
    v1::{
        CgroupOrder, Comparison, Condition, FlushMode, HierarchyJoin, HostResult, HostSelector, QueryRequest,
        QueryResponse, QuerySummary, WalkEnd, WalkEngine, WalkSpec, host_result, query_response::Event,
    },
};
use cgfleet_rpc::{deadline, duration, wire_error::WireError, workload};
use futures::{StreamExt as _, stream};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Request, metadata::MetadataMap};
use tracing::Instrument as _;

use super::{Answers, Fleet};
use crate::{
    fanout::{self, HostWalk, Limits, Part},
    hosts::Host,
};

/// The longest that one host may be given.
const HOST_TIMEOUT_MAX: Duration = Duration::from_mins(5);
/// Of a caller's deadline, what is kept back to tell it which hosts did not answer.
const KEPT_BACK_MAX: Duration = Duration::from_millis(500);

pub(super) fn query(
    fleet: &Fleet,
    request: Request<QueryRequest>,
) -> Result<Answers<QueryResponse>, WireError> {
    let (metadata, _, request) = request.into_parts();
    let spec = checked(request.spec)?;
    let limits = limits(fleet, &metadata, request.host_timeout)?;
    let hosts = select(fleet, &request.hosts.unwrap_or_default())?;
    let (sender, parts) = mpsc::channel(fanout::WAITING_PARTS_MAX);
    let summary =
        QuerySummary { hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX), ..QuerySummary::default() };
    tokio::spawn(fanout::walk_all(hosts, spec, limits, sender).in_current_span());
    let events = stream::unfold(Answer { parts, summary: Some(summary) }, Answer::next);
    Ok(Box::pin(events.map(|event| Ok(QueryResponse { event: Some(event) }))))
}

/// An answer as it comes: parts of the hosts, then the summary.
struct Answer {
    parts: mpsc::Receiver<Part>,
    /// `None` when it was given.
    summary: Option<QuerySummary>,
}

impl Answer {
    async fn next(mut self) -> Option<(Event, Self)> {
        let event = match self.parts.recv().await {
            Some(Part::Samples(samples)) => Event::Samples(samples),
            Some(Part::Walked(walk)) => {
                let result = result(walk);
                if let Some(summary) = &mut self.summary {
                    tally(summary, &result);
                }
                Event::Result(result)
            }
            None => Event::Summary(self.summary.take()?),
        };
        Some((event, self))
    }
}

fn result(HostWalk { host, rows, outcome }: HostWalk) -> HostResult {
    let outcome = match outcome {
        Ok(summary) => host_result::Outcome::Summary(summary),
        Err(error) => host_result::Outcome::Error(error.into()),
    };
    HostResult {
        host_id: host.host_id().to_string(),
        hostname: host.record().hostname,
        rows,
        outcome: Some(outcome),
    }
}

fn tally(summary: &mut QuerySummary, result: &HostResult) {
    let end = match &result.outcome {
        Some(host_result::Outcome::Summary(summary)) => Some(summary.end()),
        _ => None,
    };
    match end {
        Some(WalkEnd::Complete | WalkEnd::Limit | WalkEnd::StopAt | WalkEnd::StopWhen) => {
            summary.hosts_complete += 1;
        }
        Some(WalkEnd::Truncated) => summary.hosts_truncated += 1,
        Some(WalkEnd::TargetGone | WalkEnd::Unspecified) | None => summary.hosts_failed += 1,
    }
}

/// Refuses here what every agent would refuse, so that the answer is one error and not a thousand.
fn checked(spec: Option<WalkSpec>) -> Result<WalkSpec, WireError> {
    let spec = spec.ok_or_else(|| WireError::invalid_field("spec", "", "a walk's specification"))?;
    metrics_of_read_mask(spec.read_mask.as_ref())?;
    if matches!(CgroupOrder::try_from(spec.order), Err(_) | Ok(CgroupOrder::Unspecified)) {
        let allowed = "an order of CgroupOrder other than CGROUP_ORDER_UNSPECIFIED";
        return Err(WireError::invalid_field("spec.order", spec.order, allowed));
    }
    if WalkEngine::try_from(spec.engine).is_err() {
        return Err(WireError::invalid_field("spec.engine", spec.engine, "an engine of WalkEngine"));
    }
    if HierarchyJoin::try_from(spec.join).is_err() {
        return Err(WireError::invalid_field("spec.join", spec.join, "a join of HierarchyJoin"));
    }
    workload::filter("spec.workload", spec.workload.as_ref())?;
    if FlushMode::try_from(spec.flush).is_err() {
        return Err(WireError::invalid_field("spec.flush", spec.flush, "a mode of FlushMode"));
    }
    duration::staleness("spec.max_staleness", spec.max_staleness)?;
    if let Some(condition) = &spec.stop_when {
        check_condition(condition)?;
    }
    Ok(spec)
}

fn check_condition(Condition { metric, comparison, .. }: &Condition) -> Result<(), WireError> {
    if Metric::from_name(metric).is_none() {
        return Err(WireError::invalid_field("spec.stop_when.metric", metric, UnknownMetric::allowed()));
    }
    if matches!(Comparison::try_from(*comparison), Err(_) | Ok(Comparison::Unspecified)) {
        let allowed = "a comparison of Comparison other than COMPARISON_UNSPECIFIED";
        return Err(WireError::invalid_field("spec.stop_when.comparison", comparison, allowed));
    }
    Ok(())
}

pub(super) fn limits(
    fleet: &Fleet,
    metadata: &MetadataMap,
    asked: Option<prost_types::Duration>,
) -> Result<Limits, WireError> {
    let host_timeout = match asked {
        None => fleet.host_timeout,
        Some(asked) => Duration::try_from(asked)
            .ok()
            .filter(|asked| !asked.is_zero() && *asked <= HOST_TIMEOUT_MAX)
            .ok_or_else(|| WireError::invalid_field("host_timeout", asked, "more than 0s, at most 300s"))?,
    };
    let callers =
        deadline::of_caller(metadata).map(|left| left.saturating_sub((left / 10).min(KEPT_BACK_MAX)));
    Ok(Limits {
        host_timeout,
        deadline: callers.and_then(|left| Instant::now().checked_add(left)),
        hosts_max: fleet.fanout_hosts_max,
    })
}

pub(super) fn select(fleet: &Fleet, selector: &HostSelector) -> Result<Vec<Arc<Host>>, WireError> {
    match (selector.all, selector.hosts.as_slice()) {
        (true, []) => Ok(fleet.hosts.all()),
        (true, named) => Err(WireError::invalid_field("hosts", named.join(","), "names or all, not both")),
        (false, []) => Err(WireError::invalid_field("hosts", "", "one host at least, or all")),
        (false, named) => {
            let mut hosts: Vec<Arc<Host>> = Vec::with_capacity(named.len());
            for name in named {
                let host = fleet.hosts.find(name)?;
                if hosts.iter().all(|chosen| chosen.host_id() != host.host_id()) {
                    hosts.push(host);
                }
            }
            Ok(hosts)
        }
    }
}
