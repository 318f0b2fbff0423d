//! What waits on its way into the store, for whoever asks.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use uuid::Uuid;

use super::{Failing, attempts::Health};
use crate::{
    spool::{Held, Spool},
    store::Gap,
};

/// What waits of all hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Since when the store takes no ticks, if it does not.
    pub failing: Option<Failing>,
    /// Ticks in the spool.
    pub spooled: Option<Held>,
    /// The spool's bytes on disk.
    pub spool_bytes: u64,
    /// Its bound; 0 if there is none.
    pub spool_bytes_max: u64,
    /// Ticks that were spooled and never stored, since the server started.
    pub ticks_dropped: u64,
}

/// What waits of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostBacklog {
    /// Its ticks in the spool.
    pub spooled: Option<Held>,
    /// Since when a tick of it waits that is neither stored nor spooled.
    pub waiting_since: Option<SystemTime>,
    /// The last stretch of time for which it has no ticks.
    pub last_gap: Option<Gap>,
}

/// What the writer, the streams and whoever asks have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) spool: Option<Arc<Spool>>,
    pub(super) health: Arc<Health>,
    pub(super) ticks_dropped: AtomicU64,
    hosts: Mutex<HashMap<Uuid, Noted>>,
}

#[derive(Debug, Default)]
struct Noted {
    /// A stream that was given up may have left one there while the next has one too.
    waiting: Vec<SystemTime>,
    last_gap: Option<Gap>,
}

/// A tick waits while this is there.
pub(super) struct Waits<'a> {
    shared: &'a Shared,
    host_id: Uuid,
    since: SystemTime,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(noted) = self.shared.hosts().get_mut(&self.host_id)
            && let Some(at) = noted.waiting.iter().position(|since| *since == self.since)
        {
            noted.waiting.remove(at);
        }
    }
}

impl Shared {
    pub(super) fn new(spool: Option<Arc<Spool>>) -> Self {
        Self { spool, ..Self::default() }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Uuid, Noted>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waits(&self, host_id: Uuid) -> Waits<'_> {
        let since = SystemTime::now();
        self.hosts().entry(host_id).or_default().waiting.push(since);
        Waits { shared: self, host_id, since }
    }

    pub(super) fn ended_gap(&self, host_id: Uuid, gap: Gap) {
        self.hosts().entry(host_id).or_default().last_gap = Some(gap);
    }

    pub(super) fn all(&self) -> Backlog {
        let spool = self.spool.as_ref();
        Backlog {
            failing: self.health.failing(),
            spooled: spool.and_then(|spool| spool.held()),
            spool_bytes: spool.map_or(0, |spool| spool.bytes()),
            spool_bytes_max: spool.map_or(0, |spool| spool.bytes_max()),
            ticks_dropped: self.ticks_dropped.load(Ordering::Relaxed),
        }
    }

    pub(super) fn of(&self, host_id: Uuid) -> HostBacklog {
        let spooled = self.spool.as_ref().and_then(|spool| spool.held_of(host_id));
        let hosts = self.hosts();
        let noted = hosts.get(&host_id);
        HostBacklog {
            spooled,
            waiting_since: noted.and_then(|noted| noted.waiting.iter().min().copied()),
            last_gap: noted.and_then(|noted| noted.last_gap),
        }
    }
}
