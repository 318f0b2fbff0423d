//! Collectors of many hosts.

use cgfleet_model::Collector;
use cgfleet_proto::v1::{
    AgentServiceSetCollectorRequest, AgentServiceSetCollectorResponse, CollectorState,
    FleetServiceListCollectorsRequest, FleetServiceListCollectorsResponse, FleetServiceSetCollectorRequest,
    FleetServiceSetCollectorResponse, HostCollectors, ListCollectorsRequest, ListCollectorsResponse,
    fleet_service_list_collectors_response as listed, fleet_service_set_collector_response as switched,
};
use cgfleet_rpc::wire_error::WireError;
use futures::StreamExt as _;
use tonic::Request;

use super::{
    Answers, Fleet,
    query::{limits, select},
};
use crate::fanout::{self, HostAnswer};

pub(super) fn list(
    fleet: &Fleet,
    request: Request<FleetServiceListCollectorsRequest>,
) -> Result<Answers<FleetServiceListCollectorsResponse>, WireError> {
    let (metadata, _, request) = request.into_parts();
    let limits = limits(fleet, &metadata, request.host_timeout)?;
    let hosts = select(fleet, &request.hosts.unwrap_or_default())?;
    let answers =
        fanout::call_all(hosts, ListCollectorsRequest {}, limits, |mut agent, request| async move {
            agent.list_collectors(request).await
        });
    Ok(Box::pin(answers.map(|answer| Ok(list_response(answer)))))
}

fn list_response((host, outcome): HostAnswer<ListCollectorsResponse>) -> FleetServiceListCollectorsResponse {
    let outcome = match outcome {
        Ok(ListCollectorsResponse { collectors, .. }) => {
            listed::Outcome::Collectors(HostCollectors { collectors })
        }
        Err(error) => listed::Outcome::Error(error.into()),
    };
    FleetServiceListCollectorsResponse {
        host_id: host.host_id().to_string(),
        hostname: host.record().hostname,
        outcome: Some(outcome),
    }
}

pub(super) fn set(
    fleet: &Fleet,
    request: Request<FleetServiceSetCollectorRequest>,
) -> Result<Answers<FleetServiceSetCollectorResponse>, WireError> {
    let (metadata, _, request) = request.into_parts();
    let limits = limits(fleet, &metadata, request.host_timeout)?;
    let message = checked(request.name, request.state)?;
    let hosts = select(fleet, &request.hosts.unwrap_or_default())?;
    let answers = fanout::call_all(hosts, message, limits, |mut agent, request| async move {
        agent.set_collector(request).await
    });
    Ok(Box::pin(answers.map(|answer| Ok(set_response(answer)))))
}

fn set_response(
    (host, outcome): HostAnswer<AgentServiceSetCollectorResponse>,
) -> FleetServiceSetCollectorResponse {
    let outcome = match outcome {
        Ok(AgentServiceSetCollectorResponse { collector, .. }) => {
            switched::Outcome::Collector(collector.unwrap_or_default())
        }
        Err(error) => switched::Outcome::Error(error.into()),
    };
    FleetServiceSetCollectorResponse {
        host_id: host.host_id().to_string(),
        hostname: host.record().hostname,
        outcome: Some(outcome),
    }
}

/// Refuses here what every agent would refuse, so that the answer is one error and not a thousand.
fn checked(name: String, state: i32) -> Result<AgentServiceSetCollectorRequest, WireError> {
    Collector::from_name(&name)?;
    if !matches!(CollectorState::try_from(state), Ok(CollectorState::On | CollectorState::Off)) {
        let allowed = "COLLECTOR_STATE_ON or COLLECTOR_STATE_OFF";
        return Err(WireError::invalid_field("state", state, allowed));
    }
    Ok(AgentServiceSetCollectorRequest { name, state })
}
