//! One host's windows: read, turned into chunks and rollups, stored. Reading is the runtime's, decoding and encoding a
//! blocking thread's.

use std::time::SystemTime;

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{
    log::WindowLog,
    pass::{Pass, PassOutput},
    rollup::merge_hours,
    window::{HostTail, StoredTick, WINDOW_TICKS_MAX, closed_window, hour_start, look_again_at},
};
use crate::store::{
    CompactedWindow, HostProgress, Store, StoreError, codec::CgroupKey, from_unix_usec, unix_usec,
};

/// What the changes of a window may take in memory, and twice that while vectors grow. A host with more is read several
/// times, each time for a part of its cgroups.
const LOG_BYTES_MAX: usize = 128 << 20;

/// Why a host's window was not compacted.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// The store failed, or holds ticks that this version cannot read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ticks cannot be encoded as chunks.
    #[error("ticks of host {host_id} cannot become chunks: {source}")]
    Encode {
        /// The host.
        host_id: Uuid,
        /// Why.
        source: crate::store::codec::CodecError,
    },
    /// The thread that encodes is gone: the runtime shuts down, or it panicked.
    #[error("the thread that compacts ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compacted {
    /// A window is stored, and more may be closed.
    Through {
        /// The watermark now.
        at: SystemTime,
        /// Ticks in the window.
        ticks: usize,
        /// What its cgroups had at its ticks: a sample is one cgroup at one tick.
        samples: u64,
    },
    /// No window is closed.
    Nothing {
        /// Before the host has a tick of that time, there is hardly one.
        look_again_at: SystemTime,
    },
    /// Somebody else compacted the host meanwhile.
    Elsewhere,
}

/// A closed window of a host.
#[derive(Debug)]
struct Window {
    host_id: Uuid,
    /// At least one.
    ticks: Vec<StoredTick>,
    ends: WindowEnds,
    follows: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy)]
struct WindowEnds {
    first: StoredTick,
    last: StoredTick,
}

/// Compacts the host's next window, if it is closed. `silent` says that the host has sent nothing for so long that its
/// last ticks are a window too.
pub async fn compact_next_window(
    store: &Store,
    host: &HostProgress,
    silent: bool,
) -> Result<Compacted, CompactionError> {
    let window = match next_window(store, host, silent).await? {
        Ok(window) => window,
        Err(look_again_at) => return Ok(Compacted::Nothing { look_again_at }),
    };
    let WindowEnds { first, last } = window.ends;
    let (boot_id, through, hour) = (first.boot_id, from_unix_usec(last.at_usec), hour_start(first.at_usec));
    let mut output = PassOutput::default();
    let mut from = None;
    loop {
        let (of_pass, rest) = run_pass(store, &window, from, output).await?;
        output = of_pass;
        match rest {
            Some(rest) => from = Some(rest),
            None => break,
        }
    }
    let samples = output.samples;
    let compacted = CompactedWindow {
        host_id: host.host_id,
        boot_id,
        follows: window.follows,
        through,
        chunks: output.chunks,
        minutes: output.minutes,
        hours: output.hours,
        continues_hour: window.follows.is_some_and(|at| hour_start(unix_usec(at)) == hour),
    };
    if store.write_window(compacted, merge_hours).await? {
        Ok(Compacted::Through { at: through, ticks: window.ticks.len(), samples })
    } else {
        Ok(Compacted::Elsewhere)
    }
}

/// The host's next window, or when to look for it again.
async fn next_window(
    store: &Store,
    host: &HostProgress,
    silent: bool,
) -> Result<Result<Window, SystemTime>, CompactionError> {
    // With the tick at the watermark, to see whether the first one follows it.
    let found = store.head_ticks(host.host_id, host.compacted_through, WINDOW_TICKS_MAX + 1).await?;
    let watermark = host.compacted_through.map(unix_usec);
    let mut ticks = Vec::with_capacity(found.len());
    for (at, tick) in found.iter().enumerate() {
        if watermark.is_some_and(|watermark| tick.at_usec <= watermark) {
            continue;
        }
        let follows = at.checked_sub(1).is_some_and(|before| {
            let before = found[before];
            before.agent_epoch == tick.agent_epoch && before.sequence.wrapping_add(1) == tick.sequence
        });
        ticks.push(StoredTick { at_usec: tick.at_usec, boot_id: tick.boot_id, follows });
    }
    ticks.truncate(WINDOW_TICKS_MAX);
    let tail = HostTail { last_tick_at_usec: unix_usec(host.last_tick_at), silent };
    if let Some(count) = closed_window(&ticks, tail) {
        ticks.truncate(count);
    } else {
        return Ok(Err(from_unix_usec(look_again_at(&ticks))));
    }
    match ticks.first().copied().zip(ticks.last().copied()) {
        Some((first, last)) => {
            let ends = WindowEnds { first, last };
            Ok(Ok(Window { host_id: host.host_id, ticks, ends, follows: host.compacted_through }))
        }
        None => Ok(Err(host.last_tick_at)),
    }
}

/// Reads the window once, for the cgroups from a key on; says from which on another pass has to.
async fn run_pass(
    store: &Store,
    window: &Window,
    from: Option<CgroupKey>,
    output: PassOutput,
) -> Result<(PassOutput, Option<CgroupKey>), CompactionError> {
    let host_id = window.host_id;
    let WindowEnds { first, last } = window.ends;
    // The first tick may be a delta, and its counters grew since the one before it.
    let reading_from = match window.follows.filter(|_| first.follows) {
        Some(watermark) => store.keyframe_of(host_id, unix_usec(watermark)).await?,
        None => store.keyframe_of(host_id, first.at_usec).await?,
    };
    let mut next_usec = reading_from.unwrap_or(first.at_usec);
    let log = WindowLog::new(from, LOG_BYTES_MAX);
    let mut pass = Pass::new(host_id, window.ticks.clone(), log);
    loop {
        let page = store.head_payloads(host_id, next_usec, last.at_usec).await?;
        let Some(&(read_usec, _)) = page.last() else { break };
        next_usec = read_usec + 1;
        pass = spawn_blocking(move || pass.push(&page).map(|()| pass)).await??;
    }
    let encoded = spawn_blocking(move || pass.finish(output)).await?;
    encoded.map_err(|source| CompactionError::Encode { host_id, source })
}
