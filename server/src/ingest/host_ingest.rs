//! One host's stream on its way into the store: which ticks are new, what time they have, what of
//! them has to be written.

use std::time::{Duration, SystemTime};

use cgfleet_proto::v1::{CgroupSample, GapReason};
use uuid::Uuid;

use super::{IngestHandle, Step, TickClock, TickId, step, writer::Taken};
use crate::store::{
    CgroupIdentity, Cursor, Fence, OpenedStream, StoreError, TickRow,
    codec::{CgroupKey, CodecError, Frame, HeadEncoder},
    same_utc_day,
};

/// The most ticks from one keyframe to the next. More make smaller rows and slower reads.
const KEYFRAME_TICKS: u32 = 60;

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
    /// The server's clock when its header arrived.
    pub received_at: SystemTime,
    /// Every cgroup, each once.
    pub samples: Vec<CgroupSample>,
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

/// Why a tick was not stored. The host's stream has to be opened again before the next one.
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
        /// The tick.
        sequence: u64,
        /// Why.
        source: CodecError,
    },
    /// The store could not open the stream.
    #[error(transparent)]
    Open(#[from] StoreError),
    /// The server is stopping; whether the tick was stored is not known.
    #[error("the ingest writer has stopped")]
    WriterStopped,
}

/// The ingest side of one host's stream. It holds the host's last tick, so there is one at a time;
/// opening another makes this one [`Fenced`](IngestError::Fenced).
#[derive(Debug)]
pub struct HostIngest {
    handle: IngestHandle,
    host_id: Uuid,
    fence: Fence,
    cursor: Option<Cursor>,
    clock: Option<TickClock>,
    encoder: HeadEncoder,
    deltas_since_keyframe: u32,
}

impl HostIngest {
    pub(super) fn new(handle: IngestHandle, host_id: Uuid, opened: OpenedStream) -> Self {
        Self {
            handle,
            host_id,
            fence: opened.fence,
            cursor: opened.cursor,
            clock: None,
            encoder: HeadEncoder::default(),
            deltas_since_keyframe: 0,
        }
    }

    /// The host's last stored tick.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Stores a tick and returns when it is stored or spooled, however long Postgres is away. A tick whose call
    /// was dropped may or may not be stored; the next one then finds the cursor moved and is fenced.
    pub async fn store(&mut self, tick: Tick) -> Result<Stored, IngestError> {
        let clock = self.clock.get_or_insert(TickClock::anchor(tick.boottime, tick.received_at));
        let last_tick_at = self.cursor.map(|last| last.last_tick_at);
        let tick_at = clock.tick_at(tick.boottime, tick.received_at, last_tick_at);
        let id = TickId { epoch: tick.agent_epoch, sequence: tick.sequence, tick_at };
        let Step::Append { next, gap, new_epoch } = step(self.cursor.as_ref(), id) else {
            return Ok(Stored::Duplicate);
        };
        if new_epoch {
            // Perhaps of another boot: nothing that is known of the host's cgroups holds.
            self.encoder.reset();
        }
        let (host_id, sequence) = (self.host_id, tick.sequence);
        let new_cgroups = self.new_cgroups(&tick);
        let encoded = self
            .encoder
            .encode(&tick.samples, self.frame_for(tick_at, gap.is_some()))
            .map_err(|source| IngestError::Encode { host_id, sequence, source })?;
        let row = TickRow {
            host_id,
            fence: self.fence,
            follows: self.cursor,
            agent_epoch: tick.agent_epoch,
            sequence,
            boot_id: tick.boot_id,
            tick_at,
            sampled_at: tick.sampled_at,
            frame: encoded.frame,
            cgroup_count: encoded.cgroup_count,
            payload: encoded.payload,
            new_cgroups,
            gap,
        };
        match self.handle.write(row).await {
            Some(Ok(Taken::Stored | Taken::Spooled)) => {}
            Some(Ok(Taken::Fenced)) => return Err(IngestError::Fenced { host_id }),
            Some(Err(source)) => return Err(IngestError::Refused { host_id, sequence, source }),
            None => return Err(IngestError::WriterStopped),
        }
        self.encoder.commit(encoded.next);
        self.cursor = Some(next);
        self.deltas_since_keyframe = match encoded.frame {
            Frame::Keyframe => 0,
            Frame::Delta => self.deltas_since_keyframe + 1,
        };
        Ok(Stored::Appended { tick_at, gap: gap.map(|gap| gap.reason) })
    }

    fn new_cgroups(&self, tick: &Tick) -> Vec<CgroupIdentity> {
        let is_new = |sample: &&CgroupSample| !self.encoder.contains(CgroupKey::of(sample));
        let identity = |sample: &CgroupSample| CgroupIdentity {
            boot_id: tick.boot_id,
            key: CgroupKey::of(sample),
            parent_id: sample.parent_id,
            level: sample.level,
            path: sample.path.clone(),
        };
        tick.samples.iter().filter(is_new).map(identity).collect()
    }

    /// A new stream and a new epoch need no rule here: their encoder has nothing to build upon.
    fn frame_for(&self, tick_at: SystemTime, after_gap: bool) -> Frame {
        let same_partition = self.cursor.is_some_and(|last| same_utc_day(last.last_tick_at, tick_at));
        let keyframe_due = self.deltas_since_keyframe + 1 >= KEYFRAME_TICKS;
        if after_gap || keyframe_due || !same_partition { Frame::Keyframe } else { Frame::Delta }
    }
}
