//! The task that compacts: which hosts are worth a look, a bounded number of them at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::host::{Compacted, CompactionError, compact_next_window};
use crate::store::{HostProgress, Store, StoreError};

/// How often it looks for windows that are closed.
const ROUND_INTERVAL: Duration = Duration::from_secs(15);

/// After so much time without a tick, a host's last ticks are compacted too.
const SILENT_AFTER: Duration = Duration::from_mins(30);

/// How long a host is left alone whose ticks cannot be compacted.
const AFTER_FAILURE: Duration = Duration::from_mins(5);

/// How far compaction is behind, and what it did since the server started. Shared with who reports it.
#[derive(Debug, Default)]
pub struct CompactionProgress {
    lags: Mutex<HashMap<Uuid, Duration>>,
    windows: AtomicU64,
    ticks: AtomicU64,
    samples: AtomicU64,
    failures: AtomicU64,
}

/// What [`CompactionProgress`] counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionCounts {
    /// Windows that became chunks.
    pub windows: u64,
    /// Their ticks.
    pub ticks: u64,
    /// What their cgroups had at these: a sample is one cgroup at one tick.
    pub samples: u64,
    /// Attempts that failed.
    pub failures: u64,
}

impl CompactionProgress {
    fn lags(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Duration>> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of a host's time is stored and not compacted, as of the last round: up to an hour and some more is
    /// ordinary. Zero for a host that is not known.
    pub fn lag_of(&self, host_id: Uuid) -> Duration {
        self.lags().get(&host_id).copied().unwrap_or_default()
    }

    /// The most of all hosts.
    pub fn lag_max(&self) -> Duration {
        self.lags().values().copied().max().unwrap_or_default()
    }

    /// What was done since the server started.
    pub fn counts(&self) -> CompactionCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CompactionCounts {
            windows: of(&self.windows),
            ticks: of(&self.ticks),
            samples: of(&self.samples),
            failures: of(&self.failures),
        }
    }
}

/// The compactor, to be run as one task.
#[derive(Debug)]
pub struct Compactor {
    store: Store,
    tasks_max: usize,
    progress: Arc<CompactionProgress>,
    shutdown: CancellationToken,
    /// Of hosts without a closed window, the tick by which there may be one.
    look_again_at: HashMap<Uuid, SystemTime>,
    failed_at: HashMap<Uuid, Instant>,
}

impl Compactor {
    /// A compactor of so many hosts at a time, until `shutdown`.
    pub fn new(
        store: Store,
        tasks_max: usize,
        progress: Arc<CompactionProgress>,
        shutdown: CancellationToken,
    ) -> Self {
        let (look_again_at, failed_at) = (HashMap::new(), HashMap::new());
        Self { store, tasks_max, progress, shutdown, look_again_at, failed_at }
    }

    /// Compacts until shutdown. A window under way is then given up; its transaction is rolled back.
    pub async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        let compacting = async {
            let mut failing = false;
            loop {
                let round = self.round(SystemTime::now()).await;
                match &round {
                    Err(error) if !failing => tracing::warn!(%error, "cannot look for ticks to compact"),
                    Err(error) => tracing::debug!(%error, "still cannot look for ticks to compact"),
                    Ok(_) => {}
                }
                failing = round.is_err();
                tokio::time::sleep(ROUND_INTERVAL).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = compacting => {}
        }
    }

    /// Looks at every host once and compacts what is closed; says how many windows that were.
    pub async fn round(&mut self, now: SystemTime) -> Result<u64, StoreError> {
        let before = self.progress.counts().windows;
        let (mut lags, mut seen) = (HashMap::new(), HashSet::new());
        let mut after = None;
        loop {
            let page = self.store.uncompacted_hosts(after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.host_id);
            seen.extend(page.iter().map(|host| host.host_id));
            lags.extend(page.iter().filter_map(|host| Some((host.host_id, lag_of(host)?))));
            let due: Vec<HostProgress> = page.into_iter().filter(|host| self.is_due(host, now)).collect();
            let outcomes: Vec<(Uuid, Outcome)> = futures::stream::iter(due)
                .map(|host| compact_host(&self.store, &self.progress, host, now))
                .buffer_unordered(self.tasks_max)
                .collect()
                .await;
            for (host_id, outcome) in outcomes {
                self.note(host_id, outcome, &mut lags);
            }
        }
        self.look_again_at.retain(|host_id, _| seen.contains(host_id));
        self.failed_at.retain(|host_id, _| seen.contains(host_id));
        *self.progress.lags() = lags;
        Ok(self.progress.counts().windows - before)
    }

    fn is_due(&self, host: &HostProgress, now: SystemTime) -> bool {
        let failed = self.failed_at.get(&host.host_id).is_some_and(|at| at.elapsed() < AFTER_FAILURE);
        let may_be_closed = self.look_again_at.get(&host.host_id).is_none_or(|at| host.last_tick_at >= *at);
        !failed && (may_be_closed || is_silent(host, now))
    }

    fn note(&mut self, host_id: Uuid, outcome: Outcome, lags: &mut HashMap<Uuid, Duration>) {
        self.failed_at.remove(&host_id);
        match outcome {
            Outcome::Done { host, look_again_at } => {
                if let Some(lag) = lag_of(&host) {
                    lags.insert(host_id, lag);
                }
                self.look_again_at.insert(host_id, look_again_at);
            }
            Outcome::Failed(error) => {
                self.progress.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%host_id, %error, "a host's ticks cannot be compacted, trying again later");
                self.failed_at.insert(host_id, Instant::now());
            }
        }
    }
}

enum Outcome {
    /// Nothing of the host is closed any more, until it has a tick of that time.
    Done {
        host: HostProgress,
        look_again_at: SystemTime,
    },
    Failed(CompactionError),
}

/// Compacts every closed window of a host.
async fn compact_host(
    store: &Store,
    progress: &CompactionProgress,
    mut host: HostProgress,
    now: SystemTime,
) -> (Uuid, Outcome) {
    loop {
        match compact_next_window(store, &host, is_silent(&host, now)).await {
            Ok(Compacted::Through { at, ticks, samples }) => {
                host.compacted_through = Some(at);
                progress.windows.fetch_add(1, Ordering::Relaxed);
                progress.ticks.fetch_add(ticks as u64, Ordering::Relaxed);
                progress.samples.fetch_add(samples, Ordering::Relaxed);
            }
            Ok(Compacted::Nothing { look_again_at }) => {
                return (host.host_id, Outcome::Done { host, look_again_at });
            }
            // Where the other one stands is seen in the next round.
            Ok(Compacted::Elsewhere) => {
                let look_again_at = host.last_tick_at;
                return (host.host_id, Outcome::Done { host, look_again_at });
            }
            Err(error) => return (host.host_id, Outcome::Failed(error)),
        }
    }
}

fn is_silent(host: &HostProgress, now: SystemTime) -> bool {
    now.duration_since(host.last_tick_at).is_ok_and(|since| since > SILENT_AFTER)
}

/// `None` if nothing of the host was ever compacted: when its first tick was is not known here.
fn lag_of(host: &HostProgress) -> Option<Duration> {
    host.last_tick_at.duration_since(host.compacted_through?).ok()
}
