//! The same call to many hosts at once, each with a deadline of its own, so that a slow or dead host
//! costs the others nothing.
//!
//! Must not know: how hosts are chosen, or what becomes of the answers.

use std::{sync::Arc, time::Duration};

use cgfleet_proto::v1::{
    AgentServiceCreateViewResponse, AgentServiceDeleteViewResponse, AgentServiceFlushResponse,
    AgentServiceSetCollectorResponse, ErrorReason, HostSamples, ListCollectorsResponse, ListViewsResponse,
    WalkRequest, WalkSpec, WalkSummary, agent_service_client::AgentServiceClient, walk_response::Event,
};
use cgfleet_rpc::channel::Channel;
use futures::{StreamExt as _, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Request, Response};

use crate::hosts::{CallError, Host};

/// Parts of the answer that wait for a slow reader; the hosts' streams wait behind them.
pub(crate) const WAITING_PARTS_MAX: usize = 64;

/// How a host's part in a query ended.
#[derive(Debug)]
pub(crate) struct HostWalk {
    pub(crate) host: Arc<Host>,
    pub(crate) rows: u64,
    pub(crate) outcome: Result<WalkSummary, HostCallError>,
}

/// A part of the answer to a query.
#[derive(Debug)]
pub(crate) enum Part {
    Samples(HostSamples),
    Walked(HostWalk),
}

/// A call to a host that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostCallError {
    /// It took too long.
    #[error("no answer from {address} within {limit:?}")]
    Timeout { address: String, limit: Duration },
    /// It answered with an error, or not at all.
    #[error("{address}: {source}; does the agent run, and can the server reach it there?")]
    Call { address: String, source: CallError },
    /// Its answer ended early.
    #[error("{address}: the answer ended before its summary")]
    CutShort { address: String },
    /// It ended a stream that has no end.
    #[error("{address}: the agent ended the stream")]
    Ended { address: String },
    /// It streams something else than changes.
    #[error("{address}: the agent does not send changes; is it older than the server?")]
    NoChange { address: String },
    /// Another host has its address now.
    #[error("{address}: another host ({answered}) answers there")]
    AnotherHost { address: String, answered: String },
    /// Nobody reads the answer any more.
    #[error("the caller has gone")]
    CallerGone,
}

impl HostCallError {
    /// Whether the agent itself refused, so that only another agent or another time mends it.
    pub(crate) fn is_refusal(&self) -> bool {
        let no_refusals = [ErrorReason::Unspecified, ErrorReason::ShuttingDown];
        matches!(self, Self::Call { source, .. } if !no_refusals.contains(&source.reason))
    }

    /// Whether the agent refused the resume token because it cannot go on there.
    pub(crate) fn is_expired(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.reason == ErrorReason::ResumeExpired)
    }
}

/// How far a call fans out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long one host may take.
    pub(crate) host_timeout: Duration,
    /// When the caller has to have its answer, whoever is still to be asked then.
    pub(crate) deadline: Option<Instant>,
    /// How many hosts are asked at the same time.
    pub(crate) hosts_max: usize,
}

impl Limits {
    /// How long the host may take whose turn it is now.
    fn of_next_host(self) -> Duration {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(self.host_timeout, |left| left.min(self.host_timeout))
    }
}

/// A request that tells the host how long it has.
fn request_within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// Walks on every host; parts go to `parts` as they come, one `Walked` a host.
pub(crate) async fn walk_all(
    hosts: Vec<Arc<Host>>,
    spec: WalkSpec,
    limits: Limits,
    parts: mpsc::Sender<Part>,
) {
    let walks = stream::iter(hosts).for_each_concurrent(limits.hosts_max, |host| {
        let (spec, parts) = (spec.clone(), parts.clone());
        async move {
            let (mut rows, limit) = (0, limits.of_next_host());
            let request = request_within(limit, WalkRequest { spec: Some(spec) });
            let walked = timeout(limit, walk_one(&host, request, &parts, &mut rows)).await;
            let outcome = walked.unwrap_or_else(|_| Err(timed_out(&host, limit)));
            // Fails when the caller has gone; the walk has then ended too.
            drop(parts.send(Part::Walked(HostWalk { host, rows, outcome })).await);
        }
    });
    tokio::select! {
        () = walks => {}
        // Nobody reads: the calls under way are dropped, and so cancelled.
        () = parts.closed() => {}
    }
}

