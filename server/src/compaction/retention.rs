//! What is old enough, or too much, goes: by age in each tier, and by a budget of bytes over all of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::{
    spool::Spool,
    store::{DropOutcome, Partition, Store, StoreError, StoredPartition, Tier},
};

/// How often it looks for partitions that are to go. Also the time that ticks have after a start to arrive from where they
/// waited.
const ROUND_INTERVAL: Duration = Duration::from_mins(1);

/// Names of cgroups are looked for when nothing else is to do: every so many rounds.
const PRUNE_ROUNDS: u64 = 60;

/// How long what is stored is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Ticks in the head, once they are compacted.
    pub head: Duration,
    /// Chunks.
    pub chunks: Duration,
    /// Minutes.
    pub minutes: Duration,
    /// Hours.
    pub hours: Duration,
    /// Bytes of the database from which on the oldest of all goes early; `None` for no such limit.
    pub disk_budget_bytes: Option<u64>,
}

impl RetentionLimits {
    fn of(&self, tier: Tier) -> Duration {
        match tier {
            Tier::Head => self.head,
            Tier::Chunk => self.chunks,
            Tier::RollupMinute => self.minutes,
            Tier::RollupHour => self.hours,
        }
    }
}

/// What retention did since the server started.
#[derive(Debug, Default)]
pub struct RetentionProgress {
    dropped: AtomicU64,
    needed: AtomicU64,
    pruned_cgroups: AtomicU64,
    database_bytes: AtomicU64,
}

impl RetentionProgress {
    /// Partitions that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Partitions that are old enough, and had ticks that are not compacted when they were looked at last.
    pub fn needed(&self) -> u64 {
        self.needed.load(Ordering::Relaxed)
    }

    /// Cgroups that are not known any more.
    pub fn pruned_cgroups(&self) -> u64 {
        self.pruned_cgroups.load(Ordering::Relaxed)
    }

    /// Bytes of the database when it was measured last; 0 before that, and without a budget.
    pub fn database_bytes(&self) -> u64 {
        self.database_bytes.load(Ordering::Relaxed)
    }
}

/// The task that drops partitions.
#[derive(Debug)]
pub struct Retention {
    store: Store,
    limits: RetentionLimits,
    spool: Option<Arc<Spool>>,
    progress: Arc<RetentionProgress>,
    shutdown: CancellationToken,
}

impl Retention {
    /// Retention by these limits, until `shutdown`. The head stays as it is while `spool` has ticks.
    pub fn new(
        store: Store,
        limits: RetentionLimits,
        spool: Option<Arc<Spool>>,
        progress: Arc<RetentionProgress>,
        shutdown: CancellationToken,
    ) -> Self {
        Self { store, limits, spool, progress, shutdown }
    }

