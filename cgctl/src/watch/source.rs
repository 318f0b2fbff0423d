//! The stream that is watched, whoever gives it: one agent's is a fleet's of one host.

use cgfleet_proto::v1::{
    ErrorReason, FleetServiceSubscribeRequest, FleetServiceSubscribeResponse, GetCapabilitiesRequest,
    HostChange, HostChangeKind, HostError, HostPosition, HostSelector, SubscribeRequest, SubscribeResponse,
    SubscribeSpec, fleet_service_subscribe_response::Event, subscribe_response,
};
use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Code, Status};

use super::positions::Positions;
use crate::{
    error::Error,
    remote::{Agent, Link, Server},
};

/// A stream that is watched.
pub(super) struct Source {
    /// Id and name of the hosts that are chosen, as far as they are known beforehand.
    pub(super) hosts: Vec<(String, String)>,
    link: Link,
    parts: BoxStream<'static, Result<FleetServiceSubscribeResponse, Status>>,
}

impl Source {
    /// What the server tells.
    pub(super) async fn of_server(
        server: &Server,
        selector: HostSelector,
        spec: SubscribeSpec,
        positions: &Positions,
    ) -> Result<Self, Error> {
        let is_named = |name: &String| selector.all || selector.hosts.contains(name);
        let hosts = server.hosts().await?.into_iter().filter_map(|status| status.host);
        let hosts: Vec<_> = hosts
            .filter(|host| is_named(&host.host_id) || is_named(&host.hostname))
            .map(|host| (host.host_id, host.hostname))
            .collect();
        let is_chosen = |host_id: &str| selector.all || hosts.iter().any(|(chosen, _)| chosen == host_id);
        let positions = positions.iter().filter(|(host_id, _)| is_chosen(host_id));
        let positions = positions.map(|(host_id, token)| HostPosition {
            host_id: host_id.to_owned(),
            resume_token: token.to_owned(),
        });
        let positions = positions.collect();
        let request = FleetServiceSubscribeRequest { hosts: Some(selector), spec: Some(spec), positions };
        let parts = server.call(request, async |mut client, request| client.subscribe(request).await).await?;
        Ok(Self { hosts, link: server.link.clone(), parts: parts.boxed() })
    }

    /// What one agent tells.
    pub(super) async fn of_agent(
        agent: &Agent,
        spec: SubscribeSpec,
        positions: &Positions,
    ) -> Result<Self, Error> {
        let asked = agent.call(GetCapabilitiesRequest {}, async |mut client, request| {
            client.get_capabilities(request).await
        });
        let of_host = asked.await?;
        let (host_id, hostname) = (of_host.host_id, of_host.hostname);
        let subscribe = async |resume_token: String| {
            let changes = Some(SubscribeSpec { resume_token, ..spec.clone() });
            let request = SubscribeRequest { changes, ..SubscribeRequest::default() };
            agent.call(request, async |mut client, request| client.subscribe(request).await).await
        };
        let (stream, opened) = match subscribe(positions.of(&host_id).unwrap_or_default().to_owned()).await {
            Ok(stream) => (stream, change(HostChangeKind::Joined, None)),
            // As the server does it for a host of many.
            Err(Error::Refused { code: Code::OutOfRange, message, .. }) => {
                let (code, reason) = (Code::OutOfRange as i32, ErrorReason::ResumeExpired.into());
                let error = HostError { code, reason, message, retry_after: None };
                (subscribe(String::new()).await?, change(HostChangeKind::Relist, Some(error)))
            }
            Err(error) => return Err(error),
        };
        let hosts = vec![(host_id.clone(), hostname.clone())];
        let changes = stream.filter_map(async |message| message.map(event).transpose());
        let parts = stream::once(async { Ok(opened) }).chain(changes).map(move |event| {
            let (host_id, hostname) = (host_id.clone(), hostname.clone());
            Ok(FleetServiceSubscribeResponse { host_id, hostname, event: Some(event?) })
        });
        Ok(Self { hosts, link: agent.link.clone(), parts: parts.boxed() })
    }

    /// The next part. Where the user gave no time there is none.
    pub(super) async fn next(&mut self, is_bounded: bool) -> Result<FleetServiceSubscribeResponse, Error> {
        let part = if is_bounded {
            self.link.next(&mut self.parts).await?
        } else {
            self.link.next_of_endless(&mut self.parts).await?
        };
        part.ok_or_else(|| self.link.cut_short())
    }
}

fn change(kind: HostChangeKind, error: Option<HostError>) -> Event {
    Event::Host(HostChange { kind: kind.into(), error })
}

fn event(message: SubscribeResponse) -> Option<Event> {
    match message.event? {
        subscribe_response::Event::Change(change) => Some(Event::Change(change)),
        _ => None,
    }
}
