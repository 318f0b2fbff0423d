//! Feeds: one walk every interval, for all who asked for that interval.
//!
//! A feed begins with its first listener, and ends some time after its last has gone: until then one who comes
//! back finds all that happened meanwhile. For one who takes every snapshot that is as long as the history reaches. Must not know what a listener wants of a snapshot, nor how it is told.

mod feed;
mod journal;
mod removals;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use cgfleet_model::MetricSet;
use cgfleet_proto::v1::WalkSummary;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    stream::{Hearing, Read, Snapshot},
    walker::{self, Order, Rows, Target, WalkError, WalkSpec, Walker},
};
use feed::{Feed, Listener};
use removals::Removals;

pub(crate) use feed::Listening;
pub(crate) use journal::Journal;
pub use journal::tick_checksum;

/// How soon a tick that failed is tried again, if the next one is not due before.
const RETRY: Duration = Duration::from_secs(1);

/// What feeds may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FeedLimits {
    /// Intervals at a time.
    pub(crate) feeds_max: usize,
    /// Bytes of each feed's history.
    pub(crate) history_bytes_max: usize,
}

/// All feeds of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Feeds {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    walker: Walker,
    limits: FeedLimits,
    started: Instant,
    shutdown: CancellationToken,
    feeds: Mutex<HashMap<Duration, Arc<Feed>>>,
    feeds_made: Mutex<u64>,
    removals: Removals,
    journal: Option<Journal>,
}

/// There are as many feeds as may be, and none has this interval.
#[derive(Debug, thiserror::Error)]
#[error(
    "{feeds_max} intervals are subscribed to already (subscribe_intervals_max): {intervals}; take one of these"
)]
pub(crate) struct TooManyFeeds {
    pub(crate) feeds_max: usize,
    intervals: String,
}

impl Feeds {
    /// No feeds yet; they end with `shutdown`.
    pub(crate) fn new(
        walker: Walker,
        limits: FeedLimits,
        journal: Option<Journal>,
        shutdown: CancellationToken,
    ) -> Self {
        let (removals, asks) = Removals::new();
        let shared = Arc::new(Shared {
            walker: walker.clone(),
            limits,
            started: Instant::now(),
            shutdown,
            feeds: Mutex::default(),
            feeds_made: Mutex::default(),
            removals,
            journal,
        });
        tokio::spawn(removals::keep_watching(walker, Arc::downgrade(&shared), asks));
        Self { shared }
    }

    /// Listens to the feed of an interval, which is made if there is none.
    pub(crate) fn listen(
        &self,
        interval: Duration,
        metrics: MetricSet,
        hears_removals: bool,
    ) -> Result<Listening, TooManyFeeds> {
        let mut feeds = lock(&self.shared.feeds);
        let feed = if let Some(feed) = feeds.get(&interval) {
            Arc::clone(feed)
        } else {
            self.make_room(&mut feeds)?;
            let feed = Arc::new(self.shared.new_feed(interval));
            feeds.insert(interval, Arc::clone(&feed));
            tokio::spawn(keep_reading(Arc::clone(&self.shared), Arc::clone(&feed)));
            feed
        };
        Ok(Feed::listen(feed, Listener { metrics, hears_removals }))
    }

    /// The number of the interval's tick that comes next.
    pub(crate) fn next_sequence(&self, interval: Duration) -> u64 {
        sequence_of(self.shared.started.elapsed(), interval).saturating_add(1)
    }

    /// Where there are as many feeds as may be, gives up the one that was left first; one that is awaited only where
    /// there is no other.
    fn make_room(&self, feeds: &mut HashMap<Duration, Arc<Feed>>) -> Result<(), TooManyFeeds> {
        let feeds_max = self.shared.limits.feeds_max;
        if feeds.len() < feeds_max {
            return Ok(());
        }
        let left =
            feeds.iter().filter_map(|(interval, feed)| Some((feed.is_awaited(), feed.left_at()?, *interval)));
        let Some((_, _, interval)) = left.min() else {
            let mut intervals: Vec<_> = feeds.keys().copied().collect();
            intervals.sort_unstable();
            let intervals: Vec<_> = intervals.iter().map(|interval| format!("{interval:?}")).collect();
            return Err(TooManyFeeds { feeds_max, intervals: intervals.join(", ") });
        };
        if let Some(feed) = feeds.remove(&interval) {
            feed.woken.notify_one();
        }
        Ok(())
    }
}

impl Shared {
    fn new_feed(&self, interval: Duration) -> Feed {
        let mut feeds_made = lock(&self.feeds_made);
        *feeds_made += 1;
        Feed::new(interval, *feeds_made, self.limits.history_bytes_max)
    }