async fn walk_one(
    host: &Host,
    request: Request<WalkRequest>,
    parts: &mpsc::Sender<Part>,
    rows: &mut u64,
) -> Result<WalkSummary, HostCallError> {
    let address = host.record().address;
    let failed = |source: CallError| HostCallError::Call { address: address.clone(), source };
    let mut messages = AgentServiceClient::new(host.channel())
        .walk(request)
        .await
        .map_err(|status| failed(status.into()))?
        .into_inner();
    while let Some(message) = messages.message().await.map_err(|status| failed(status.into()))? {
        match message.event {
            Some(Event::Header(header)) if header.host_id != host.host_id().to_string() => {
                return Err(HostCallError::AnotherHost { address, answered: header.host_id });
            }
            Some(Event::Header(_)) | None => {}
            Some(Event::Batch(batch)) => {
                let count = batch.samples.len() as u64;
                let samples = HostSamples { host_id: host.host_id().to_string(), samples: batch.samples };
                parts.send(Part::Samples(samples)).await.map_err(|_| HostCallError::CallerGone)?;
                *rows += count;
            }
            Some(Event::Summary(summary)) => return Ok(summary),
        }
    }
    Err(HostCallError::CutShort { address })
}

/// What one call to a host came to.
pub(crate) type HostAnswer<T> = (Arc<Host>, Result<T, HostCallError>);

/// An answer in which the agent says whose it is.
pub(crate) trait FromHost {
    fn host_id(&self) -> &str;
}

macro_rules! from_host {
    ($($answer:ident,)*) => {$(
        impl FromHost for $answer {
            fn host_id(&self) -> &str {
                &self.host_id
            }
        }
    )*};
}

from_host! {
    AgentServiceCreateViewResponse,
    AgentServiceDeleteViewResponse,
    AgentServiceFlushResponse,
    AgentServiceSetCollectorResponse,
    ListCollectorsResponse,
    ListViewsResponse,
}

/// Asks every host the same by one `call`; outcomes come as the hosts answer.
pub(crate) fn call_all<Q, A, E, F>(
    hosts: Vec<Arc<Host>>,
    message: Q,
    limits: Limits,
    call: impl Fn(AgentServiceClient<Channel>, Request<Q>) -> F + Copy + Send,
) -> impl futures::Stream<Item = HostAnswer<A>> + Send
where
    Q: Clone + Send,
    A: FromHost + Send,
    CallError: From<E>,
    F: Future<Output = Result<Response<A>, E>> + Send,
{
    let calls = stream::iter(hosts).map(move |host| {
        let message = message.clone();
        async move {
            let limit = limits.of_next_host();
            let request = request_within(limit, message);
            let agent = AgentServiceClient::new(host.channel());
            let outcome = match timeout(limit, call(agent, request)).await {
                Ok(Ok(response)) => answer_of(&host, response.into_inner()),
                Ok(Err(error)) => {
                    Err(HostCallError::Call { address: host.record().address, source: error.into() })
                }
                Err(_) => Err(timed_out(&host, limit)),
            };
            (host, outcome)
        }
    });
    calls.buffer_unordered(limits.hosts_max)
}

fn answer_of<A: FromHost>(host: &Host, answer: A) -> Result<A, HostCallError> {
    if answer.host_id() == host.host_id().to_string() {
        return Ok(answer);
    }
    let answered = answer.host_id().to_owned();
    Err(HostCallError::AnotherHost { address: host.record().address, answered })
}

fn timed_out(host: &Host, limit: Duration) -> HostCallError {
    HostCallError::Timeout { address: host.record().address, limit }
}
