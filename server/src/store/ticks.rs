//! Storing ticks: one transaction per batch, each tick exactly once (docs/ingest-contract.md).

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use cgfleet_proto::v1::GapReason;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Cursor, Fence, OpenedStream, Store, StoreError,
    codec::{CgroupKey, Frame},
    cursor::read_cursors,
    timestamp::{to_timestamptz, utc_day},
};

/// What does not change of a cgroup while it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupIdentity {
    /// The boot within which the key is unique.
    pub boot_id: Uuid,
    /// Hierarchy and cgroup id.
    pub key: CgroupKey,
    /// The parent's cgroup id; 0 for a root.
    pub parent_id: u64,
    /// Depth below the root.
    pub level: u32,
    /// Path from the hierarchy's root.
    pub path: String,
}

/// A stretch of time between two stored ticks for which there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last tick before it.
    pub after_at: SystemTime,
    /// The first tick behind it.
    pub before_at: SystemTime,
    /// Why.
    pub reason: GapReason,
}

/// A tick, ready to be stored.
#[derive(Debug)]
pub struct TickRow {
    /// The host.
    pub host_id: Uuid,
    /// The right to write.
    pub fence: Fence,
    /// The host's last tick, upon which this one was built.
    pub follows: Option<Cursor>,
    /// The agent process that took it.
    pub agent_epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
    /// The kernel's boot id.
    pub boot_id: Uuid,
    /// Its time by the server's clock, in whole microseconds.
    pub tick_at: SystemTime,
    /// Its time by the agent's wall clock.
    pub sampled_at: SystemTime,
    /// Whether the payload stands alone.
    pub frame: Frame,
    /// Cgroups in the tick.
    pub cgroup_count: usize,
    /// What was measured.
    pub payload: Vec<u8>,
    /// Cgroups that the tick before did not contain.
    pub new_cgroups: Vec<CgroupIdentity>,
    /// The gap that the tick ends.
    pub gap: Option<Gap>,
}

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is stored.
    Stored,
    /// An earlier attempt of the same writer had stored it.
    AlreadyStored,
    /// Nothing was stored: the stream was opened by somebody else, or the cursor is not where the
    /// writer believes. The stream has to be opened again.
    Fenced,
}

/// Ticks to be stored together: at most one per host, and bounded.
#[derive(Debug, Default)]
pub struct TickBatch {
    rows: Vec<TickRow>,
    hosts: HashSet<Uuid>,
    new_cgroups: usize,
    payload_bytes: usize,
}

impl TickBatch {
    /// The most ticks in a batch.
    pub const TICKS_MAX: usize = 256;
    /// A batch that reached this many new cgroups takes no further tick.
    pub const NEW_CGROUPS_FULL: usize = 20_000;
    /// A batch that reached this many bytes of payload takes no further tick.
    pub const PAYLOAD_BYTES_FULL: usize = 8 << 20;

    /// Adds a tick; hands it back if the batch is full or has a tick of that host.
    #[must_use = "the tick may have been handed back"]
    pub fn try_push(&mut self, row: TickRow) -> Option<TickRow> {
        let full = self.rows.len() >= Self::TICKS_MAX
            || self.new_cgroups >= Self::NEW_CGROUPS_FULL
            || self.payload_bytes >= Self::PAYLOAD_BYTES_FULL;
        if full || !self.hosts.insert(row.host_id) {
            return Some(row);
        }
        self.new_cgroups += row.new_cgroups.len();
        self.payload_bytes += row.payload.len();
        self.rows.push(row);
        None
    }

    /// How many ticks it holds.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Its ticks, in the order in which they came.
    pub fn rows(&self) -> &[TickRow] {
        &self.rows
    }
}

impl Store {
    /// Stores a batch in one transaction; what became of each tick, in the batch's order. After an
    /// error it is not known whether the batch was stored: writing it again finds out.
    pub async fn write_batch(&self, batch: &TickBatch) -> Result<Vec<WriteOutcome>, StoreError> {
        self.write_rows(&batch.rows).await
    }

