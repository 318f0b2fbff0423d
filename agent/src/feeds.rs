//! Feeds: one walk every interval, for all who asked for that interval.
//!
//! A feed begins with its first listener, and ends some time after its last has gone: until then one who comes
//! back finds all that happened meanwhile. Must not know what a listener wants of a snapshot, nor how it is told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use cgfleet_model::MetricSet;
use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    stream::{History, Read, Snapshot},
    walker::{Order, Removed, Target, WalkSpec, Walker},
};

/// How long, beside an interval, a feed goes on without listeners.
const LINGER: Duration = Duration::from_mins(1);
/// Removals that a feed keeps until its next tick; more are lost to it.
const REMOVALS_PENDING_MAX: usize = 65_536;

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
    /// Whether the kernel tells of removals: somebody may hear of them.
    watches: tokio::sync::Mutex<bool>,
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

/// One interval.
#[derive(Debug)]
struct Feed {
    interval: Duration,
    state: Mutex<State>,
    /// The sequence of the newest snapshot.
    newest: watch::Sender<Option<u64>>,
    /// Somebody came.
    woken: Notify,
}

#[derive(Debug)]
struct State {
    history: History,
    /// What each listener wants read.
    listeners: HashMap<u64, Listener>,
    listeners_made: u64,
    /// What all of them want; of the last ones, when there are none.
    metrics: MetricSet,
    hears_removals: bool,
    /// When the last listener went, if there is none.
    left_at: Option<Instant>,
    /// Removals since the last snapshot, and those of which no more is known.
    removed: Vec<Arc<Removed>>,
    lost: u64,
}

#[derive(Debug, Clone, Copy)]
struct Listener {
    metrics: MetricSet,
    hears_removals: bool,
}

/// Somebody who listens to a feed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    feed: Arc<Feed>,
    listener: u64,
    metrics: MetricSet,
    newest: watch::Receiver<Option<u64>>,
}

