//! The task that stores what was spooled, from the front, as soon as the store takes it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    attempts::{Attempted, Attempts},
    backlog::Shared,
};
use crate::{
    spool::{Front, Spool, SpooledTick},
    store::WriteOutcome,
};

/// The pause after the spool could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// Drains until shutdown.
pub(super) async fn keep_draining(spool: Arc<Spool>, shared: Arc<Shared>, attempts: Attempts) {
    let mut changes = spool.changes();
    let mut stored = 0;
    loop {
        changes.borrow_and_update();
        let front = spool.front().await;
        let is_done = match front {
            Ok(Some(front)) => match drain(front, &spool, &shared, &attempts).await {
                Some(ticks) => {
                    stored += ticks;
                    true
                }
                None => return,
            },
            Ok(None) => {
                if stored > 0 {
                    tracing::info!(ticks = stored, "the spool is drained");
                    stored = 0;
                }
                tokio::select! {
                    _ = changes.changed() => true,
                    () = attempts.shutdown.cancelled() => return,
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the spool");
                false
            }
        };
        if !is_done {
            tokio::select! {
                () = sleep(RETRY) => {}
                () = attempts.shutdown.cancelled() => return,
            }
        }
    }
}

/// Stores the first ticks, and returns how many; `None` at shutdown.
async fn drain(front: Front, spool: &Arc<Spool>, shared: &Shared, attempts: &Attempts) -> Option<usize> {
    for damage in &front.damage {
        tracing::error!(%damage, "ticks in the spool are lost");
    }
    let outcomes = if front.batch.is_empty() { Vec::new() } else { attempts.write(&front.batch).await? };
    let mut dropped = 0;
    for (tick, outcome) in front.ticks.iter().zip(&outcomes) {
        dropped += u64::from(is_dropped(tick, outcome));
    }
    shared.ticks_dropped.fetch_add(dropped, Ordering::Relaxed);
    let stored = outcomes.len() - usize::try_from(dropped).unwrap_or_default();
    if let Err(error) = spool.drained(front).await {
        tracing::error!(%error, "cannot note what was drained");
    }
    Some(stored)
}

/// Whether the tick will never be stored; that is logged here.
fn is_dropped(tick: &SpooledTick, outcome: &Attempted) -> bool {
    let SpooledTick { host_id, agent_epoch, sequence, .. } = tick;
    match outcome {
        Ok(WriteOutcome::Stored | WriteOutcome::AlreadyStored) => return false,
        Ok(WriteOutcome::Fenced) => tracing::warn!(
            %host_id, %agent_epoch, sequence,
            "a spooled tick is dropped: the host's stream was opened elsewhere, or the tick before it is lost"
        ),
        Err(error) => {
            tracing::error!(%host_id, %agent_epoch, sequence, %error, "a spooled tick is dropped: it was refused");
        }
    }
    true
}