    /// Stores one tick, as [`write_batch`](Self::write_batch) does.
    pub async fn write_single(&self, row: &TickRow) -> Result<WriteOutcome, StoreError> {
        let outcomes = self.write_rows(std::slice::from_ref(row)).await?;
        Ok(outcomes.into_iter().next().unwrap_or(WriteOutcome::Fenced))
    }

    async fn write_rows(&self, rows: &[TickRow]) -> Result<Vec<WriteOutcome>, StoreError> {
        let limit = self.limits.write_timeout;
        let written = tokio::time::timeout(limit, self.try_write_batch(rows))
            .await
            .unwrap_or(Err(StoreError::Timeout { operation: "write ticks", limit }));
        if written.is_err() {
            self.known_days.forget();
        }
        written
    }

    async fn try_write_batch(&self, rows: &[TickRow]) -> Result<Vec<WriteOutcome>, StoreError> {
        self.ensure_partitions(rows.iter().map(|row| utc_day(row.tick_at))).await?;
        let failed = StoreError::during("write ticks");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let moved = move_cursors(&mut transaction, rows).await.map_err(&failed)?;
        let (stored, missed): (Vec<&TickRow>, Vec<_>) =
            rows.iter().partition(|row| moved.contains(&row.host_id));
        if !stored.is_empty() {
            insert_heads(&mut transaction, &stored).await.map_err(&failed)?;
            insert_cgroups(&mut transaction, &stored).await.map_err(&failed)?;
            insert_gaps(&mut transaction, &stored).await.map_err(&failed)?;
        }
        let found = cursors_of(&mut transaction, &missed).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        let outcome = |row: &TickRow| {
            if moved.contains(&row.host_id) {
                WriteOutcome::Stored
            } else {
                outcome_of_miss(row, found.get(&row.host_id))
            }
        };
        Ok(rows.iter().map(outcome).collect())
    }
}

/// Where the streams of these ticks' hosts stand.
async fn cursors_of(
    connection: &mut PgConnection,
    rows: &[&TickRow],
) -> Result<HashMap<Uuid, OpenedStream>, sqlx::Error> {
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let host_ids: Vec<Uuid> = rows.iter().map(|row| row.host_id).collect();
    Ok(read_cursors(connection, &host_ids).await?.into_iter().collect())
}

/// Why a tick did not move its host's cursor.
fn outcome_of_miss(row: &TickRow, found: Option<&OpenedStream>) -> WriteOutcome {
    let stored_before = found.is_some_and(|found| {
        let passed = |cursor: Cursor| cursor.epoch == row.agent_epoch && row.sequence < cursor.next_seq;
        found.fence == row.fence && found.cursor.is_some_and(passed)
    });
    if stored_before { WriteOutcome::AlreadyStored } else { WriteOutcome::Fenced }
}

