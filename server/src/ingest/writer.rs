//! The one task that takes ticks: it gathers what the hosts' streams have ready and stores it in one transaction.
//! Streams wait for the outcome, so a slow store slows them instead of filling memory.
//!
//! Where the store takes nothing for a while, ticks go to the spool; and so do those of a host that has some there, so
//! that a host's ticks stay in order. Where the spool takes nothing either, they wait here.

use std::{
    collections::{HashMap, HashSet},
    mem,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Backlog, HostBacklog, HostIngest, IngestError, attempts::Attempts, backlog::Shared, drain::keep_draining,
};
use crate::{
    spool::{Spool, SpoolError, StateSpace},
    store::{Gap, Store, StoreError, TickBatch, TickRow, WriteOutcome},
};

/// Ticks that wait for the writer; a stream that finds no room waits too.
const WAITING_TICKS_MAX: usize = TickBatch::TICKS_MAX;

/// How soon ticks that nothing took are tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in the store.
    Stored,
    /// It is on disk, and will be in the store.
    Spooled,
    /// It never will be: see [`WriteOutcome::Fenced`].
    Fenced,
}

/// `Err` if Postgres refused the tick for its contents.
pub(super) type Outcome = Result<Taken, StoreError>;

#[derive(Debug)]
struct Waiting {
    row: TickRow,
    done: oneshot::Sender<Outcome>,
}

/// Where ticks go that the store does not take.
#[derive(Debug, Default)]
pub struct Spooling {
    /// The spool; streams wait where there is none.
    pub spool: Option<Arc<Spool>>,
    /// How long the store may take to take ticks.
    pub after: Duration,
    /// The file system of the store's own, if that is this server's: nothing is stored where it is full.
    pub store_space: Option<StateSpace>,
}

/// Opens hosts' streams into the store. Clones feed the same writer.
#[derive(Debug, Clone)]
pub struct IngestHandle {
    store: Store,
    waiting: mpsc::Sender<Waiting>,
    shared: Arc<Shared>,
}

impl IngestHandle {
    /// Opens a host's stream: whoever opened it before is fenced. Waits until its spooled ticks are stored, which
    /// would be fenced too.
    pub async fn open(&self, host_id: Uuid) -> Result<HostIngest, IngestError> {
        if let Some(spool) = &self.shared.spool {
            spool.drained_of(host_id).await;
        }
        let opened = self.store.open_stream(host_id).await?;
        Ok(HostIngest::new(self.clone(), host_id, opened))
    }

    /// What became of a row; `None` if the writer stopped first.
    pub(super) async fn write(&self, row: TickRow) -> Option<Outcome> {
        let (host_id, gap) = (row.host_id, row.gap);
        let _waits = self.shared.waits(host_id);
        let (done, outcome) = oneshot::channel();
        self.waiting.send(Waiting { row, done }).await.ok()?;
        let outcome = outcome.await.ok()?;
        if let (Ok(Taken::Stored | Taken::Spooled), Some(gap)) = (&outcome, gap) {
            self.shared.ended_gap(host_id, gap);
        }
        Some(outcome)
    }

    /// What waits of all hosts.
    pub fn backlog(&self) -> Backlog {
        self.shared.all()
    }

    /// What waits of one host.
    pub fn backlog_of(&self, host_id: Uuid) -> HostBacklog {
        self.shared.of(host_id)
    }

    /// The last gap of a host, as the store has it.
    pub fn remember_gap(&self, host_id: Uuid, gap: Gap) {
        self.shared.ended_gap(host_id, gap);
    }
}

/// The writer, to be run as one task.
#[derive(Debug)]
pub struct IngestWriter {
    waiting: mpsc::Receiver<Waiting>,
    /// Ticks that nothing took yet, in the order in which they came.
    stalled: Vec<Waiting>,
    /// Whether that was logged.
    is_stall_known: bool,
    shared: Arc<Shared>,
    spool_after: Duration,
    attempts: Attempts,
}

impl IngestWriter {
    /// A writer without a spool that stops at `shutdown`, and the handle that feeds it.
    pub fn new(store: Store, shutdown: CancellationToken) -> (IngestHandle, Self) {
        Self::spooling(store, Spooling::default(), shutdown)
    }

    /// A writer that stops at `shutdown`, and the handle that feeds it.
    pub fn spooling(store: Store, spooling: Spooling, shutdown: CancellationToken) -> (IngestHandle, Self) {
        let (sender, waiting) = mpsc::channel(WAITING_TICKS_MAX);
        let Spooling { spool, after, store_space } = spooling;
        let shared = Arc::new(Shared::new(spool));
        let handle = IngestHandle { store: store.clone(), waiting: sender, shared: Arc::clone(&shared) };
        let health = Arc::clone(&shared.health);
        let attempts = Attempts { store, space: store_space, health, shutdown };
        let (stalled, is_stall_known) = (Vec::new(), false);
        (handle, Self { waiting, stalled, is_stall_known, shared, spool_after: after, attempts })
    }

    /// Writes until shutdown or until every handle is gone.
    pub async fn run(mut self) {
        let draining =
            self.shared.spool.clone().map(|spool| {
                tokio::spawn(keep_draining(spool, Arc::clone(&self.shared), self.attempts.clone()))
            });
        while let Some(ready) = self.gather().await {
            if self.take(ready).await.is_none() {
                break;
            }
        }
        if let Some(draining) = draining {
            // Its batch under way is finished. Where there is no shutdown, there is nobody left to drain for.
            if !self.attempts.shutdown.is_cancelled() {
                draining.abort();
            }
            let _ = draining.await;
        }
    }

