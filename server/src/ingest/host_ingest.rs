//! One host's ticks on their way into the store: which are new, what time they have, what of them has to be
//! written. It goes on from stream to stream; some of its ticks may be under way to the store.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    time::{Duration, SystemTime},
};

use cgfleet_proto::v1::{CgroupSample, GapReason, RemovedCgroup, Workload};
use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use uuid::Uuid;

use super::{
    IngestHandle, Step, TickClock, TickId, step,
    writer::{Outcome, Taken},
};
use crate::{
    latest::{LatestTick, SharedTick, TickMoment, TickRows},
    store::{
        CgroupIdentity, Cursor, Fence, GoneCgroup, OpenedStream, StoreError, TickRow,
        codec::{CgroupKey, CodecError, EncodedHead, Frame},
        same_utc_hour, truncate_to_usec,
    },
};

/// The most ticks from one keyframe to the next. More make smaller rows and slower reads.
const KEYFRAME_TICKS: u32 = 60;

/// Ticks of a host that are under way to the store. More are of no use to an agent that ticks as often as it can.
const UNDERWAY_TICKS_MAX: usize = 8;

/// One tick as it arrived from an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// The agent process that took it.
    pub agent_epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
    /// The kernel's boot id.
    pub boot_id: Uuid,
    /// The agent's CLOCK_BOOTTIME when it was taken.
    pub boottime: Duration,
    /// The agent's wall clock at the same moment.
    pub sampled_at: SystemTime,
    /// The agent's CLOCK_BOOTTIME when it was sent.
    pub sent_boottime: Duration,
    /// The server's clock when it arrived.
    pub received_at: SystemTime,
    /// Whether ticks right before it were taken, and are not to be had.
    pub missed: bool,
    /// Whether it has every cgroup; else what changed since the tick that was stored before it.
    pub is_whole: bool,
    /// Cgroups, each once.
    pub samples: Vec<CgroupSample>,
    /// Cgroups that were removed since the tick before: not among the samples.
    pub removed: Vec<RemovedCgroup>,
}

/// What became of a tick that needs no further care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is in the store, or on its way there from the spool.
    Appended {
        /// Its time by the server's clock.
        tick_at: SystemTime,
        /// Why ticks are missing before it, if any are.
        gap: Option<GapReason>,
    },
    /// It was in the store before.
    Duplicate,
}

/// Why a tick was not stored. The host has to be opened again before the next one.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Somebody else opened the host's stream, or the cursor is not where this one left it.
    #[error(
        "the stream of host {host_id} is fenced: it was opened elsewhere, or its last tick is not the stored one"
    )]
    Fenced {
        /// The host.
        host_id: Uuid,
    },
    /// Postgres cannot hold the tick as it is.
    #[error("tick {sequence} of host {host_id} was refused: {source}")]
    Refused {
        /// The host.
        host_id: Uuid,
        /// The agent process.
        agent_epoch: Uuid,
        /// The tick.
        sequence: u64,
        /// Why.
        source: StoreError,
    },
    /// The tick cannot be encoded.
    #[error("tick {sequence} of host {host_id}: {source}")]
    Encode {
        /// The host.
        host_id: Uuid,
        /// The agent process.
        agent_epoch: Uuid,
        /// The tick.
        sequence: u64,
        /// Why.
        source: CodecError,
    },
    /// It says what changed since a tick that is not known.
    #[error("tick {sequence} of host {host_id} has changes alone, and the tick before it is not known")]
    NothingToChange {
        /// The host.
        host_id: Uuid,
        /// The tick.
        sequence: u64,
    },
    /// The store could not open the stream.
    #[error(transparent)]
    Open(#[from] StoreError),
    /// The server is stopping; whether the tick was stored is not known.
    #[error("the ingest writer has stopped")]
    WriterStopped,
}

/// The ingest side of one host. It holds the host's last tick, so there is one at a time; opening another makes
/// this one [`Fenced`](IngestError::Fenced). After an error it is of no use.
pub struct HostIngest {
    handle: IngestHandle,
    host_id: Uuid,
    fence: Fence,
    /// Behind the last tick that was submitted.
    cursor: Option<Cursor>,
    /// Of the stream.
    clock: Option<TickClock>,
    /// The last tick that was submitted, upon which the next is built: whatever is under way is stored in order, or
    /// what is behind it is fenced.
    latest: SharedTick,
    deltas_since_keyframe: u32,
    underway: VecDeque<Underway>,
}

/// A tick that is under way to the store.
struct Underway {
    outcome: BoxFuture<'static, Option<Outcome>>,
    agent_epoch: Uuid,
    sequence: u64,
    tick_at: SystemTime,
    gap: Option<GapReason>,
}

