//! The spool: ticks that wait on the server's disk until Postgres takes them, in the order in which they came.
//!
//! A tick that was appended is on disk, so whoever took it may forget it. `segment`, `record` and `ledger` are pure;
//! `files` and `segment_file` are the disk. Must not know: why ticks come here, or how they are stored.

mod error;
mod files;
mod ledger;
mod record;
mod segment;
mod segment_file;
mod space;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::{sync::watch, task::spawn_blocking};
use uuid::Uuid;

pub use self::{
    error::{Damage, SpoolError},
    ledger::Held,
    space::{SpaceError, StateSpace},
};
use self::{
    files::{Files, Place, Read},
    ledger::Ledger,
    segment_file::Found,
};
use crate::store::{TickBatch, TickRow};

/// What the spool may use.
#[derive(Debug, Clone)]
pub struct SpoolLimits {
    /// Bytes on disk.
    pub bytes_max: u64,
    /// What stays free beside them.
    pub space: StateSpace,
}

/// The spool of one server. The ledger is locked for moments, the files while they are read or written.
#[derive(Debug)]
pub struct Spool {
    limits: SpoolLimits,
    files: Mutex<Files>,
    ledger: Mutex<Ledger>,
    bytes: AtomicU64,
    /// Told whenever ticks come or go.
    changed: watch::Sender<()>,
}

/// The first ticks of the spool, at most one of each host.
#[derive(Debug)]
pub struct Front {
    /// To be stored.
    pub batch: TickBatch,
    /// Which they are, in the batch's order.
    pub ticks: Vec<SpooledTick>,
    /// What could not be read before and between them.
    pub damage: Vec<Damage>,
    through: Place,
}

/// A tick in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpooledTick {
    /// The host.
    pub host_id: Uuid,
    /// The agent process that took it.
    pub agent_epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
    /// Its time by the server's clock.
    pub tick_at: SystemTime,
}

impl SpooledTick {
    fn of(row: &TickRow) -> Self {
        let TickRow { host_id, agent_epoch, sequence, tick_at, .. } = *row;
        Self { host_id, agent_epoch, sequence, tick_at }
    }
}

/// Nothing that holds one of these locks can panic halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spool {
    /// The directory of the spool of a server with this state directory.
    pub fn dir_in(state_dir: &Path) -> PathBuf {
        state_dir.join("spool")
    }

    /// Opens it with what an earlier server left in it, and tells what of that cannot be read. Blocks.
    pub fn open(dir: &Path, limits: SpoolLimits) -> Result<(Self, Vec<Damage>), SpoolError> {
        let (mut ledger, mut damage) = (Ledger::default(), Vec::new());
        let found = |body: Vec<u8>| {
            // What is no tick is told of when its turn comes to be stored.
            if let Ok(row) = record::decode(&body) {
                ledger.add(row.host_id, row.tick_at);
            }
        };
        let files = Files::open(dir, limits.bytes_max, found, &mut damage)?;
        let bytes = AtomicU64::new(files.bytes());
        let (files, ledger) = (Mutex::new(files), Mutex::new(ledger));
        Ok((Self { limits, files, ledger, bytes, changed: watch::Sender::new(()) }, damage))
    }

    /// Whether it has ticks of the host.
    pub fn holds(&self, host_id: Uuid) -> bool {
        self.held_of(host_id).is_some()
    }

    /// What it has of the host.
    pub fn held_of(&self, host_id: Uuid) -> Option<Held> {
        lock(&self.ledger).of(host_id)
    }

    /// What it has of all hosts.
    pub fn held(&self) -> Option<Held> {
        lock(&self.ledger).all()
    }

    /// Its bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Its bound.
    pub fn bytes_max(&self) -> u64 {
        self.limits.bytes_max
    }

    /// Whether it has no tick.
    pub fn is_empty(&self) -> bool {
        lock(&self.ledger).is_empty()
    }

    /// Told whenever ticks come or go.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns when it has no tick of the host.
    pub async fn drained_of(&self, host_id: Uuid) {
        let mut changes = self.changes();
        while self.holds(host_id) {
            // `self` has the other end.
            let _ = changes.changed().await;
        }
    }

    /// Adds ticks behind all others, and returns when they are on disk: all of them, or none.
    pub async fn append(self: &Arc<Self>, rows: &[TickRow]) -> Result<(), SpoolError> {
        let mut records = Vec::new();
        for row in rows {
            segment::put_record(&mut records, &record::encode(row)).ok_or(SpoolError::TooLong)?;
        }
        let ticks: Vec<SpooledTick> = rows.iter().map(SpooledTick::of).collect();
        self.at_files(move |spool, files| {
            spool.limits.space.check()?;
            let appended = files.append(&records);
            if appended.is_ok() {
                let mut ledger = lock(&spool.ledger);
                for tick in &ticks {
                    ledger.add(tick.host_id, tick.tick_at);
                }
            }
            spool.tell(files);
            appended
        })
        .await
    }

    /// The first ticks; `None` if there is nothing.
    pub async fn front(self: &Arc<Self>) -> Result<Option<Front>, SpoolError> {
        self.at_files(|_, files| front(files)).await
    }

    /// Notes that these ticks are in the store, or never will be.
    pub async fn drained(self: &Arc<Self>, front: Front) -> Result<(), SpoolError> {
        self.at_files(move |spool, files| {
            files.drained(front.through);
            let mut ledger = lock(&spool.ledger);
            for tick in &front.ticks {
                ledger.remove(tick.host_id, tick.tick_at);
            }
            if files.is_empty() {
                ledger.clear();
            }
            drop(ledger);
            spool.tell(files);
            Ok(())
        })
        .await
    }

    /// Does something with the files where that may block.
    async fn at_files<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &mut Files) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let spool = Arc::clone(self);
        let done = spawn_blocking(move || work(&spool, &mut lock(&spool.files)));
        done.await.unwrap_or(Err(SpoolError::Broken))
    }

    fn tell(&self, files: &Files) {
        self.bytes.store(files.bytes(), Ordering::Relaxed);
        self.changed.send_replace(());
    }
}

fn front(files: &Files) -> Result<Option<Front>, SpoolError> {
    let Some(begin) = files.front() else { return Ok(None) };
    let mut front =
        Front { batch: TickBatch::default(), ticks: Vec::new(), damage: Vec::new(), through: begin };
    loop {
        let Read { at, found } = files.read(front.through)?;
        let (next, what) = match found {
            Found::End => break,
            Found::Damage { next } => (next, "no record can be read".to_owned()),
            Found::Record { body, next } => match record::decode(&body) {
                Ok(row) => {
                    let tick = SpooledTick::of(&row);
                    if front.batch.try_push(row).is_some() {
                        break;
                    }
                    front.ticks.push(tick);
                    front.through = at.moved_to(next);
                    continue;
                }
                Err(error) => (next, format!("a record that is no tick: {error}")),
            },
        };
        front.damage.extend(files.damage(at, next, &what));
        front.through = at.moved_to(next);
    }
    Ok((front.through > begin).then_some(front))
}