    /// What is ready now, as far as one batch takes it; `None` at shutdown or when every handle is gone.
    async fn gather(&mut self) -> Option<Vec<Waiting>> {
        let shutdown = self.attempts.shutdown.clone();
        let mut ready = mem::take(&mut self.stalled);
        let received = tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            received = self.waiting.recv(), if ready.len() < TickBatch::TICKS_MAX => Some(received?),
            () = sleep(RETRY), if !ready.is_empty() => None,
        };
        ready.extend(received);
        let mut payload_bytes: usize = ready.iter().map(|waiting| waiting.row.payload.len()).sum();
        while ready.len() < TickBatch::TICKS_MAX && payload_bytes < TickBatch::PAYLOAD_BYTES_FULL {
            let Ok(waiting) = self.waiting.try_recv() else { break };
            payload_bytes += waiting.row.payload.len();
            ready.push(waiting);
        }
        Some(ready)
    }

    /// Stores or spools each tick, or stalls it; `None` at shutdown. All of a host's ticks go the same way, or what
    /// is behind one that is stalled is stalled too.
    async fn take(&mut self, ready: Vec<Waiting>) -> Option<()> {
        let shared = Arc::clone(&self.shared);
        let (mut batch, mut callers, mut behind) = (TickBatch::default(), Vec::new(), Vec::new());
        // Asked once for each: the spool is drained meanwhile.
        let mut is_spooled = HashMap::new();
        for Waiting { row, done } in ready {
            let host_id = row.host_id;
            let is_for_spool =
                || shared.spool.as_ref().is_some_and(|spool| self.is_for_spool(spool, host_id));
            if *is_spooled.entry(host_id).or_insert_with(is_for_spool) {
                behind.push(Waiting { row, done });
            } else if let Some(row) = batch.try_push(row) {
                self.stalled.push(Waiting { row, done });
            } else {
                callers.push(done);
            }
        }
        if let Some(spool) = &shared.spool
            && !behind.is_empty()
        {
            self.spool(spool, behind).await;
        }
        if batch.is_empty() {
            return Some(());
        }
        for (caller, outcome) in callers.into_iter().zip(self.store_or_spool(batch).await?) {
            // A stream that ended meanwhile does not need to know.
            let _ = caller.send(outcome);
        }
        Some(())
    }

    /// Whether the host's next tick goes behind others: its own, or those of all while the store takes none. With
    /// an empty spool nobody else would try the store.
    fn is_for_spool(&self, spool: &Spool, host_id: Uuid) -> bool {
        spool.holds(host_id) || (self.shared.health.is_failing() && !spool.is_empty())
    }

    /// Spools ticks; those for which there is no room are stalled.
    async fn spool(&mut self, spool: &Arc<Spool>, ticks: Vec<Waiting>) {
        let (rows, callers): (Vec<_>, Vec<_>) = ticks.into_iter().map(|tick| (tick.row, tick.done)).unzip();
        let together = spool.append(&rows).await;
        if together.is_ok() {
            self.is_stall_known = false;
        }
        let mut without_room = HashSet::new();
        for (row, done) in rows.into_iter().zip(callers) {
            let spooled = match &together {
                // A part of them may fit.
                Err(SpoolError::Full { .. }) if !without_room.contains(&row.host_id) => {
                    spool.append(std::slice::from_ref(&row)).await.is_ok()
                }
                together => together.is_ok(),
            };
            if spooled {
                let _ = done.send(Ok(Taken::Spooled));
            } else {
                without_room.insert(row.host_id);
                self.stalled.push(Waiting { row, done });
            }
        }
        if let Err(error) = together {
            self.log_stall(&error);
        }
    }

    /// The outcomes in the batch's order, as soon as it is stored or spooled; `None` at shutdown.
    async fn store_or_spool(&mut self, batch: TickBatch) -> Option<Vec<Outcome>> {
        let attempts = self.attempts.clone();
        let mut writing = pin!(attempts.write(&batch));
        let spooled = || batch.rows().iter().map(|_| Ok(Taken::Spooled)).collect();
        let Some(spool) = self.shared.spool.clone() else {
            return Some(writing.await?.into_iter().map(|outcome| outcome.map(Taken::of)).collect());
        };
        loop {
            let written = tokio::select! {
                written = &mut writing => written,
                () = sleep(self.spool_after) => {
                    let waited = format!("no tick was stored within {:?} (spool_after)", self.spool_after);
                    self.attempts.health.failed(&waited, batch.len());
                    // Whether the attempt under way stores it too does not matter: the cursor lets one pass.
                    match spool.append(batch.rows()).await {
                        Ok(()) => return Some(spooled()),
                        Err(error) => self.log_stall(&error),
                    }
                    continue;
                }
            };
            return match written {
                Some(outcomes) => {
                    self.is_stall_known = false;
                    Some(outcomes.into_iter().map(|outcome| outcome.map(Taken::of)).collect())
                }
                // Shutdown, and the store takes nothing: what is on disk is safe.
                None => spool.append(batch.rows()).await.ok().map(|()| spooled()),
            };
        }
    }

    /// Once, until something is taken again.
    fn log_stall(&mut self, error: &SpoolError) {
        if !mem::replace(&mut self.is_stall_known, true) {
            tracing::error!(%error, "ticks are neither stored nor spooled: streams wait, and agents keep what they can");
        }
    }
}

impl Taken {
    fn of(outcome: WriteOutcome) -> Self {
        match outcome {
            WriteOutcome::Stored | WriteOutcome::AlreadyStored => Self::Stored,
            WriteOutcome::Fenced => Self::Fenced,
        }
    }
}
