//! One host's subscription: dials the agent, puts ticks together, hands them to the store, and
//! begins again after whatever goes wrong.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_proto::v1::{
    CgroupSample, SubscribeRequest, SubscribeResponse, TickHeader, WalkEnd,
    agent_service_client::AgentServiceClient, subscribe_response::Event,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};
use uuid::Uuid;

use super::{HostIngest, IngestError, IngestHandle, Stored, Tick};
use crate::hosts::{Backoff, CallError, Host};

/// Rows of one tick that are accepted: what the kernel can walk in one session.
const TICK_ROWS_MAX: usize = 1_000_000;

/// Keeps a host's ticks flowing into the store until `shutdown`.
pub async fn keep_ingesting(host: Arc<Host>, ingest: IngestHandle, shutdown: CancellationToken) {
    let mut backoff = Backoff::new();
    loop {
        let (stored, ended) = tokio::select! {
            outcome = ingest_stream(&host, &ingest) => outcome,
            () = shutdown.cancelled() => return,
        };
        if stored > 0 {
            backoff = Backoff::new();
        }
        tracing::info!(host_id = %host.host_id(), ticks = stored, error = %ended, "a host's stream ended");
        tokio::select! {
            () = backoff.pause_or_heartbeat(&host) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Reads one stream until it fails; says how many ticks it stored and why it ended.
async fn ingest_stream(host: &Host, ingest: &IngestHandle) -> (u64, StreamError) {
    let mut stored = 0;
    let ended = async {
        let request = Request::new(SubscribeRequest::default());
        let opened = AgentServiceClient::new(host.channel()).subscribe(request).await;
        let mut messages = opened.map_err(CallError::from)?.into_inner();
        // Only now: taking the fence is a write, and a host that is down should cost none.
        let mut ingest = ingest.open(host.host_id()).await?;
        loop {
            store_next_tick(host, &mut messages, &mut ingest).await?;
            stored += 1;
        }
    };
    let ended: Result<std::convert::Infallible, StreamError> = ended.await;
    match ended {
        Err(error) => (stored, error),
    }
}

async fn store_next_tick(
    host: &Host,
    messages: &mut Streaming<SubscribeResponse>,
    ingest: &mut HostIngest,
) -> Result<(), StreamError> {
    let tick = next_tick(host.host_id(), messages).await?;
    if let Stored::Appended { tick_at, gap } = ingest.store(tick).await? {
        host.tick_stored(tick_at);
        if let Some(reason) = gap {
            tracing::info!(host_id = %host.host_id(), ?reason, "ticks are missing");
        }
    }
    Ok(())
}

async fn next_tick(host_id: Uuid, messages: &mut Streaming<SubscribeResponse>) -> Result<Tick, StreamError> {
    let Event::Header(header) = next_event(messages).await? else {
        return Err(StreamError::Malformed("a tick does not begin with its header"));
    };
    if header.host_id != host_id.to_string() {
        return Err(StreamError::AnotherHost { answered: header.host_id });
    }
    let received_at = SystemTime::now();
    let mut samples: Vec<CgroupSample> = Vec::new();
    loop {
        match next_event(messages).await? {
            Event::Header(_) => return Err(StreamError::Malformed("a tick ends without its summary")),
            Event::Change(_) => return Err(StreamError::Malformed("a change in a stream of whole ticks")),
            Event::Batch(batch) if samples.len() + batch.samples.len() > TICK_ROWS_MAX => {
                return Err(StreamError::Malformed("a tick has more rows than the kernel can walk"));
            }
            Event::Batch(batch) => samples.extend(batch.samples),
            Event::Summary(summary) => {
                if summary.end() == WalkEnd::Truncated {
                    tracing::warn!(%host_id, limit = summary.truncated_by, "the host's snapshot is cut: raise its limit");
                }
                return tick(&header, received_at, samples);
            }
        }
    }
}

async fn next_event(messages: &mut Streaming<SubscribeResponse>) -> Result<Event, StreamError> {
    let message = messages.message().await.map_err(CallError::from)?.ok_or(StreamError::Ended)?;
    message.event.ok_or(StreamError::Malformed("a message is empty"))
}

fn tick(
    header: &TickHeader,
    received_at: SystemTime,
    samples: Vec<CgroupSample>,
) -> Result<Tick, StreamError> {
    let uuid =
        |text: &str| Uuid::parse_str(text).map_err(|_| StreamError::Malformed("a header's id is no uuid"));
    let sampled_at = header.sampled_at.and_then(|at| SystemTime::try_from(at).ok());
    Ok(Tick {
        agent_epoch: uuid(&header.agent_epoch)?,
        sequence: header.sequence,
        boot_id: uuid(&header.boot_id)?,
        boottime: Duration::from_nanos(header.boottime_ns),
        sampled_at: sampled_at.ok_or(StreamError::Malformed("a header has no sampled_at"))?,
        received_at,
        samples,
    })
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the agent ended the stream")]
    Ended,
    #[error("the agent's stream makes no sense: {0}")]
    Malformed(&'static str),
    #[error("another host ({answered}) answers at this host's address")]
    AnotherHost { answered: String },
    #[error(transparent)]
    Ingest(#[from] IngestError),
}
