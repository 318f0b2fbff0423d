//! Partitions that go, and what goes with them. Dropping one takes a lock that readers and writers of its table feel, so it is
//! asked for briefly and asked for again.

use std::time::{Duration, SystemTime};

use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};

use super::{
    Store, StoreError,
    partitions::{Partition, Tier, lock_partitions},
    timestamp::to_timestamptz,
};

/// How long everybody else may have to wait for a lock that is asked for.
const LOCK_TIMEOUT: &str = "set local lock_timeout to '100ms'";

/// How often it is asked for, and the pause in between: a second in which writers go on.
const LOCK_ATTEMPTS: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Cgroups that one statement deletes.
const PRUNED_AT_ONCE: i64 = 10_000;

/// SQLSTATE of a lock that could not be had in time, and of a deadlock that was broken.
const LOCK_NOT_AVAILABLE: [&str; 2] = ["55P03", "40P01"];

/// A partition that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPartition {
    /// Which.
    pub partition: Partition,
    /// On disk, with indexes and what is kept apart.
    pub bytes: u64,
}

/// What became of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropOutcome {
    /// It is gone.
    Dropped,
    /// It has ticks that are not compacted yet.
    Needed,
    /// Its table was never free for it.
    Busy,
}

impl Store {
    /// Every partition of a tier, the oldest first. Tables that no version of this server made are left out.
    pub async fn partitions(&self, tier: Tier) -> Result<Vec<StoredPartition>, StoreError> {
        let found: Vec<Option<StoredPartition>> = sqlx::query(
            "select relname::text as name, pg_total_relation_size(pg_class.oid) as bytes
             from pg_inherits join pg_class on pg_class.oid = inhrelid
             where inhparent = $1::regclass",
        )
        .bind(tier.table())
        .try_map(|row: PgRow| {
            let (name, bytes): (&str, i64) = (row.try_get("name")?, row.try_get("bytes")?);
            let found = Partition::named(tier, name);
            Ok(found.map(|partition| StoredPartition { partition, bytes: bytes.unsigned_abs() }))
        })
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("list partitions"))?;
        let mut partitions: Vec<StoredPartition> = found.into_iter().flatten().collect();
        partitions.sort_by(|one, other| one.partition.cmp(&other.partition));
        Ok(partitions)
    }

    /// Bytes of the whole database on disk.
    pub async fn database_bytes(&self) -> Result<u64, StoreError> {
        let bytes: i64 = sqlx::query_scalar("select pg_database_size(current_database())")
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::during("measure the database"))?;
        Ok(bytes.unsigned_abs())
    }

    /// Drops a partition, if every tick in it is compacted; what is none of the head always is.
    pub async fn drop_partition(&self, partition: &Partition) -> Result<DropOutcome, StoreError> {
        let failed = StoreError::during("drop partition");
        for attempt in 0..LOCK_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(LOCK_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            }
            // Without a lock first: as long as it is needed, nobody has to wait for finding that out.
            let mut connection = self.pool.acquire().await.map_err(&failed)?;
            if is_needed(&mut connection, partition).await.map_err(&failed)? {
                return Ok(DropOutcome::Needed);
            }
            drop(connection);
            match self.try_drop(partition).await {
                Err(error) if is_about_locks(&error) => {}
                outcome => return outcome.map_err(&failed),
            }
        }
        Ok(DropOutcome::Busy)
    }

    async fn try_drop(&self, partition: &Partition) -> Result<DropOutcome, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(LOCK_TIMEOUT).execute(&mut *transaction).await?;
        lock_partitions(&mut transaction).await?;
        if partition.tier() == Tier::Head {
            // In the order in which a batch takes them.
            fence_streams(&mut transaction, partition).await?;
        }
        lock_table(&mut transaction, partition.tier()).await?;
        if is_needed(&mut transaction, partition).await? {
            return Ok(DropOutcome::Needed);
        }
        drop_table(&mut transaction, partition).await?;
        transaction.commit().await?;
        self.known_partitions.forget();
        Ok(DropOutcome::Dropped)
    }

    /// Deletes cgroups whose last tick was before a moment, also of hosts that went with all they had, and gaps that
    /// ended before it. How many cgroups.
    pub async fn prune_before(&self, at: SystemTime) -> Result<u64, StoreError> {
        sqlx::query(
            "update cgroup
             set last_tick_at = cursor.last_tick_at
             from ingest_cursor as cursor
             where cursor.last_tick_at < $1 and cgroup.host_id = cursor.host_id and cgroup.last_tick_at is null",
        )
        .bind(to_timestamptz(at))
        .execute(&self.pool)
        .await
        .map_err(StoreError::during("note what went with its host"))?;
        let pruned = self.prune_cgroups(at).await?;
        sqlx::query("delete from gap where before_at < $1")
            .bind(to_timestamptz(at))
            .execute(&self.pool)
            .await
            .map_err(StoreError::during("delete gaps"))?;
        Ok(pruned)
    }

    async fn prune_cgroups(&self, at: SystemTime) -> Result<u64, StoreError> {
        let mut pruned = 0;
        loop {
            // A bounded number at a time: each statement locks the rows that it deletes.
            let deleted = sqlx::query(
                "delete from cgroup
                 where (host_id, hierarchy_id, cgroup_id, boot_id) in (
                     select host_id, hierarchy_id, cgroup_id, boot_id
                     from cgroup
                     where last_tick_at < $1
                     limit $2
                     for update skip locked
                 ) and last_tick_at < $1",
            )
            .bind(to_timestamptz(at))
            .bind(PRUNED_AT_ONCE)
            .execute(&self.pool)
            .await
            .map_err(StoreError::during("delete cgroups"))?
            .rows_affected();
            pruned += deleted;
            if i64::try_from(deleted).is_ok_and(|deleted| deleted < PRUNED_AT_ONCE) {
                return Ok(pruned);
            }
        }
    }
}

fn is_about_locks(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| LOCK_NOT_AVAILABLE.contains(&code.as_ref()))
}

/// Whether a partition of the head has ticks behind their host's watermark. A probe of the key for each host.
async fn is_needed(connection: &mut PgConnection, partition: &Partition) -> Result<bool, sqlx::Error> {
    if partition.tier() != Tier::Head {
        return Ok(false);
    }
    let statement = format!(
        "select exists (
             select 1
             from ingest_cursor left join compaction using (host_id)
             where last_tick_at is not null
               and exists (
                   select 1
                   from {} as head
                   where head.host_id = ingest_cursor.host_id
                     and head.tick_at > coalesce(compaction.compacted_through, '-infinity')
               )
         )",
        partition.name()
    );
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection).await
}

/// Whoever writes the next tick of a host whose last one is in the partition may build it upon that: has it open the stream
/// again, which begins with a keyframe.
async fn fence_streams(connection: &mut PgConnection, partition: &Partition) -> Result<(), sqlx::Error> {
    sqlx::query("update ingest_cursor set fence = fence + 1 where last_tick_at >= $1 and last_tick_at < $2")
        .bind(to_timestamptz(partition.from()))
        .bind(partition.until().map(to_timestamptz))
        .execute(connection)
        .await?;
    Ok(())
}

async fn lock_table(connection: &mut PgConnection, tier: Tier) -> Result<(), sqlx::Error> {
    let statement = format!("lock table only {} in access exclusive mode", tier.table());
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

async fn drop_table(connection: &mut PgConnection, partition: &Partition) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(format!("drop table {}", partition.name()))).execute(connection).await?;
    Ok(())
}