impl fmt::Debug for HostIngest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host_id, fence, cursor, .. } = self;
        f.debug_struct("HostIngest")
            .field("host_id", host_id)
            .field("fence", fence)
            .field("cursor", cursor)
            .field("underway", &self.underway.len())
            .finish_non_exhaustive()
    }
}

impl HostIngest {
    pub(super) fn new(handle: IngestHandle, host_id: Uuid, opened: OpenedStream) -> Self {
        Self {
            handle,
            host_id,
            fence: opened.fence,
            cursor: opened.cursor,
            clock: None,
            latest: SharedTick::default(),
            deltas_since_keyframe: 0,
            underway: VecDeque::new(),
        }
    }

    /// The host's last tick, stored or under way.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// The host's last tick, as it is submitted from now on.
    pub fn latest(&self) -> SharedTick {
        self.latest.clone()
    }

    /// Says that the next tick is the first of another stream.
    pub fn begin_stream(&mut self) {
        self.clock = None;
    }

    /// Whether one more tick may be submitted.
    pub fn has_room(&self) -> bool {
        self.underway.len() < UNDERWAY_TICKS_MAX
    }

    /// Whether ticks are under way.
    pub fn is_underway(&self) -> bool {
        !self.underway.is_empty()
    }

    /// Stores a tick and returns when it is stored or spooled, and all before it, however long Postgres is away.
    pub async fn store(&mut self, tick: Tick) -> Result<Stored, IngestError> {
        let is_new = self.submit(tick)?;
        let mut last = Stored::Duplicate;
        while self.is_underway() {
            last = self.settle().await?;
        }
        Ok(if is_new { last } else { Stored::Duplicate })
    }

    /// What became of the oldest tick under way. Only where there is one; dropped before it is known, it may be
    /// asked again.
    pub async fn settle(&mut self) -> Result<Stored, IngestError> {
        let host_id = self.host_id;
        let Some(oldest) = self.underway.front_mut() else { return future::pending().await };
        let outcome = (&mut oldest.outcome).await;
        let Underway { agent_epoch, sequence, tick_at, gap, .. } = *oldest;
        self.underway.pop_front();
        match outcome {
            Some(Ok(Taken::Stored | Taken::Spooled)) => Ok(Stored::Appended { tick_at, gap }),
            Some(Ok(Taken::Fenced)) => Err(IngestError::Fenced { host_id }),
            Some(Err(source)) => Err(IngestError::Refused { host_id, agent_epoch, sequence, source }),
            None => Err(IngestError::WriterStopped),
        }
    }

    /// Sends a tick to the store, unless it is there already; false then.
    pub fn submit(&mut self, tick: Tick) -> Result<bool, IngestError> {
        let clock = self.clock.get_or_insert(TickClock::anchor(tick.sent_boottime, tick.received_at));
        let last_tick_at = self.cursor.map(|last| last.last_tick_at);
        let tick_at = clock.tick_at(tick.boottime, tick.received_at, last_tick_at);
        let id = TickId { epoch: tick.agent_epoch, sequence: tick.sequence, tick_at };
        let Step::Append { next, gap, new_epoch } = step(self.cursor.as_ref(), id, tick.missed) else {
            return Ok(false);
        };
        let latest = self.latest.clone();
        let mut latest = latest.lock();
        if new_epoch {
            // Perhaps of another boot: nothing that is known of the host's cgroups holds.
            latest.forget();
        }
        let (host_id, sequence) = (self.host_id, tick.sequence);
        let is_fresh = !latest.is_known();
        if is_fresh && !tick.is_whole {
            return Err(IngestError::NothingToChange { host_id, sequence });
        }
        let frame = self.frame_for(tick_at, gap.is_some());
        let departed = latest.departed().to_vec();
        let (encoded, rows, ends) = advance(&mut latest, tick, tick_at, frame)
            .map_err(|source| IngestError::Encode { host_id, agent_epoch: id.epoch, sequence, source })?;
        let life = Life { tick_at, before: last_tick_at.unwrap_or(tick_at), ends, departed };
        self.deltas_since_keyframe = match encoded.frame {
            Frame::Keyframe => 0,
            Frame::Delta => self.deltas_since_keyframe + 1,
        };
        let row = TickRow {
            host_id,
            fence: self.fence,
            follows: self.cursor,
            agent_epoch: id.epoch,
            sequence,
            boot_id: rows.boot_id,
            tick_at,
            sampled_at: rows.sampled_at,
            frame: encoded.frame,
            cgroup_count: encoded.cgroup_count,
            is_fresh,
            new_cgroups: rows.identities(&encoded.new),
            names: rows.names(),
            gone: life.gone(&encoded.gone),
            payload: encoded.payload,
            gap,
        };
        self.cursor = Some(next);
        self.send(row, gap.map(|gap| gap.reason));
        Ok(true)
    }

