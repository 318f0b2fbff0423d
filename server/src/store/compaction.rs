//! What the compactor reads of the head, and the one transaction by which a window becomes chunks and rollups.

use std::time::SystemTime;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    HourRow, MinuteRow, Store, StoreError,
    codec::CgroupKey,
    copy::CopyRows,
    history::keyframe_before,
    partitions::Tier,
    rollups::{insert_hours, insert_minutes, take_hours},
    timestamp::{from_timestamptz, from_unix_usec, to_timestamptz, unix_usec},
};

/// The most ticks of one page: as many payloads are held at one time.
const PAGE_TICKS_MAX: i64 = 128;

/// Hosts of one page.
const PAGE_HOSTS_MAX: i64 = 10_000;

/// How far a host's ticks are stored and compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostProgress {
    /// The host.
    pub host_id: Uuid,
    /// Its newest stored tick.
    pub last_tick_at: SystemTime,
    /// Its newest tick in the chunks; `None` if there is none.
    pub compacted_through: Option<SystemTime>,
}

/// A row of the head without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadTick {
    /// In microseconds since the Unix epoch.
    pub at_usec: i64,
    /// The agent process that took it.
    pub agent_epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
    /// The kernel's boot.
    pub boot_id: Uuid,
}

/// A row of `chunk`. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRow {
    /// The cgroup. Of those that share a row the cgroup id is 0, and the hierarchy's a number of the row.
    pub key: CgroupKey,
    /// The first tick in the payload.
    pub first_usec: i64,
    /// The last one.
    pub last_usec: i64,
    /// What [`encode_chunk`](super::codec::encode_chunk) made.
    pub payload: Vec<u8>,
}

/// A window of a host, compacted and not yet stored.
#[derive(Debug)]
pub struct CompactedWindow {
    /// The host.
    pub host_id: Uuid,
    /// The boot of all its ticks.
    pub boot_id: Uuid,
    /// The watermark that it begins behind.
    pub follows: Option<SystemTime>,
    /// The watermark once it is stored: its last tick.
    pub through: SystemTime,
    /// Its chunks.
    pub chunks: Vec<ChunkRow>,
    /// Its minutes.
    pub minutes: Vec<MinuteRow>,
    /// Its part of the hour, of the cgroups.
    pub hours: Vec<HourRow>,
    /// Whether a window before it is of the same hour: then its rows are added to those.
    pub continues_hour: bool,
}

/// Adds the second rows of an hour to the first. What it says beside are minutes that no hour says any more.
pub type MergeHours = fn(Vec<HourRow>, Vec<HourRow>) -> (Vec<HourRow>, Vec<MinuteRow>);