    /// Whether any feed hears of removals.
    fn hears_removals(&self) -> bool {
        lock(&self.feeds).values().any(|feed| feed.hears_removals())
    }

    /// Gives each feed that takes them the removals that the walker gave.
    fn hand_out(&self, removals: walker::Removals) {
        let removed: Vec<_> = removals.removed.into_iter().map(Arc::new).collect();
        if removed.is_empty() && removals.lost == 0 {
            return;
        }
        for feed in lock(&self.feeds).values() {
            lock(&feed.state).take_removed(&removed, removals.lost);
        }
    }

    /// Whether the feed goes on. One that was left for long ends here.
    fn keeps(&self, feed: &Arc<Feed>) -> bool {
        let mut feeds = lock(&self.feeds);
        let is_kept = feeds.get(&feed.interval).is_some_and(|kept| Arc::ptr_eq(kept, feed));
        let is_left = feed.is_left();
        if is_kept && is_left {
            feeds.remove(&feed.interval);
        }
        is_kept && !is_left
    }
}

/// Reads at every interval, and at once when somebody comes first.
async fn keep_reading(shared: Arc<Shared>, feed: Arc<Feed>) {
    while shared.keeps(&feed) {
        let sequence = sequence_of(shared.started.elapsed(), feed.interval);
        let mut next = shared.started + due_after(sequence, feed.interval);
        if feed.is_due(sequence)
            && let Err(error) = read(&shared, &feed, sequence).await
        {
            tracing::warn!(sequence, interval = ?feed.interval, error, "a tick failed");
            next = next.min(Instant::now() + RETRY);
        }
        tokio::select! {
            () = sleep_until(next) => {}
            () = feed.woken.notified() => {}
            () = shared.shutdown.cancelled() => return,
        }
    }
    // If it is not done now, it is tried again.
    drop(shared.removals.adjust().await);
}

/// The number of the tick that is due `elapsed` after the start.
fn sequence_of(elapsed: Duration, interval: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// When, after the start, the tick behind this one is due.
fn due_after(sequence: u64, interval: Duration) -> Duration {
    let nanos = interval.as_nanos().saturating_mul(u128::from(sequence) + 1);
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// Has the next snapshot read.
async fn read(shared: &Arc<Shared>, feed: &Arc<Feed>, sequence: u64) -> Result<(), String> {
    // Before the walk: what it meets, and is removed behind it, is told of.
    let hearing = shared.removals.adjust().await.map_err(|error| error.to_string())?;
    let hearing = if feed.hears_removals() { hearing } else { Hearing::Unheard };
    let metrics = {
        let mut state = lock(&feed.state);
        state.takes_removals = hearing != Hearing::Unheard;
        state.metrics
    };
    let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| error.to_string())?;
    let sampled_at = SystemTime::now();
    let root = WalkSpec::alone(Target::v2_root());
    let spec = WalkSpec { order: Order::DescendantsPre, metrics, ..root };
    let reader = {
        let (shared, feed) = (Arc::clone(shared), Arc::clone(feed));
        move |walked: Result<(Rows, WalkSummary), WalkError>, removals| {
            // To all feeds, whatever became of this walk.
            shared.hand_out(removals);
            let (rows, summary) = walked?;
            let (before, (removed, lost)) = {
                let mut state = lock(&feed.state);
                (state.history.latest().cloned(), state.hand_over_removed())
            };
            let boottime = boottime.into();
            let read =
                Read { sequence, boottime, sampled_at, metrics, rows, summary, hearing, removed, lost };
            let journal = shared.journal.as_ref().filter(|journal| journal.interval == feed.interval);
            if let Some(Err(error)) = journal.map(|journal| journal.note(&read)) {
                return Ok(Err(error));
            }
            // This is the only one who adds to it.
            let snapshot = Snapshot::new(before.as_deref(), read);
            lock(&feed.state).history.push(snapshot);
            feed.newest.send_replace(Some(sequence));
            Ok(Ok(()))
        }
    };
    let read = shared.walker.read(spec, reader).await.map_err(|error| error.to_string())?;
    read.map_err(|error| format!("tick_journal: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_that_was_skipped_keeps_its_number() {
        let interval = Duration::from_millis(100);
        let check = |elapsed_ms, expect, due_ms| {
            let sequence = sequence_of(Duration::from_millis(elapsed_ms), interval);
            assert_eq!(sequence, expect, "{elapsed_ms} ms");
            assert_eq!(due_after(sequence, interval), Duration::from_millis(due_ms));
        };
        check(0, 0, 100);
        check(99, 0, 100);
        check(100, 1, 200);
        check(350, 3, 400);
        assert_eq!(due_after(u64::MAX, interval), Duration::MAX);
    }
}