    fn send(&mut self, row: TickRow, gap: Option<GapReason>) {
        let TickRow { agent_epoch, sequence, tick_at, .. } = row;
        let handle = self.handle.clone();
        let mut outcome = async move { handle.write(row).await }.boxed();
        // Asked once, so that ticks are sent in their order whoever is asked next.
        if let Some(done) = (&mut outcome).now_or_never() {
            outcome = future::ready(done).boxed();
        }
        self.underway.push_back(Underway { outcome, agent_epoch, sequence, tick_at, gap });
    }

    /// A new stream and a new epoch need no rule here: their encoder has nothing to build upon.
    fn frame_for(&self, tick_at: SystemTime, after_gap: bool) -> Frame {
        let same_partition = self.cursor.is_some_and(|last| same_utc_hour(last.last_tick_at, tick_at));
        let keyframe_due = self.deltas_since_keyframe + 1 >= KEYFRAME_TICKS;
        if after_gap || keyframe_due || !same_partition { Frame::Keyframe } else { Frame::Delta }
    }
}

/// Makes the host's last tick this one. A cgroup whose removal was seen is in the tick that tells of it, with what it
/// had in the end, and leaves with the next.
fn advance(
    latest: &mut LatestTick,
    tick: Tick,
    tick_at: SystemTime,
    frame: Frame,
) -> Result<(EncodedHead, Rows, Vec<RemovalNote>), CodecError> {
    let Tick { agent_epoch, sequence, boot_id, is_whole, mut samples, removed, .. } = tick;
    // As it is read back.
    let sampled_at = truncate_to_usec(tick.sampled_at);
    let (mut gone, mut departed) = (latest.departed().to_vec(), Vec::new());
    let mut ends = Vec::with_capacity(removed.len());
    for RemovedCgroup { sample, created_at, removed_at, .. } in removed {
        let Some(sample) = sample else { continue };
        let key = CgroupKey::of(&sample);
        let has_last_point = removed_at.is_some();
        let created_at = created_at.and_then(|at| SystemTime::try_from(at).ok());
        ends.push(RemovalNote { key, created_at, has_last_point });
        if has_last_point {
            departed.push(key);
            samples.push(sample);
        } else {
            gone.push(key);
        }
    }
    let rows = match is_whole {
        true => TickRows::Whole(&samples),
        false => TickRows::Changes { changed: &samples, removed: &gone },
    };
    let moment = TickMoment { agent_epoch, sequence, boot_id, tick_at, sampled_at };
    let encoded = latest.advance(moment, rows, departed, frame)?;
    Ok((encoded, Rows { boot_id, sampled_at, samples }, ends))
}

/// What a tick has of cgroups.
struct Rows {
    boot_id: Uuid,
    sampled_at: SystemTime,
    samples: Vec<CgroupSample>,
}

impl Rows {
    /// What those of these keys are, which ascend.
    fn identities(&self, new: &[CgroupKey]) -> Vec<CgroupIdentity> {
        if new.is_empty() {
            return Vec::new();
        }
        let is_new = |sample: &&CgroupSample| new.binary_search(&CgroupKey::of(sample)).is_ok();
        let identity = |sample: &CgroupSample| CgroupIdentity {
            boot_id: self.boot_id,
            key: CgroupKey::of(sample),
            parent_id: sample.parent_id,
            level: sample.level,
            path: sample.path.clone(),
        };
        self.samples.iter().filter(is_new).map(identity).collect()
    }

    /// What runs in them: an agent says it with a cgroup's first row, and when it becomes known.
    fn names(&self) -> Vec<(CgroupKey, Workload)> {
        let named =
            |sample: &CgroupSample| Some((CgroupKey::of(sample), (**sample.workload.as_ref()?).clone()));
        self.samples.iter().filter_map(named).collect()
    }
}

/// What a tick tells of a removal.
struct RemovalNote {
    key: CgroupKey,
    created_at: Option<SystemTime>,
    has_last_point: bool,
}

/// Which tick was the last of cgroups that are gone.
struct Life {
    tick_at: SystemTime,
    before: SystemTime,
    ends: Vec<RemovalNote>,
    /// Those of which it was said with the tick before.
    departed: Vec<CgroupKey>,
}

impl Life {
    /// Of those that the tick does not have any more, the tick before was the last; of those that have their last
    /// point in this one, this.
    fn gone(self, removed: &[CgroupKey]) -> Vec<GoneCgroup> {
        let Self { tick_at, before, ends, departed } = self;
        let told: HashSet<CgroupKey> = ends.iter().map(|end| end.key).chain(departed).collect();
        let ended = ends.into_iter().map(|RemovalNote { key, created_at, has_last_point }| GoneCgroup {
            key,
            created_at,
            last_tick_at: if has_last_point { tick_at } else { before },
        });
        let others = removed.iter().filter(|key| !told.contains(key));
        let others = others.map(|key| GoneCgroup { key: *key, created_at: None, last_tick_at: before });
        ended.chain(others).collect()
    }
}
