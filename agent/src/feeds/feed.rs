//! One feed: its history, and who listens to it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use cgfleet_model::MetricSet;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::lock;
use crate::{
    stream::{Hearing, History, Snapshot},
    walker::Removed,
};

/// How long, beside an interval, a feed goes on without listeners, and hears of removals without who would.
const LINGER: Duration = Duration::from_mins(1);
/// Removals that a feed keeps until its next tick; more are lost to it.
const REMOVALS_PENDING_MAX: usize = 65_536;

/// One interval.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) interval: Duration,
    /// Feeds that were made before it: an interval may be given up, and be asked for anew.
    pub(super) number: u64,
    pub(super) state: Mutex<State>,
    /// The sequence of the newest snapshot.
    pub(super) newest: watch::Sender<Option<u64>>,
    /// Somebody came, or the feed is given up.
    pub(super) woken: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) history: History,
    listeners: HashMap<u64, Listener>,
    listeners_made: u64,
    /// What all of them want read; of the last ones, when there are none.
    pub(super) metrics: MetricSet,
    /// Of listeners who take every snapshot, and went: the one who was furthest.
    left: Option<Left>,
    /// When the last listener went, if there is none; and the last of those who hear of removals.
    left_at: Option<Instant>,
    unheard_since: Option<Instant>,
    /// Whether removals are for this feed: since its last snapshot, or the walk for the next.
    pub(super) takes_removals: bool,
    /// Removals since the last snapshot, and those of which no more is known.
    removed: Vec<Arc<Removed>>,
    lost: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Listener {
    /// What it wants read.
    pub(super) metrics: MetricSet,
    pub(super) hears_removals: bool,
}

/// A listener who may come back for what is behind its place, as long as that is kept.
#[derive(Debug, Clone, Copy)]
struct Left {
    listener: Listener,
    next: u64,
}

impl Feed {
    pub(super) fn new(interval: Duration, number: u64, history_bytes_max: usize) -> Self {
        let state = State {
            history: History::new(history_bytes_max),
            listeners: HashMap::new(),
            listeners_made: 0,
            metrics: MetricSet::default(),
            left: None,
            left_at: None,
            unheard_since: None,
            takes_removals: false,
            removed: Vec::new(),
            lost: 0,
        };
        let newest = watch::Sender::new(None);
        Self { interval, number, state: Mutex::new(state), newest, woken: Notify::new() }
    }

    /// How long what was wanted is wanted still.
    pub(super) fn linger(&self) -> Duration {
        LINGER + self.interval
    }

    /// Whether one who takes every snapshot may come back.
    pub(super) fn is_awaited(&self) -> bool {
        lock(&self.state).awaited().is_some()
    }

    /// When the last listener went.
    pub(super) fn left_at(&self) -> Option<Instant> {
        lock(&self.state).left_at
    }

    /// Whether all listeners went for good, as far as can be told.
    pub(super) fn is_left(&self) -> bool {
        let state = lock(&self.state);
        state.awaited().is_none() && state.left_at.is_some_and(|left_at| left_at.elapsed() > self.linger())
    }

    /// Whether somebody hears of removals, or did a moment ago, or may come back for what it did not hear.
    pub(super) fn hears_removals(&self) -> bool {
        let state = lock(&self.state);
        let mut listeners = state.listeners.values().copied().chain(state.awaited());
        listeners.any(|listener| listener.hears_removals)
            || state.unheard_since.is_some_and(|since| since.elapsed() <= self.linger())
    }

    /// Whether the snapshot of this tick is missing.
    pub(super) fn is_due(&self, sequence: u64) -> bool {
        lock(&self.state).history.latest().is_none_or(|latest| latest.sequence < sequence)
    }

    pub(super) fn listen(feed: Arc<Self>, listener: Listener) -> Listening {
        let mut state = lock(&feed.state);
        let number = state.listeners_made;
        state.listeners_made += 1;
        state.listeners.insert(number, listener);
        state.left_at = None;
        state.sum_up();
        drop(state);
        feed.woken.notify_one();
        let newest = feed.newest.subscribe();
        Listening { feed, number, listener, newest, next: None }
    }
}

impl State {
    fn sum_up(&mut self) {
        let listeners = self.listeners.values().copied().chain(self.awaited());
        let wanted = listeners.map(|listener| listener.metrics).reduce(MetricSet::union);
        self.metrics = wanted.unwrap_or(self.metrics);
    }

