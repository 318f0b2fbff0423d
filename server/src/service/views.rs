//! Text views of many hosts.

use cgfleet_proto::v1::{
    AgentServiceCreateViewRequest, AgentServiceCreateViewResponse, AgentServiceDeleteViewRequest,
    AgentServiceDeleteViewResponse, FleetServiceCreateViewRequest, FleetServiceCreateViewResponse,
    FleetServiceDeleteViewRequest, FleetServiceDeleteViewResponse, FleetServiceListViewsRequest,
    FleetServiceListViewsResponse, HostViews, ListViewsRequest, ListViewsResponse, ViewDeleted,
    fleet_service_create_view_response as created, fleet_service_delete_view_response as deleted,
    fleet_service_list_views_response as listed,
};
use cgfleet_rpc::wire_error::WireError;
use futures::StreamExt as _;
use tonic::Request;

use super::{
    Answers, Fleet,
    query::{limits, select},
};
use crate::fanout::{self, HostAnswer};

pub(super) fn create(
    fleet: &Fleet,
    request: Request<FleetServiceCreateViewRequest>,
) -> Result<Answers<FleetServiceCreateViewResponse>, WireError> {
    let (metadata, _, request) = request.into_parts();
    let limits = limits(fleet, &metadata, request.host_timeout)?;
    let hosts = select(fleet, &request.hosts.unwrap_or_default())?;
    let message = AgentServiceCreateViewRequest { view: request.view };
    let answers = fanout::call_all(hosts, message, limits, |mut agent, request| async move {
        agent.create_view(request).await
    });
    Ok(Box::pin(answers.map(|answer| Ok(create_response(answer)))))
}

fn create_response(
    (host, outcome): HostAnswer<AgentServiceCreateViewResponse>,
) -> FleetServiceCreateViewResponse {
    let outcome = match outcome {
        Ok(AgentServiceCreateViewResponse { view, .. }) => created::Outcome::View(view.unwrap_or_default()),
        Err(error) => created::Outcome::Error(error.into()),
    };
    FleetServiceCreateViewResponse {
        host_id: host.host_id().to_string(),
        hostname: host.record().hostname,
        outcome: Some(outcome),
    }
}

pub(super) fn list(
    fleet: &Fleet,
    request: Request<FleetServiceListViewsRequest>,
) -> Result<Answers<FleetServiceListViewsResponse>, WireError> {
    let (metadata, _, request) = request.into_parts();
    let limits = limits(fleet, &metadata, request.host_timeout)?;
    let hosts = select(fleet, &request.hosts.unwrap_or_default())?;
    let answers = fanout::call_all(hosts, ListViewsRequest {}, limits, |mut agent, request| async move {
        agent.list_views(request).await
    });
    Ok(Box::pin(answers.map(|answer| Ok(list_response(answer)))))
}

fn list_response((host, outcome): HostAnswer<ListViewsResponse>) -> FleetServiceListViewsResponse {
    let outcome = match outcome {
        Ok(ListViewsResponse { views, .. }) => listed::Outcome::Views(HostViews { views }),
        Err(error) => listed::Outcome::Error(error.into()),
    };
    FleetServiceListViewsResponse {
        host_id: host.host_id().to_string(),
        hostname: host.record().hostname,
        outcome: Some(outcome),
    }
}

pub(super) fn delete(
    fleet: &Fleet,
    request: Request<FleetServiceDeleteViewRequest>,
) -> Result<Answers<FleetServiceDeleteViewResponse>, WireError> {
    let (metadata, _, request) = request.into_parts();
    let limits = limits(fleet, &metadata, request.host_timeout)?;
    let hosts = select(fleet, &request.hosts.unwrap_or_default())?;
    let message = AgentServiceDeleteViewRequest { name: request.name };
    let answers = fanout::call_all(hosts, message, limits, |mut agent, request| async move {
        agent.delete_view(request).await
    });
    Ok(Box::pin(answers.map(|answer| Ok(delete_response(answer)))))
}

fn delete_response(
    (host, outcome): HostAnswer<AgentServiceDeleteViewResponse>,
) -> FleetServiceDeleteViewResponse {
    let outcome = match outcome {
        Ok(_) => deleted::Outcome::Deleted(ViewDeleted {}),
        Err(error) => deleted::Outcome::Error(error.into()),
    };
    FleetServiceDeleteViewResponse {
        host_id: host.host_id().to_string(),
        hostname: host.record().hostname,
        outcome: Some(outcome),
    }
}
