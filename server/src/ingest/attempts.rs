//! Writing a batch until it is stored, however long that takes, and knowing since when it fails.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    spool::{SpaceError, StateSpace},
    store::{Store, StoreError, TickBatch, TickRow, WriteOutcome},
};

/// The pause after a first failed attempt; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// `Err` if Postgres refused the tick for its contents.
pub(super) type Attempted = Result<WriteOutcome, StoreError>;

/// Since when the store takes no ticks, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// The first attempt that failed.
    pub since: SystemTime,
    /// Why the last one did.
    pub error: String,
}

/// Whether the store takes ticks, as whoever writes last found it.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Failing>>);

impl Health {
    fn state(&self) -> MutexGuard<'_, Option<Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failing(&self) -> Option<Failing> {
        self.state().clone()
    }

    pub(super) fn is_failing(&self) -> bool {
        self.state().is_some()
    }

    /// Notes a failure, and logs the first one.
    pub(super) fn failed(&self, error: &dyn fmt::Display, ticks: usize) {
        let mut state = self.state();
        let since = state.as_ref().map_or_else(SystemTime::now, |failing| failing.since);
        if state.is_none() {
            tracing::warn!(%error, ticks, "cannot store ticks, trying until it works");
        } else {
            tracing::debug!(%error, ticks, "still cannot store ticks");
        }
        *state = Some(Failing { since, error: error.to_string() });
    }

    fn succeeded(&self) {
        if let Some(Failing { since, .. }) = self.state().take() {
            let outage = since.elapsed().unwrap_or_default();
            tracing::info!(?outage, "the store takes ticks again");
        }
    }
}

/// Whoever writes batches.
#[derive(Debug, Clone)]
pub(super) struct Attempts {
    pub(super) store: Store,
    /// The file system that the store fills, if that is this server's.
    pub(super) space: Option<StateSpace>,
    pub(super) health: Arc<Health>,
    pub(super) shutdown: CancellationToken,
}

/// Why a batch was not stored this time.
#[derive(Debug, thiserror::Error)]
enum NotStored {
    #[error(transparent)]
    Space(#[from] SpaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Attempts {
    /// The outcomes in the batch's order; `None` if shutdown came first.
    pub(super) async fn write(&self, batch: &TickBatch) -> Option<Vec<Attempted>> {
        match self.write_until_done(|| self.store.write_batch(batch), batch.len()).await? {
            Ok(outcomes) => Some(outcomes.into_iter().map(Ok).collect()),
            Err(refusal) if batch.len() == 1 => Some(vec![Err(refusal)]),
            Err(_) => {
                // One tick that Postgres cannot hold must not hold up the others: find it.
                let mut outcomes = Vec::with_capacity(batch.len());
                for row in batch.rows() {
                    outcomes.push(self.write_until_done(|| self.write_single(row), 1).await?);
                }
                Some(outcomes)
            }
        }
    }

    async fn write_single(&self, row: &TickRow) -> Result<WriteOutcome, StoreError> {
        self.store.write_single(row).await
    }

    /// Tries until it works or is refused for its contents; `None` if shutdown came first.
    async fn write_until_done<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        write: impl Fn() -> F,
        ticks: usize,
    ) -> Option<Result<T, StoreError>> {
        let mut backoff = BACKOFF_MIN;
        loop {
            // Not interrupted by shutdown: it is bounded by the store's write_timeout.
            match self.attempt(&write).await {
                Ok(written) => {
                    self.health.succeeded();
                    return Some(Ok(written));
                }
                Err(NotStored::Store(error)) if error.blames_data() => return Some(Err(error)),
                Err(error) => self.health.failed(&error, ticks),
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn attempt<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        write: &impl Fn() -> F,
    ) -> Result<T, NotStored> {
        // A Postgres that cannot write its log goes down, and with it who only reads.
        if let Some(space) = &self.space {
            space.check()?;
        }
        Ok(write().await?)
    }
}