/// Moves the cursors of the hosts whose writer holds the fence and knows the last tick.
async fn move_cursors(connection: &mut PgConnection, rows: &[TickRow]) -> Result<HashSet<Uuid>, sqlx::Error> {
    let column = |of: fn(&TickRow) -> i64| -> Vec<i64> { rows.iter().map(of).collect() };
    let follows = |row: &TickRow| row.follows.map(|cursor| (cursor.epoch, cursor.next_seq.cast_signed()));
    let moved: Vec<Uuid> = sqlx::query_scalar(
        "update ingest_cursor as cursor
         set epoch = tick.epoch, next_seq = tick.sequence + 1, last_tick_at = tick.tick_at
         from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::uuid[], $6::bigint[],
                     $7::timestamptz[])
             as tick (host_id, fence, follows_epoch, follows_seq, epoch, sequence, tick_at)
         where cursor.host_id = tick.host_id
           and cursor.fence = tick.fence
           and cursor.epoch is not distinct from tick.follows_epoch
           and cursor.next_seq is not distinct from tick.follows_seq
         returning cursor.host_id",
    )
    .bind(rows.iter().map(|row| row.host_id).collect::<Vec<_>>())
    .bind(column(|row| row.fence.0))
    .bind(rows.iter().map(|row| follows(row).map(|(epoch, _)| epoch)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| follows(row).map(|(_, next_seq)| next_seq)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.agent_epoch).collect::<Vec<_>>())
    .bind(column(|row| row.sequence.cast_signed()))
    .bind(rows.iter().map(|row| to_timestamptz(row.tick_at)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(moved.into_iter().collect())
}

async fn insert_heads(connection: &mut PgConnection, rows: &[&TickRow]) -> Result<(), sqlx::Error> {
    let count = |row: &&TickRow| i32::try_from(row.cgroup_count).unwrap_or(i32::MAX);
    sqlx::query(
        "insert into head
             (host_id, tick_at, agent_epoch, sequence, boot_id, sampled_at, keyframe, cgroup_count, payload)
         select * from unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::bigint[], $5::uuid[],
                              $6::timestamptz[], $7::boolean[], $8::integer[], $9::bytea[])",
    )
    .bind(rows.iter().map(|row| row.host_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| to_timestamptz(row.tick_at)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.agent_epoch).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.sequence.cast_signed()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.boot_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| to_timestamptz(row.sampled_at)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.frame == Frame::Keyframe).collect::<Vec<_>>())
    .bind(rows.iter().map(count).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.payload.as_slice()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes cgroups that are not known yet: after a stream was opened, all of them look new.
async fn insert_cgroups(connection: &mut PgConnection, rows: &[&TickRow]) -> Result<(), sqlx::Error> {
    let new: Vec<(&TickRow, &CgroupIdentity)> =
        rows.iter().flat_map(|row| row.new_cgroups.iter().map(|cgroup| (*row, cgroup))).collect();
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into cgroup
             (host_id, hierarchy_id, cgroup_id, boot_id, parent_id, level, path, first_tick_at)
         select * from unnest($1::uuid[], $2::integer[], $3::bigint[], $4::uuid[], $5::bigint[],
                              $6::integer[], $7::text[], $8::timestamptz[])
         on conflict (host_id, hierarchy_id, cgroup_id, boot_id) do nothing",
    )
    .bind(new.iter().map(|(row, _)| row.host_id).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup)| cgroup.key.hierarchy_id.cast_signed()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup)| cgroup.key.cgroup_id.cast_signed()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup)| cgroup.boot_id).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup)| cgroup.parent_id.cast_signed()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup)| cgroup.level.cast_signed()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup)| cgroup.path.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|(row, _)| to_timestamptz(row.tick_at)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_gaps(connection: &mut PgConnection, rows: &[&TickRow]) -> Result<(), sqlx::Error> {
    let gaps: Vec<(Uuid, Gap)> = rows.iter().filter_map(|row| Some((row.host_id, row.gap?))).collect();
    if gaps.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into gap (host_id, after_at, before_at, reason)
         select * from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[])",
    )
    .bind(gaps.iter().map(|(host_id, _)| *host_id).collect::<Vec<_>>())
    .bind(gaps.iter().map(|(_, gap)| to_timestamptz(gap.after_at)).collect::<Vec<_>>())
    .bind(gaps.iter().map(|(_, gap)| to_timestamptz(gap.before_at)).collect::<Vec<_>>())
    .bind(gaps.iter().map(|(_, gap)| reason_text(gap.reason)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

const REASONS: [(GapReason, &str); 2] =
    [(GapReason::AgentRestarted, "agent_restarted"), (GapReason::NotReceived, "not_received")];

fn reason_text(reason: GapReason) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == reason).map_or("unspecified", |(_, text)| text)
}

/// The reason that was stored; unspecified if a newer server wrote it.
pub(super) fn reason_of_text(text: &str) -> GapReason {
    REASONS.iter().find(|(_, known)| *known == text).map_or(GapReason::Unspecified, |(reason, _)| *reason)
}