    /// One who went and finds, should it come back, all that it did not take.
    fn awaited(&self) -> Option<Listener> {
        self.left.filter(|left| self.history.reaches_back_to(left.next)).map(|left| left.listener)
    }

    /// Takes in removals, if they are for this feed.
    pub(super) fn take_removed(&mut self, removed: &[Arc<Removed>], lost: u64) {
        if self.takes_removals {
            let room = REMOVALS_PENDING_MAX.saturating_sub(self.removed.len()).min(removed.len());
            self.removed.extend(removed[..room].iter().cloned());
            self.lost += lost + (removed.len() - room) as u64;
        }
    }

    /// The removals for the next snapshot, and how many were lost.
    pub(super) fn hand_over_removed(&mut self) -> (Vec<Arc<Removed>>, u64) {
        (std::mem::take(&mut self.removed), std::mem::take(&mut self.lost))
    }
}

/// Somebody who listens to a feed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    feed: Arc<Feed>,
    number: u64,
    listener: Listener,
    newest: watch::Receiver<Option<u64>>,
    /// Of one who takes every snapshot: the sequence behind the last that it took.
    next: Option<u64>,
}

impl Listening {
    /// Which feed this is, of those of the agent's.
    pub(crate) fn feed_number(&self) -> u64 {
        self.feed.number
    }

    /// The snapshot with this sequence, if it is still there, all that is wanted was read, and all that was
    /// removed since is known.
    pub(crate) fn get(&self, sequence: u64) -> Option<Arc<Snapshot>> {
        let state = lock(&self.feed.state);
        let snapshot = state.history.get(sequence).filter(|snapshot| self.is_served_by(snapshot))?;
        let mut later = state.history.after(sequence).into_iter();
        let is_whole = !self.listener.hears_removals || later.all(|later| later.hearing == snapshot.hearing);
        is_whole.then(|| Arc::clone(snapshot))
    }

    /// The snapshots behind this sequence, or the newest, as soon as there is one in which all that is wanted
    /// was read. Those that were dropped meanwhile are missing at the front.
    pub(crate) async fn after(&mut self, sequence: Option<u64>) -> Vec<Arc<Snapshot>> {
        loop {
            self.newest.borrow_and_update();
            let newer = self.newer(sequence);
            if newer.last().is_some_and(|newest| self.is_served_by(newest)) {
                return newer;
            }
            // The feed, which this holds, has the other end.
            let _ = self.newest.changed().await;
        }
    }

    /// The first snapshot from this sequence on in which all that is wanted was read, as soon as there is one;
    /// and how many from there on are not kept any more, at most. What is before it was taken: should this be
    /// dropped, the feed keeps what is behind that for as long as it can.
    pub(crate) async fn next(&mut self, sequence: u64) -> (Arc<Snapshot>, u64) {
        self.next = Some(sequence);
        loop {
            self.newest.borrow_and_update();
            if let Some(found) = self.first_from(sequence) {
                return found;
            }
            let _ = self.newest.changed().await;
        }
    }

    fn first_from(&self, sequence: u64) -> Option<(Arc<Snapshot>, u64)> {
        let state = lock(&self.feed.state);
        let mut kept = state.history.from(sequence);
        let passed_over = kept.clone().take_while(|snapshot| !self.is_served_by(snapshot)).count() as u64;
        let first = kept.find(|snapshot| self.is_served_by(snapshot))?;
        let has_all = state.history.reaches_back_to(sequence);
        let missed = if has_all { passed_over } else { first.sequence - sequence };
        Some((Arc::clone(first), missed))
    }

    fn newer(&self, sequence: Option<u64>) -> Vec<Arc<Snapshot>> {
        let state = lock(&self.feed.state);
        match sequence {
            Some(sequence) => state.history.after(sequence),
            None => state.history.latest().cloned().into_iter().collect(),
        }
    }

    fn is_served_by(&self, snapshot: &Snapshot) -> bool {
        self.listener.metrics.without(snapshot.metrics).is_empty()
            && (!self.listener.hears_removals || snapshot.hearing != Hearing::Unheard)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = lock(&self.feed.state);
        state.listeners.remove(&self.number);
        if let Some(next) = self.next.filter(|next| state.left.is_none_or(|left| left.next <= *next)) {
            state.left = Some(Left { listener: self.listener, next });
        }
        state.sum_up();
        let now = Instant::now();
        if self.listener.hears_removals && !state.listeners.values().any(|listener| listener.hears_removals) {
            state.unheard_since = Some(now);
        }
        if state.listeners.is_empty() {
            state.left_at = Some(now);
        }
    }
}