    /// Drops what is to go, until shutdown. One that is being dropped then is still there.
    pub async fn run(self) {
        let shutdown = self.shutdown.clone();
        let keeping = async {
            for round in 0_u64.. {
                tokio::time::sleep(ROUND_INTERVAL).await;
                let now = SystemTime::now();
                let mut outcome = self.round(now).await.map(drop);
                if outcome.is_ok() && round % PRUNE_ROUNDS == 0 {
                    outcome = self.prune(now).await;
                }
                if let Err(error) = outcome {
                    tracing::warn!(%error, "cannot drop what is old, trying again in {ROUND_INTERVAL:?}");
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = keeping => {}
        }
    }

    /// Looks at every partition once; says which were dropped.
    pub async fn round(&self, now: SystemTime) -> Result<Vec<Partition>, StoreError> {
        let mut dropped = Vec::new();
        let mut needed = 0;
        for tier in Tier::ALL.into_iter().filter(|tier| self.may_drop(*tier)) {
            let partitions = self.store.partitions(tier).await?;
            for partition in too_old(partitions, self.limits.of(tier), now) {
                match self.store.drop_partition(&partition).await {
                    Ok(DropOutcome::Dropped) => dropped.push(self.note_dropped(partition, "old")),
                    Ok(DropOutcome::Needed) => needed += 1,
                    Ok(DropOutcome::Busy) => tracing::warn!(
                        partition = partition.name(),
                        "cannot be dropped: its table is never free"
                    ),
                    // One that others depend on holds up no other.
                    Err(error) => {
                        tracing::warn!(partition = partition.name(), %error, "cannot be dropped");
                    }
                }
            }
        }
        if self.progress.needed.swap(needed, Ordering::Relaxed) == 0 && needed > 0 {
            tracing::warn!(
                partitions = needed,
                "the head keeps hours that are old enough to go: a host's ticks in them are not compacted yet"
            );
        }
        if let Some(budget) = self.limits.disk_budget_bytes {
            dropped.extend(self.keep_to(budget, now).await?);
        }
        Ok(dropped)
    }

    /// Ticks in the spool follow others in the head, and were written with fences that dropping raises.
    fn may_drop(&self, tier: Tier) -> bool {
        tier != Tier::Head || self.spool.as_ref().is_none_or(|spool| spool.held().is_none())
    }

    fn note_dropped(&self, partition: Partition, why: &'static str) -> Partition {
        self.progress.dropped.fetch_add(1, Ordering::Relaxed);
        tracing::info!(partition = partition.name(), why, "a partition is dropped");
        partition
    }

    /// Drops what costs most until the database keeps to its budget.
    async fn keep_to(&self, budget: u64, now: SystemTime) -> Result<Vec<Partition>, StoreError> {
        let mut bytes = self.store.database_bytes().await?;
        self.progress.database_bytes.store(bytes, Ordering::Relaxed);
        let mut dropped = Vec::new();
        if bytes <= budget {
            return Ok(dropped);
        }
        let mut partitions = Vec::new();
        for tier in DROPPED_FIRST.into_iter().filter(|tier| self.may_drop(*tier)) {
            partitions.extend(self.store.partitions(tier).await?);
        }
        for StoredPartition { partition, bytes: freed } in in_order_of_cost(partitions, now) {
            if bytes <= budget {
                break;
            }
            if self.store.drop_partition(&partition).await? == DropOutcome::Dropped {
                bytes = bytes.saturating_sub(freed);
                dropped.push(self.note_dropped(partition, "the database is above its budget"));
            }
        }
        if bytes > budget {
            tracing::warn!(bytes, budget, "the database is above its budget, and nothing more can go");
        }
        Ok(dropped)
    }

    /// Forgets cgroups of which nothing is kept any more.
    pub async fn prune(&self, now: SystemTime) -> Result<(), StoreError> {
        let kept = Tier::ALL.map(|tier| self.limits.of(tier)).into_iter().max().unwrap_or_default();
        let mut oldest = now.checked_sub(kept).unwrap_or(SystemTime::UNIX_EPOCH);
        // A partition goes when all of it is old, so it has older rows; and of one that is needed nothing is old.
        for tier in Tier::ALL {
            let first = self.store.partitions(tier).await?.into_iter().next();
            oldest = first.map_or(oldest, |first| oldest.min(first.partition.from()));
        }
        let pruned = self.store.prune_before(oldest).await?;
        self.progress.pruned_cgroups.fetch_add(pruned, Ordering::Relaxed);
        Ok(())
    }
}

/// What goes first when there is too much: a tier that is finer costs more for the same time, and the next has it too. Of
/// each, the oldest first; of the last tier nothing.
const DROPPED_FIRST: [Tier; 3] = [Tier::Head, Tier::Chunk, Tier::RollupMinute];

/// Those that ended more than `age` ago.
fn too_old(partitions: Vec<StoredPartition>, age: Duration, now: SystemTime) -> Vec<Partition> {
    let is_old = |partition: &Partition| {
        let until = partition.until();
        until.is_some_and(|until| now.duration_since(until).is_ok_and(|since| since >= age))
    };
    partitions.into_iter().map(|stored| stored.partition).filter(is_old).collect()
}

/// In the order of [`DROPPED_FIRST`], without those that are being written: the last that has begun, and all behind.
fn in_order_of_cost(partitions: Vec<StoredPartition>, now: SystemTime) -> Vec<StoredPartition> {
    let mut over: Vec<StoredPartition> = partitions
        .into_iter()
        .filter(|stored| stored.partition.until().is_some_and(|until| until <= now))
        .collect();
    let place = |tier: Tier| DROPPED_FIRST.iter().position(|first| *first == tier);
    over.sort_by_key(|stored| (place(stored.partition.tier()), stored.partition.from()));
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(480_000 + hours)
    }

    fn stored(tier: Tier, hours: u64) -> StoredPartition {
        StoredPartition { partition: Partition::of(tier, at(hours)), bytes: 1 }
    }

    #[test]
    fn a_partition_is_old_when_all_of_it_is() {
        let check = |tier, age_hours, now: SystemTime, expect: &[u64]| {
            let partitions = (0..8).map(|n| stored(tier, 24 * n)).collect();
            let found = too_old(partitions, Duration::from_hours(age_hours), now);
            let expect: Vec<Partition> = expect.iter().map(|n| Partition::of(tier, at(24 * n))).collect();
            assert_eq!(found, expect, "{tier:?} {age_hours}");
        };
        check(Tier::Head, 3, at(4), &[0]);
        check(Tier::Head, 3, at(4) - Duration::from_nanos(1), &[]);
        check(Tier::Chunk, 24, at(48), &[0]);
        check(Tier::Chunk, 24, at(47), &[]);
        check(Tier::Chunk, 1, at(10_000), &[0, 1, 2, 3, 4, 5, 6, 7]);
        check(Tier::RollupMinute, 24, SystemTime::UNIX_EPOCH, &[]);
    }

    #[test]
    fn what_costs_most_goes_first_and_nothing_that_is_written() {
        let partitions = [
            stored(Tier::RollupMinute, 0),
            stored(Tier::Chunk, 24),
            stored(Tier::Chunk, 0),
            stored(Tier::Chunk, 48),
            stored(Tier::Head, 49),
            stored(Tier::Head, 48),
            stored(Tier::Head, 50),
        ];
        let found = in_order_of_cost(partitions.to_vec(), at(50));
        let expect = [5, 4, 2, 1, 0].map(|nth| partitions[nth].clone());
        assert_eq!(found, expect);
    }
}
