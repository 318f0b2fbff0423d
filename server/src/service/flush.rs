//! Flush over many hosts.

use cgfleet_proto::v1::{
    AgentServiceFlushRequest, AgentServiceFlushResponse, FleetServiceFlushRequest, FleetServiceFlushResponse,
    FlushScope, HostFlush, fleet_service_flush_response::Outcome,
};
use cgfleet_rpc::{duration, wire_error::WireError};
use futures::StreamExt as _;
use tonic::Request;

use super::{
    Answers, Fleet,
    query::{limits, select},
};
use crate::fanout::{self, HostAnswer};

const SCOPES: &str = "FLUSH_SCOPE_UNSPECIFIED (0), FLUSH_SCOPE_SUBTREE (1), FLUSH_SCOPE_ANCESTORS (2)";

pub(super) fn flush(
    fleet: &Fleet,
    request: Request<FleetServiceFlushRequest>,
) -> Result<Answers<FleetServiceFlushResponse>, WireError> {
    let (metadata, _, request) = request.into_parts();
    let FleetServiceFlushRequest { hosts, target, host_timeout, scope, max_staleness } = request;
    // What every agent would refuse is refused here, so that the answer is one error and not a thousand.
    if FlushScope::try_from(scope).is_err() {
        return Err(WireError::invalid_field("scope", scope, SCOPES));
    }
    duration::from_zero("max_staleness", max_staleness)?;
    let limits = limits(fleet, &metadata, host_timeout)?;
    let hosts = select(fleet, &hosts.unwrap_or_default())?;
    let request = AgentServiceFlushRequest { target, scope, max_staleness };
    let flushed =
        fanout::call_all(
            hosts,
            request,
            limits,
            |mut agent, request| async move { agent.flush(request).await },
        );
    Ok(Box::pin(flushed.map(|flushed| Ok(response(flushed)))))
}

fn response((host, outcome): HostAnswer<AgentServiceFlushResponse>) -> FleetServiceFlushResponse {
    FleetServiceFlushResponse {
        host_id: host.host_id().to_string(),
        hostname: host.record().hostname,
        outcome: Some(match outcome {
            Ok(answer) => Outcome::Flush(of_agent(answer)),
            Err(error) => Outcome::Error(error.into()),
        }),
    }
}

/// An agent's answer, whose host is named beside it.
fn of_agent(answer: AgentServiceFlushResponse) -> HostFlush {
    let AgentServiceFlushResponse {
        cgroup_id,
        path,
        flush_ns,
        flushed_at,
        host_id: _,
        outcome,
        subsystems,
        files_ns,
        retry_after,
    } = answer;
    HostFlush { cgroup_id, path, flush_ns, flushed_at, outcome, subsystems, files_ns, retry_after }
}