impl Store {
    /// Hosts with ticks that are not compacted, in pages: behind `after`, ascending.
    pub async fn uncompacted_hosts(&self, after: Option<Uuid>) -> Result<Vec<HostProgress>, StoreError> {
        sqlx::query(
            "select host_id, last_tick_at, compacted_through
             from ingest_cursor left join compaction using (host_id)
             where host_id > $1
               and last_tick_at is not null
               and (compacted_through is null or last_tick_at > compacted_through)
             order by host_id
             limit $2",
        )
        // No agent has the nil uuid.
        .bind(after.unwrap_or_default())
        .bind(PAGE_HOSTS_MAX)
        .try_map(|row: PgRow| {
            let compacted_through: Option<_> = row.try_get("compacted_through")?;
            Ok(HostProgress {
                host_id: row.try_get("host_id")?,
                last_tick_at: from_timestamptz(row.try_get("last_tick_at")?),
                compacted_through: compacted_through.map(from_timestamptz),
            })
        })
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("find hosts to compact"))
    }

    /// The host's first `limit` ticks from a moment on.
    pub async fn head_ticks(
        &self,
        host_id: Uuid,
        from: Option<SystemTime>,
        limit: usize,
    ) -> Result<Vec<HeadTick>, StoreError> {
        sqlx::query(
            "select tick_at, agent_epoch, sequence, boot_id
             from head
             where host_id = $1 and tick_at >= $2
             order by tick_at
             limit $3",
        )
        .bind(host_id)
        .bind(to_timestamptz(from.unwrap_or(SystemTime::UNIX_EPOCH)))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .try_map(|row: PgRow| {
            Ok(HeadTick {
                at_usec: unix_usec(from_timestamptz(row.try_get("tick_at")?)),
                agent_epoch: row.try_get("agent_epoch")?,
                sequence: row.try_get::<i64, _>("sequence")?.cast_unsigned(),
                boot_id: row.try_get("boot_id")?,
            })
        })
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("find ticks to compact"))
    }

    /// The host's last keyframe at or before a tick, of the same UTC day: reading that tick begins there.
    pub async fn keyframe_of(&self, host_id: Uuid, at_usec: i64) -> Result<Option<i64>, StoreError> {
        let failed = StoreError::during("find keyframe");
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        Ok(keyframe_before(&mut connection, host_id, from_unix_usec(at_usec)).await?.map(unix_usec))
    }

    /// A page of the host's payloads with their times, from one time through another; the last one is not full.
    pub async fn head_payloads(
        &self,
        host_id: Uuid,
        from_usec: i64,
        through_usec: i64,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        sqlx::query(
            "select tick_at, payload
             from head
             where host_id = $1 and tick_at >= $2 and tick_at <= $3
             order by tick_at
             limit $4",
        )
        .bind(host_id)
        .bind(to_timestamptz(from_unix_usec(from_usec)))
        .bind(to_timestamptz(from_unix_usec(through_usec)))
        .bind(PAGE_TICKS_MAX)
        .try_map(|row: PgRow| {
            Ok((unix_usec(from_timestamptz(row.try_get("tick_at")?)), row.try_get("payload")?))
        })
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("read ticks to compact"))
    }

    /// Stores a window in one transaction, unless the watermark has moved since it was read; says which. After an error
    /// it is not known whether it was stored: the watermark tells. `merge` adds new rows of an hour to those that are there.
    pub async fn write_window(&self, window: CompactedWindow, merge: MergeHours) -> Result<bool, StoreError> {
        let limit = self.limits.write_timeout;
        let written = tokio::time::timeout(limit, self.try_write_window(window, merge))
            .await
            .unwrap_or(Err(StoreError::Timeout { operation: "write chunks", limit }));
        if written.is_err() {
            self.known_partitions.forget();
        }
        written
    }

    async fn try_write_window(
        &self,
        mut window: CompactedWindow,
        merge: MergeHours,
    ) -> Result<bool, StoreError> {
        for tier in [Tier::Chunk, Tier::RollupMinute, Tier::RollupHour] {
            self.ensure_partitions(tier, [window.through].into_iter()).await?;
        }
        let failed = StoreError::during("write chunks");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        if !move_watermark(&mut transaction, &window).await.map_err(&failed)? {
            return Ok(false);
        }
        if window.continues_hour
            && let Some(from_usec) = window.hours.first().map(|row| row.from_usec)
        {
            let stored = take_hours(&mut transaction, window.host_id, window.boot_id, from_usec).await;
            let (hours, minutes) = merge(stored.map_err(&failed)?, window.hours);
            window.hours = hours;
            window.minutes.extend(minutes);
        }
        insert_chunks(&mut transaction, &window).await.map_err(&failed)?;
        insert_minutes(&mut transaction, window.host_id, &window.minutes).await.map_err(&failed)?;
        insert_hours(&mut transaction, window.host_id, &window.hours).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(true)
    }
}

/// Moves the host's watermark, if it is where the window begins. Of two who try, the second waits and then misses.
async fn move_watermark(
    connection: &mut PgConnection,
    window: &CompactedWindow,
) -> Result<bool, sqlx::Error> {
    let query = match window.follows {
        Some(follows) => sqlx::query(
            "update compaction set compacted_through = $2 where host_id = $1 and compacted_through = $3",
        )
        .bind(window.host_id)
        .bind(to_timestamptz(window.through))
        .bind(to_timestamptz(follows)),
        None => sqlx::query(
            "insert into compaction (host_id, compacted_through) values ($1, $2) on conflict (host_id) do nothing",
        )
        .bind(window.host_id)
        .bind(to_timestamptz(window.through)),
    };
    Ok(query.execute(connection).await?.rows_affected() == 1)
}

async fn insert_chunks(connection: &mut PgConnection, window: &CompactedWindow) -> Result<(), sqlx::Error> {
    let mut copy = CopyRows::new(7);
    for row in &window.chunks {
        copy.begin_row();
        copy.uuid(window.host_id);
        copy.integer(row.key.hierarchy_id.cast_signed());
        copy.bigint(row.key.cgroup_id.cast_signed());
        copy.uuid(window.boot_id);
        copy.timestamptz(row.first_usec);
        copy.timestamptz(row.last_usec);
        copy.bytea(&row.payload);
    }
    let columns = "host_id, hierarchy_id, cgroup_id, boot_id, first_at, last_at, payload";
    copy.send(connection, &format!("copy chunk ({columns}) from stdin (format binary)")).await
}
