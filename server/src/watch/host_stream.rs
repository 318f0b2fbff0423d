//! One host's part: dials the agent, passes on what it says, and begins again after whatever goes wrong.

use std::{convert::Infallible, sync::Arc, time::Duration};

use cgfleet_proto::v1::{
    ChangeEvent, FleetServiceSubscribeResponse, GetCapabilitiesRequest, HostError, SubscribeRequest,
    SubscribeResponse, SubscribeSpec, agent_service_client::AgentServiceClient,
    fleet_service_subscribe_response::Event as Part, subscribe_response::Event,
};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Request, Streaming};

use super::progress::Progress;
use crate::{
    fanout::HostCallError,
    hosts::{Backoff, CallError, Host},
};

/// A host's stream, on its way to one client.
pub(super) struct HostStream {
    host: Arc<Host>,
    spec: SubscribeSpec,
    progress: Progress,
    host_timeout: Duration,
    parts: mpsc::Sender<FleetServiceSubscribeResponse>,
}

impl HostStream {
    pub(super) fn new(
        host: Arc<Host>,
        spec: SubscribeSpec,
        position: Option<String>,
        host_timeout: Duration,
        parts: mpsc::Sender<FleetServiceSubscribeResponse>,
    ) -> Self {
        Self { host, spec, progress: Progress::new(position), host_timeout, parts }
    }

    /// Reads the host's stream, again and again, until the client has gone.
    pub(super) async fn keep_reading(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let mut has_advanced = false;
            let Err(failed) = self.read(&mut has_advanced).await;
            if matches!(failed, HostCallError::CallerGone) {
                return;
            }
            if has_advanced {
                backoff = Backoff::new();
            }
            let (is_expired, is_refusal) = (failed.is_expired(), failed.is_refusal());
            let error = HostError::from(failed);
            if is_expired && self.progress.expired(&error) {
                continue;
            }
            tracing::debug!(host_id = %self.host.host_id(), error = error.message, "a watched host's stream ended");
            if let Some(change) = self.progress.failed(error)
                && self.tell(Part::Host(change)).await.is_err()
            {
                return;
            }
            if is_refusal {
                backoff.pause().await;
            } else {
                backoff.pause_or_heartbeat(&self.host).await;
            }
        }
    }

    /// Reads one stream until it fails.
    async fn read(&mut self, has_advanced: &mut bool) -> Result<Infallible, HostCallError> {
        let address = self.host.record().address;
        let opened = timeout(self.host_timeout, self.open(&address)).await;
        let timed_out = |_| HostCallError::Timeout { address: address.clone(), limit: self.host_timeout };
        let mut messages = opened.map_err(timed_out)??;
        let change = self.progress.opened();
        self.tell(Part::Host(change)).await?;
        loop {
            let change = next_change(&address, &mut messages).await?;
            *has_advanced |= self.progress.passed(&change);
            self.tell(Part::Change(change)).await?;
        }
    }

    async fn open(&self, address: &str) -> Result<Streaming<SubscribeResponse>, HostCallError> {
        let failed = |source: CallError| HostCallError::Call { address: address.to_owned(), source };
        let mut agent = AgentServiceClient::new(self.host.standing_channel());
        // A stream of changes does not say whose it is.
        let asked = agent.get_capabilities(GetCapabilitiesRequest {}).await;
        let answered = asked.map_err(|status| failed(status.into()))?.into_inner().host_id;
        if answered != self.host.host_id().to_string() {
            return Err(HostCallError::AnotherHost { address: address.to_owned(), answered });
        }
        let spec = SubscribeSpec { resume_token: self.progress.resume_token(), ..self.spec.clone() };
        let request = SubscribeRequest { changes: Some(spec), ..SubscribeRequest::default() };
        let opened = agent.subscribe(Request::new(request)).await;
        Ok(opened.map_err(|status| failed(status.into()))?.into_inner())
    }

    async fn tell(&self, part: Part) -> Result<(), HostCallError> {
        let response = FleetServiceSubscribeResponse {
            host_id: self.host.host_id().to_string(),
            hostname: self.host.record().hostname,
            event: Some(part),
        };
        self.parts.send(response).await.map_err(|_| HostCallError::CallerGone)
    }
}

async fn next_change(
    address: &str,
    messages: &mut Streaming<SubscribeResponse>,
) -> Result<ChangeEvent, HostCallError> {
    let address = || address.to_owned();
    let message = messages.message().await;
    let message =
        message.map_err(|status| HostCallError::Call { address: address(), source: status.into() })?;
    match message.map(|message| message.event) {
        Some(Some(Event::Change(change))) => Ok(change),
        Some(_) => Err(HostCallError::NoChange { address: address() }),
        None => Err(HostCallError::Ended { address: address() }),
    }
}
