//! One host.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use cgfleet_rpc::channel::{self, Channel, InvalidTarget};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    latest::SharedTick,
    store::{HostRecord, StoredHost},
};

/// Heartbeats that may be missing before a host is lost.
const MISSING_HEARTBEATS_MAX: u32 = 3;

/// One host, shared by everybody who deals with it.
#[derive(Debug)]
pub struct Host {
    host_id: Uuid,
    state: Mutex<State>,
    heard: Notify,
}

#[derive(Debug)]
struct State {
    record: HostRecord,
    channel: Channel,
    /// For those who may not take in time what they asked for.
    standing_channel: Channel,
    /// Whether the store has the record.
    written: bool,
    ingesting: bool,
    heartbeat: Option<(Instant, SystemTime)>,
    last_tick_at: Option<SystemTime>,
    ingest_lag: Option<Duration>,
    latest: Option<SharedTick>,
}

impl State {
    fn of(record: HostRecord) -> Result<Self, InvalidTarget> {
        Ok(Self {
            channel: channel::connect_lazy(&record.address)?,
            standing_channel: channel::connect_lazy_for_standing_streams(&record.address)?,
            record,
            written: false,
            ingesting: false,
            heartbeat: None,
            last_tick_at: None,
            ingest_lag: None,
            latest: None,
        })
    }
}

impl Host {
    /// A host that the store knows; nothing was heard from it yet.
    pub(super) fn stored(stored: StoredHost) -> Result<Self, InvalidTarget> {
        let mut state = State::of(stored.record)?;
        state.written = true;
        state.last_tick_at = stored.last_tick_at;
        Ok(Self::new(state))
    }

    /// A host that has just registered for the first time.
    pub(super) fn registered(record: HostRecord) -> Result<Self, InvalidTarget> {
        let mut state = State::of(record)?;
        state.heartbeat = Some((Instant::now(), SystemTime::now()));
        Ok(Self::new(state))
    }

    fn new(state: State) -> Self {
        Self { host_id: state.record.host_id, state: Mutex::new(state), heard: Notify::new() }
    }

    /// Nothing in here panics while it holds the lock, so a poisoned one is as good as new.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard_from(&self, record: &HostRecord) -> Result<(), InvalidTarget> {
        let mut state = self.state();
        if state.record.address != record.address {
            state.channel = channel::connect_lazy(&record.address)?;
            state.standing_channel = channel::connect_lazy_for_standing_streams(&record.address)?;
        }
        if state.record != *record {
            state.record = record.clone();
            state.written = false;
        }
        state.heartbeat = Some((Instant::now(), SystemTime::now()));
        drop(state);
        self.heard.notify_waiters();
        Ok(())
    }

    pub(super) fn is_written(&self) -> bool {
        self.state().written
    }

    /// Notes that the store has this record, unless there is a newer one by now.
    pub(super) fn written(&self, record: &HostRecord) {
        let mut state = self.state();
        state.written = state.record == *record;
    }

    /// Whether the caller is the first to ask, and so the one who has to start its stream.
    pub fn claim_stream(&self) -> bool {
        !std::mem::replace(&mut self.state().ingesting, true)
    }

    /// Its id.
    pub fn host_id(&self) -> Uuid {
        self.host_id
    }

    /// What it last said of itself.
    pub fn record(&self) -> HostRecord {
        self.state().record.clone()
    }

    /// A channel to its agent.
    pub fn channel(&self) -> Channel {
        self.state().channel.clone()
    }

    /// A channel to its agent, for streams whose readers may stand still.
    pub(crate) fn standing_channel(&self) -> Channel {
        self.state().standing_channel.clone()
    }

    /// Waits for the next heartbeat.
    pub async fn next_heartbeat(&self) {
        self.heard.notified().await;
    }

    /// Whether its heartbeats arrive.
    pub fn is_up(&self, heartbeat_interval: Duration) -> bool {
        let patience = heartbeat_interval * MISSING_HEARTBEATS_MAX;
        self.state().heartbeat.is_some_and(|(heard, _)| heard.elapsed() <= patience)
    }

    /// The last heartbeat, if one arrived since the server started.
    pub fn heartbeat_at(&self) -> Option<SystemTime> {
        self.state().heartbeat.map(|(_, at)| at)
    }

    /// The newest stored tick.
    pub fn last_tick_at(&self) -> Option<SystemTime> {
        self.state().last_tick_at
    }

    /// How long the newest tick took to be stored, if one was since the server started.
    pub fn ingest_lag(&self) -> Option<Duration> {
        self.state().ingest_lag
    }

    /// Notes that a tick was stored, at this moment.
    pub fn tick_stored(&self, tick_at: SystemTime) {
        let lag = SystemTime::now().duration_since(tick_at).unwrap_or_default();
        let mut state = self.state();
        state.last_tick_at = Some(tick_at);
        state.ingest_lag = Some(lag);
    }

    /// Its last tick, if ingest received one since the server started, or somebody read it.
    pub fn latest(&self) -> Option<SharedTick> {
        self.state().latest.clone()
    }

    /// Its last tick; this one, which is from the store, if there is none yet.
    pub fn latest_or(&self, stored: SharedTick) -> SharedTick {
        self.state().latest.get_or_insert(stored).clone()
    }

    /// Takes its last tick from ingest from now on.
    pub fn set_latest(&self, received: SharedTick) {
        self.state().latest = Some(received);
    }
}
