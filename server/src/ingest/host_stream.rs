//! One host's subscription: dials the agent, puts ticks together, hands them to the store, and goes on behind what it
//! has after whatever goes wrong.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_proto::v1::{
    Bookmark, CgroupSample, RemovedCgroup, SubscribeRequest, SubscribeResponse, SubscribeSpec, TickPosition,
    WalkEnd, agent_service_client::AgentServiceClient, change_event::Event as Change,
    subscribe_response::Event,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};
use uuid::Uuid;

use super::{HostIngest, IngestError, IngestHandle, Stored, Tick};
use crate::hosts::{Backoff, CallError, Host};

/// Rows of one tick that are accepted, and removals: what the kernel can walk in one session.
const TICK_ROWS_MAX: usize = 1_000_000;

/// Keeps a host's ticks flowing into the store until `shutdown`.
pub async fn keep_ingesting(host: Arc<Host>, ingest: IngestHandle, shutdown: CancellationToken) {
    let mut stream = HostStream { host, ingest, opened: None, passes: None, stored: 0 };
    let mut backoff = Backoff::new();
    loop {
        stream.stored = 0;
        let ended = tokio::select! {
            ended = stream.read() => ended,
            () = shutdown.cancelled() => return,
        };
        if stream.stored > 0 {
            backoff = Backoff::new();
        }
        let host_id = stream.host.host_id();
        tracing::info!(%host_id, ticks = stream.stored, error = %ended, "a host's stream ended");
        stream.give_up_after(&ended);
        let host = Arc::clone(&stream.host);
        tokio::select! {
            () = backoff.pause_or_heartbeat(&host) => {}
            () = stream.settle_all() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// What is known of a host's stream, from one connection to the next.
struct HostStream {
    host: Arc<Host>,
    ingest: IngestHandle,
    /// Outlives connections: ticks may be under way, and what it knows of the last one is worth having.
    opened: Option<HostIngest>,
    /// A tick that cannot be stored, and none behind it was: what is to be had is behind it.
    passes: Option<(Uuid, u64)>,
    /// Ticks that were stored since the connection was made.
    stored: u64,
}

impl HostStream {
    /// Reads one stream until it fails; says why.
    async fn read(&mut self) -> StreamError {
        let ended: Result<std::convert::Infallible, StreamError> = async {
            let mut ingest = match self.opened.take() {
                Some(ingest) => ingest,
                None => self.ingest.open(self.host.host_id()).await?,
            };
            ingest.begin_stream();
            let ingest = self.opened.insert(ingest);
            let (start, passes) = start(ingest, self.passes);
            let spec = SubscribeSpec { every_tick: true, start, ..SubscribeSpec::default() };
            let request = SubscribeRequest { changes: Some(spec), ..SubscribeRequest::default() };
            // A store that is away makes this one stand still.
            let mut agent = AgentServiceClient::new(self.host.standing_channel());
            let messages =
                agent.subscribe(Request::new(request)).await.map_err(CallError::from)?.into_inner();
            let mut ticks = TickReader::new(self.host.host_id(), messages, passes);
            loop {
                tokio::select! {
                    settled = ingest.settle() => {
                        note(&self.host, settled?);
                        self.stored += 1;
                        self.passes = None;
                    }
                    // Not read while there is no room: then the agent waits too, and keeps what it can.
                    tick = ticks.next(), if ingest.has_room() => {
                        ingest.submit(tick?)?;
                        self.host.set_latest(ingest.latest());
                    }
                }
            }
        }
        .await;
        match ended {
            Err(error) => error,
        }
    }

    /// Lets go of what an error made useless.
    fn give_up_after(&mut self, ended: &StreamError) {
        let StreamError::Ingest(error) = ended else { return };
        if let IngestError::Refused { agent_epoch, sequence, .. }
        | IngestError::Encode { agent_epoch, sequence, .. } = error
        {
            self.passes = Some((*agent_epoch, *sequence));
        }
        self.opened = None;
    }

    /// Sees ticks that are under way into the store. Does not return while nothing is wrong with them.
    async fn settle_all(&mut self) {
        let Some(ingest) = &mut self.opened else { return std::future::pending().await };
        let error = loop {
            match ingest.settle().await {
                Ok(stored) => note(&self.host, stored),
                Err(error) => break StreamError::Ingest(error),
            }
        };
        tracing::info!(host_id = %self.host.host_id(), %error, "a host's ticks are given up");
        self.give_up_after(&error);
    }
}

/// With which tick a stream is to begin, and whether one before it is given up.
fn start(ingest: &HostIngest, passes: Option<(Uuid, u64)>) -> (Option<TickPosition>, bool) {
    let next = ingest.cursor().map(|cursor| (cursor.epoch, cursor.next_seq));
    // Not one that was passed over before: what is stored goes on behind it.
    let is_next = |(epoch, sequence): &(Uuid, u64)| {
        ingest.cursor().is_none_or(|cursor| cursor.epoch != *epoch || cursor.next_seq <= *sequence)
    };
    let behind = passes.filter(is_next).map(|(epoch, sequence)| (epoch, sequence.saturating_add(1)));
    let start =
        behind.or(next).map(|(epoch, sequence)| TickPosition { agent_epoch: epoch.to_string(), sequence });
    (start, behind.is_some())
}

fn note(host: &Host, stored: Stored) {
    if let Stored::Appended { tick_at, gap } = stored {
        host.tick_stored(tick_at);
        if let Some(reason) = gap {
            tracing::info!(host_id = %host.host_id(), ?reason, "ticks are missing");
        }
    }
}

/// Puts a stream's ticks together.
struct TickReader {
    host_id: Uuid,
    messages: Streaming<SubscribeResponse>,
    /// Whether a tick before the first is given up.
    misses: bool,
    /// Of the tick that comes.
    samples: Vec<CgroupSample>,
    removed: Vec<RemovedCgroup>,
    lost: u64,
}

impl TickReader {
    fn new(host_id: Uuid, messages: Streaming<SubscribeResponse>, misses: bool) -> Self {
        let (samples, removed) = (Vec::new(), Vec::new());
        Self { host_id, messages, misses, samples, removed, lost: 0 }
    }

    /// The next tick. Dropped before it is there, it may be asked for again.
    async fn next(&mut self) -> Result<Tick, StreamError> {
        loop {
            let message = self.messages.message().await.map_err(CallError::from)?;
            let event = message.ok_or(StreamError::Ended)?.event;
            let Some(Event::Change(change)) = event else {
                return Err(StreamError::Malformed("part of a whole tick in a stream of changes"));
            };
            match change.event.ok_or(StreamError::Malformed("a change is empty"))? {
                Change::Snapshot(batch) | Change::Update(batch) => self.samples.extend(batch.samples),
                Change::Removed(batch) => self.removed.extend(batch.cgroups),
                Change::Lost(lost) => self.lost += lost.removed_cgroups,
                Change::Synced(synced) => return self.tick(synced.bookmark.unwrap_or_default(), true),
                Change::Bookmark(bookmark) => return self.tick(bookmark, false),
            }
            if self.samples.len().max(self.removed.len()) > TICK_ROWS_MAX {
                return Err(StreamError::Malformed("a tick has more rows than the kernel can walk"));
            }
        }
    }

    fn tick(&mut self, bookmark: Bookmark, is_whole: bool) -> Result<Tick, StreamError> {
        let received_at = SystemTime::now();
        let host_id = self.host_id;
        if bookmark.host_id != host_id.to_string() {
            return Err(StreamError::AnotherHost { answered: bookmark.host_id });
        }
        let summary = bookmark.summary.unwrap_or_default();
        if summary.end() == WalkEnd::Truncated {
            tracing::warn!(%host_id, limit = summary.truncated_by, "the host's snapshot is cut: raise its limit");
        }
        if self.lost > 0 {
            tracing::warn!(%host_id, cgroups = self.lost, "removed cgroups of the host are lost, but for what is known of them");
        }
        let uuid =
            |text: &str| Uuid::parse_str(text).map_err(|_| StreamError::Malformed("a tick's id is no uuid"));
        let sampled_at = bookmark.sampled_at.and_then(|at| SystemTime::try_from(at).ok());
        self.lost = 0;
        Ok(Tick {
            agent_epoch: uuid(&bookmark.agent_epoch)?,
            sequence: bookmark.sequence,
            boot_id: uuid(&bookmark.boot_id)?,
            boottime: Duration::from_nanos(bookmark.boottime_ns),
            sampled_at: sampled_at.ok_or(StreamError::Malformed("a tick has no sampled_at"))?,
            sent_boottime: Duration::from_nanos(bookmark.sent_boottime_ns),
            received_at,
            missed: bookmark.merged_ticks > 0 || std::mem::take(&mut self.misses),
            is_whole,
            samples: std::mem::take(&mut self.samples),
            removed: std::mem::take(&mut self.removed),
        })
    }
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