impl Feeds {
    /// No feeds yet; they end with `shutdown`.
    pub(crate) fn new(walker: Walker, limits: FeedLimits, shutdown: CancellationToken) -> Self {
        let (feeds, watches) = (Mutex::default(), tokio::sync::Mutex::default());
        Self {
            shared: Arc::new(Shared { walker, limits, started: Instant::now(), shutdown, feeds, watches }),
        }
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
            let feed = Arc::new(Feed::new(interval, self.shared.limits.history_bytes_max));
            feeds.insert(interval, Arc::clone(&feed));
            tokio::spawn(keep_reading(Arc::clone(&self.shared), Arc::clone(&feed)));
            feed
        };
        Ok(Feed::listen(feed, Listener { metrics, hears_removals }))
    }

    /// Where there are as many feeds as may be, drops the one that was left first.
    fn make_room(&self, feeds: &mut HashMap<Duration, Arc<Feed>>) -> Result<(), TooManyFeeds> {
        let feeds_max = self.shared.limits.feeds_max;
        if feeds.len() < feeds_max {
            return Ok(());
        }
        let left = feeds.iter().filter_map(|(interval, feed)| Some((lock(&feed.state).left_at?, *interval)));
        let Some((_, interval)) = left.min() else {
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
    /// Intervals since the start.
    fn sequence(&self, interval: Duration) -> u64 {
        sequence_of(self.started.elapsed(), interval)
    }

    /// Whether the feed goes on. One that was left for long ends here.
    fn keeps(&self, feed: &Arc<Feed>) -> bool {
        let mut feeds = lock(&self.feeds);
        let is_kept = feeds.get(&feed.interval).is_some_and(|kept| Arc::ptr_eq(kept, feed));
        let is_left =
            lock(&feed.state).left_at.is_some_and(|left_at| left_at.elapsed() > LINGER + feed.interval);
        if is_kept && is_left {
            feeds.remove(&feed.interval);
        }
        is_kept && !is_left
    }

    /// Has the kernel tell of removals if anybody may hear of them.
    async fn watch_removals(&self) {
        let mut watches = self.watches.lock().await;
        let wanted = lock(&self.feeds).values().any(|feed| lock(&feed.state).hears_removals);
        if wanted == *watches {
            return;
        }
        match self.walker.watch_removals(wanted).await {
            Ok(_) => *watches = wanted,
            Err(error) => tracing::warn!(%error, "removals of cgroups are not seen"),
        }
    }

    /// Gives each feed the removals since this was called last.
    async fn hand_out_removals(&self) {
        // Removals are in their order: one at a time.
        let watches = self.watches.lock().await;
        if !*watches {
            return;
        }
        let removals = match self.walker.removals().await {
            Ok(removals) => removals,
            Err(error) => return tracing::warn!(%error, "removals of cgroups are not known"),
        };
        let removed: Vec<_> = removals.removed.into_iter().map(Arc::new).collect();
        for feed in lock(&self.feeds).values() {
            let mut state = lock(&feed.state);
            if state.hears_removals {
                let room = REMOVALS_PENDING_MAX.saturating_sub(state.removed.len());
                let taken = removed.len().min(room);
                state.removed.extend(removed[..taken].iter().cloned());
                state.lost += removals.lost + (removed.len() - taken) as u64;
            }
        }
    }
}

impl Feed {
    fn new(interval: Duration, history_bytes_max: usize) -> Self {
        let state = State {
            history: History::new(history_bytes_max),
            listeners: HashMap::new(),
            listeners_made: 0,
            metrics: MetricSet::default(),
            hears_removals: false,
            left_at: None,
            removed: Vec::new(),
            lost: 0,
        };
        Self { interval, state: Mutex::new(state), newest: watch::Sender::new(None), woken: Notify::new() }
    }

    fn listen(feed: Arc<Self>, listener: Listener) -> Listening {
        let mut state = lock(&feed.state);
        let number = state.listeners_made;
        state.listeners_made += 1;
        state.listeners.insert(number, listener);
        state.left_at = None;
        state.sum_up();
        drop(state);
        feed.woken.notify_one();
        let newest = feed.newest.subscribe();
        Listening { feed, listener: number, metrics: listener.metrics, newest }
    }

    /// Whether somebody waits for a snapshot that was not taken in this interval yet.
    fn is_due(&self, sequence: u64) -> bool {
        lock(&self.state).history.latest().is_none_or(|latest| latest.sequence < sequence)
    }
}

impl State {
    /// What the listeners want, as long as there are any.
    fn sum_up(&mut self) {
        if let Some(metrics) =
            self.listeners.values().map(|listener| listener.metrics).reduce(MetricSet::union)
        {
            self.metrics = metrics;
            self.hears_removals = self.listeners.values().any(|listener| listener.hears_removals);
        }
    }
}

impl Listening {
    /// The snapshot with this sequence, if it is still there and all that is wanted was read.
    pub(crate) fn get(&self, sequence: u64) -> Option<Arc<Snapshot>> {
        let state = lock(&self.feed.state);
        state.history.get(sequence).filter(|snapshot| self.is_served_by(snapshot)).cloned()
    }

    /// The snapshots behind this sequence, or the newest, as soon as there is one in which all that is wanted
    /// was read. Those that were dropped meanwhile are missing at the front. `None` if there will be no more.
    pub(crate) async fn after(&mut self, sequence: Option<u64>) -> Option<Vec<Arc<Snapshot>>> {
        loop {
            self.newest.borrow_and_update();
            let newer = self.newer(sequence);
            if newer.last().is_some_and(|newest| self.is_served_by(newest)) {
                return Some(newer);
            }
            self.newest.changed().await.ok()?;
        }
    }

    fn newer(&self, sequence: Option<u64>) -> Vec<Arc<Snapshot>> {
        let state = lock(&self.feed.state);
        match sequence {
            Some(sequence) => state.history.after(sequence),
            None => state.history.latest().cloned().into_iter().collect(),
        }
    }

    fn is_served_by(&self, snapshot: &Snapshot) -> bool {
        self.metrics.without(snapshot.metrics).is_empty()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = lock(&self.feed.state);
        state.listeners.remove(&self.listener);
        state.sum_up();
        if state.listeners.is_empty() {
            state.left_at = Some(Instant::now());
        }
    }
}

/// Reads at every interval, and at once when somebody comes first.
async fn keep_reading(shared: Arc<Shared>, feed: Arc<Feed>) {
    while shared.keeps(&feed) {
        let sequence = shared.sequence(feed.interval);
        if feed.is_due(sequence) {
            shared.watch_removals().await;
            match read(&shared, &feed, sequence).await {
                Ok(()) => drop(feed.newest.send_replace(Some(sequence))),
                Err(error) => {
                    tracing::warn!(sequence, interval = ?feed.interval, error, "this tick is missing");
                }
            }
        }
        let next = shared.started + due_after(sequence, feed.interval);
        tokio::select! {
            () = sleep_until(next) => {}
            () = feed.woken.notified() => {}
            () = shared.shutdown.cancelled() => return,
        }
    }
    shared.watch_removals().await;
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

async fn read(shared: &Shared, feed: &Feed, sequence: u64) -> Result<(), String> {
    let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| error.to_string())?;
    let sampled_at = SystemTime::now();
    let metrics = lock(&feed.state).metrics;
    let root = WalkSpec::alone(Target::v2_root());
    let spec = WalkSpec { order: Order::DescendantsPre, metrics, ..root };
    let walked = shared.walker.walk(spec).await.map_err(|error| error.to_string())?;
    // Behind the walk: what it did not meet any more was removed before this.
    shared.hand_out_removals().await;
    let (before, removed, lost) = {
        let mut state = lock(&feed.state);
        let removed = std::mem::take(&mut state.removed);
        (state.history.latest().cloned(), removed, std::mem::take(&mut state.lost))
    };
    let read = Read {
        sequence,
        boottime: boottime.into(),
        sampled_at,
        metrics,
        samples: walked.samples,
        summary: walked.summary,
        removed,
        lost,
    };
    // This is the only one who adds to it.
    let snapshot = Snapshot::new(before.as_deref(), read);
    lock(&feed.state).history.push(snapshot);
    Ok(())
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
