//! Storing ticks: one transaction per batch, each tick exactly once (docs/ingest-contract.md).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::SystemTime,
};

use cgfleet_proto::v1::{GapReason, Workload};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Cursor, Fence, OpenedStream, Store, StoreError, cgroups,
    codec::{CgroupKey, Frame},
    cursor::lock_cursors,
    partitions::Tier,
    timestamp::to_timestamptz,
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
    /// Whether it was built upon nothing: what else is known of the host's cgroups is gone.
    pub is_fresh: bool,
    /// Cgroups that the tick before did not contain.
    pub new_cgroups: Vec<CgroupIdentity>,
    /// What runs in cgroups, of which that became known.
    pub names: Vec<(CgroupKey, Workload)>,
    /// Cgroups of which no later tick will have anything.
    pub gone: Vec<GoneCgroup>,
    /// The gap that the tick ends.
    pub gap: Option<Gap>,
}

/// A cgroup that is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoneCgroup {
    /// Hierarchy and cgroup id.
    pub key: CgroupKey,
    /// When it was made, by the agent's wall clock; `None` if that was not seen.
    pub created_at: Option<SystemTime>,
    /// The last tick that has it.
    pub last_tick_at: SystemTime,
}

impl TickRow {
    /// The host's cursor once the tick is stored.
    pub fn next(&self) -> Cursor {
        let next_seq = self.sequence.wrapping_add(1);
        Cursor { epoch: self.agent_epoch, next_seq, last_tick_at: self.tick_at }
    }
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

/// Ticks to be stored together: bounded, and those of one host in their order.
#[derive(Debug, Default)]
pub struct TickBatch {
    rows: Vec<TickRow>,
    hosts: HashSet<Uuid>,
    passed_over: HashSet<Uuid>,
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

    /// Adds a tick; hands it back if the batch is full. One that is built upon nothing is handed back behind
    /// another of its host, for it says of what is stored before it what is gone.
    #[must_use = "the tick may have been handed back"]
    pub fn try_push(&mut self, row: TickRow) -> Option<TickRow> {
        let full = self.rows.len() >= Self::TICKS_MAX
            || self.new_cgroups >= Self::NEW_CGROUPS_FULL
            || self.payload_bytes >= Self::PAYLOAD_BYTES_FULL;
        let is_known = !self.hosts.insert(row.host_id);
        // What comes behind a tick that was handed back is too.
        if full || (is_known && row.is_fresh) || self.passed_over.contains(&row.host_id) {
            self.passed_over.insert(row.host_id);
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
            self.known_partitions.forget();
        }
        written
    }

    async fn try_write_batch(&self, rows: &[TickRow]) -> Result<Vec<WriteOutcome>, StoreError> {
        self.ensure_partitions(Tier::Head, rows.iter().map(|row| row.tick_at)).await?;
        let failed = StoreError::during("write ticks");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        let host_ids: BTreeSet<Uuid> = rows.iter().map(|row| row.host_id).collect();
        let found = lock_cursors(&mut transaction, host_ids.into_iter().collect()).await.map_err(&failed)?;
        let outcomes = judge(rows, &mut found.into_iter().collect());
        let is_stored = |(_, outcome): &(_, &WriteOutcome)| **outcome == WriteOutcome::Stored;
        let stored: Vec<&TickRow> =
            rows.iter().zip(&outcomes).filter(is_stored).map(|(row, _)| row).collect();
        if !stored.is_empty() {
            move_cursors(&mut transaction, &stored).await.map_err(&failed)?;
            insert_heads(&mut transaction, &stored).await.map_err(&failed)?;
            cgroups::note(&mut transaction, &stored).await.map_err(&failed)?;
            insert_gaps(&mut transaction, &stored).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(outcomes)
    }
}

/// What becomes of each tick, by where the streams of the hosts stand, which is moved on: those of one host follow
/// each other.
fn judge(rows: &[TickRow], found: &mut HashMap<Uuid, OpenedStream>) -> Vec<WriteOutcome> {
    let identity = |cursor: Cursor| (cursor.epoch, cursor.next_seq);
    let mut judge = |row: &TickRow| {
        let found = found.get_mut(&row.host_id).filter(|found| found.fence == row.fence);
        let Some(found) = found else { return WriteOutcome::Fenced };
        if found.cursor.map(identity) == row.follows.map(identity) {
            found.cursor = Some(row.next());
            return WriteOutcome::Stored;
        }
        let passed = |cursor: Cursor| cursor.epoch == row.agent_epoch && row.sequence < cursor.next_seq;
        if found.cursor.is_some_and(passed) { WriteOutcome::AlreadyStored } else { WriteOutcome::Fenced }
    };
    rows.iter().map(&mut judge).collect()
}

/// Moves the cursors of these ticks' hosts, which are locked, behind the last tick of each.
async fn move_cursors(connection: &mut PgConnection, rows: &[&TickRow]) -> Result<(), sqlx::Error> {
    let last: HashMap<Uuid, Cursor> = rows.iter().map(|row| (row.host_id, row.next())).collect();
    let (host_ids, cursors): (Vec<Uuid>, Vec<Cursor>) = last.into_iter().unzip();
    sqlx::query(
        "update ingest_cursor as cursor
         set epoch = tick.epoch, next_seq = tick.next_seq, last_tick_at = tick.tick_at
         from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[])
             as tick (host_id, epoch, next_seq, tick_at)
         where cursor.host_id = tick.host_id",
    )
    .bind(host_ids)
    .bind(cursors.iter().map(|cursor| cursor.epoch).collect::<Vec<_>>())
    .bind(cursors.iter().map(|cursor| cursor.next_seq.cast_signed()).collect::<Vec<_>>())
    .bind(cursors.iter().map(|cursor| to_timestamptz(cursor.last_tick_at)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
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

const REASONS: [(GapReason, &str); 3] = [
    (GapReason::AgentRestarted, "agent_restarted"),
    (GapReason::NotReceived, "not_received"),
    (GapReason::NotTaken, "not_taken"),
];

fn reason_text(reason: GapReason) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == reason).map_or("unspecified", |(_, text)| text)
}

/// The reason that was stored; unspecified if a newer server wrote it.
pub(super) fn reason_of_text(text: &str) -> GapReason {
    REASONS.iter().find(|(_, known)| *known == text).map_or(GapReason::Unspecified, |(reason, _)| *reason)
}
