//! The one task that writes ticks: it gathers what the hosts' streams have ready and stores it in one
//! transaction. Streams wait for the outcome, so a slow store slows them instead of filling memory.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{HostIngest, IngestError};
use crate::store::{Store, StoreError, TickBatch, TickRow, WriteOutcome};

/// Ticks that wait for the writer; a stream that finds no room waits too.
const WAITING_TICKS_MAX: usize = TickBatch::TICKS_MAX;

/// The pause after a first failed attempt; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// `Err` if Postgres refused the tick for its contents.
pub(super) type Outcome = Result<WriteOutcome, StoreError>;

#[derive(Debug)]
struct Waiting {
    row: TickRow,
    done: oneshot::Sender<Outcome>,
}

/// Opens hosts' streams into the store. Clones feed the same writer.
#[derive(Debug, Clone)]
pub struct IngestHandle {
    store: Store,
    waiting: mpsc::Sender<Waiting>,
}

impl IngestHandle {
    /// Opens a host's stream: whoever opened it before is fenced.
    pub async fn open(&self, host_id: Uuid) -> Result<HostIngest, IngestError> {
        let opened = self.store.open_stream(host_id).await?;
        Ok(HostIngest::new(self.clone(), host_id, opened))
    }

    /// What became of a row; `None` if the writer stopped first.
    pub(super) async fn write(&self, row: TickRow) -> Option<Outcome> {
        let (done, outcome) = oneshot::channel();
        self.waiting.send(Waiting { row, done }).await.ok()?;
        outcome.await.ok()
    }
}

/// The writer, to be run as one task.
#[derive(Debug)]
pub struct IngestWriter {
    store: Store,
    waiting: mpsc::Receiver<Waiting>,
    shutdown: CancellationToken,
}

impl IngestWriter {
    /// A writer that stops at `shutdown`, and the handle that feeds it.
    pub fn new(store: Store, shutdown: CancellationToken) -> (IngestHandle, Self) {
        let (sender, waiting) = mpsc::channel(WAITING_TICKS_MAX);
        let handle = IngestHandle { store: store.clone(), waiting: sender };
        (handle, Self { store, waiting, shutdown })
    }

    /// Writes until shutdown or until every handle is gone.
    pub async fn run(mut self) {
        let mut left_over = None;
        loop {
            let next = if left_over.is_some() { left_over.take() } else { self.receive().await };
            let Some(first) = next else { return };
            let (batch, callers, rest) = self.gather(first);
            left_over = rest;
            let Some(outcomes) = self.write(batch).await else { return };
            for (caller, outcome) in callers.into_iter().zip(outcomes) {
                // A stream that ended meanwhile does not need to know.
                let _ = caller.send(outcome);
            }
        }
    }

    /// The next tick; `None` at shutdown or when every handle is gone.
    async fn receive(&mut self) -> Option<Waiting> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            received = self.waiting.recv() => received,
        }
    }

    /// Everything that is ready now, as far as one batch takes it.
    fn gather(&mut self, first: Waiting) -> (TickBatch, Vec<oneshot::Sender<Outcome>>, Option<Waiting>) {
        let mut batch = TickBatch::default();
        let mut callers = Vec::new();
        let mut next = Some(first);
        while let Some(Waiting { row, done }) = next {
            if let Some(row) = batch.try_push(row) {
                return (batch, callers, Some(Waiting { row, done }));
            }
            callers.push(done);
            next = self.waiting.try_recv().ok();
        }
        (batch, callers, None)
    }

    /// The outcomes in the batch's order; `None` if shutdown came first.
    async fn write(&self, batch: TickBatch) -> Option<Vec<Outcome>> {
        match self.write_until_done(&batch).await? {
            Ok(outcomes) => Some(outcomes.into_iter().map(Ok).collect()),
            Err(refusal) if batch.len() == 1 => Some(vec![Err(refusal)]),
            Err(_) => {
                // One tick that Postgres cannot hold must not hold up the others: find it.
                let mut outcomes = Vec::with_capacity(batch.len());
                for single in batch.split() {
                    let outcome = self.write_until_done(&single).await?;
                    outcomes.extend(match outcome {
                        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
                        Err(refusal) => vec![Err(refusal)],
                    });
                }
                Some(outcomes)
            }
        }
    }

    /// Tries until the batch is stored or refused for its contents; `None` if shutdown came first.
    async fn write_until_done(&self, batch: &TickBatch) -> Option<Result<Vec<WriteOutcome>, StoreError>> {
        let mut failing_since = None;
        let mut backoff = BACKOFF_MIN;
        loop {
            // Not interrupted by shutdown: it is bounded by the store's write_timeout.
            match self.store.write_batch(batch).await {
                Ok(outcomes) => {
                    if let Some(since) = failing_since {
                        tracing::info!(outage = ?Instant::now() - since, "the store takes ticks again");
                    }
                    return Some(Ok(outcomes));
                }
                Err(error) if error.blames_data() => return Some(Err(error)),
                Err(error) if failing_since.is_none() => {
                    tracing::warn!(%error, ticks = batch.len(), "cannot store ticks, trying until it works");
                    failing_since = Some(Instant::now());
                }
                Err(error) => tracing::debug!(%error, "still cannot store ticks"),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}
