//! Values for series of many hosts: a page is one snapshot, with one statement for each tier.

use cgfleet_model::MetricSet;
use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    super::{
        Gap, Store, StoreError,
        ticks::reason_of_text,
        timestamp::{from_timestamptz, to_timestamptz},
    },
    head::HeadLane,
    micros::{micros_of, system_time},
};
use crate::history::{HostSeries, LOOKBACK, Tier, TooMany};

/// A batch of rows goes to a thread of its own when it has so many bytes.
const BATCH_BYTES_FULL: usize = 1 << 20;
/// A batch as small as this is read at once, without a thread.
const BATCH_BYTES_AT_ONCE: usize = 64 << 10;

/// A stretch of time to be read of some hosts.
#[derive(Debug, Clone, Copy)]
pub struct SeriesPage {
    /// The first moment, in microseconds since the Unix epoch.
    pub since: i64,
    /// The first moment behind it.
    pub until: i64,
    /// Whether it is the first of its hosts: what counters grow from is to be found before it.
    pub is_first: bool,
    /// The coarsest tier that may be read.
    pub tier: Tier,
    /// The metrics of the measures.
    pub metrics: MetricSet,
}

/// Where values were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoredTier {
    /// Ticks.
    Head,
    /// Ticks by cgroup.
    Chunk,
    /// Minutes.
    RollupMinute,
    /// Hours.
    RollupHour,
}

/// What was read of one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierRead {
    /// Which.
    pub tier: StoredTier,
    /// How many rows.
    pub rows: u64,
    /// The first moment that was read.
    pub since: i64,
    /// The first moment behind.
    pub until: i64,
}

/// Values could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are too many.
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

impl Store {
    /// Reads a page into these hosts' series.
    pub async fn read_series(
        &self,
        hosts: Vec<HostSeries>,
        page: SeriesPage,
    ) -> Result<(Vec<HostSeries>, Vec<TierRead>), ReadError> {
        let failed = StoreError::during("read history");
        let mut snapshot =
            self.pool.begin_with("begin isolation level repeatable read read only").await.map_err(&failed)?;
        let read = read_head(&mut snapshot, hosts, page).await?;
        snapshot.commit().await.map_err(&failed)?;
        Ok(read)
    }

    /// The gaps of these hosts that touch a stretch of time.
    pub async fn gaps_of(
        &self,
        host_ids: &[Uuid],
        since: i64,
        until: i64,
    ) -> Result<Vec<(Uuid, Gap)>, StoreError> {
        sqlx::query(
            "select host_id, after_at, before_at, reason
             from gap
             where host_id = any($1) and before_at > $2 and after_at < $3
             order by host_id, before_at",
        )
        .bind(host_ids)
        .bind(to_timestamptz(system_time(since)))
        .bind(to_timestamptz(system_time(until)))
        .try_map(|row: PgRow| {
            let gap = Gap {
                after_at: from_timestamptz(row.try_get("after_at")?),
                before_at: from_timestamptz(row.try_get("before_at")?),
                reason: reason_of_text(row.try_get("reason")?),
            };
            Ok((row.try_get("host_id")?, gap))
        })
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("read gaps"))
    }
}

/// Rows of one host, on their way to whoever reads them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Of each row its tick, its boot, and where its payload ends.
    pub(super) rows: Vec<(i64, Uuid, usize)>,
    pub(super) bytes: Vec<u8>,
}

impl Batch {
    /// Each row: tick, boot and payload.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, Uuid, &[u8])> {
        let mut begin = 0;
        self.rows.iter().map(move |(at, boot_id, end)| {
            let payload = &self.bytes[begin..*end];
            begin = *end;
            (*at, *boot_id, payload)
        })
    }
}

/// Reads ticks from `head`.
async fn read_head(
    snapshot: &mut PgConnection,
    hosts: Vec<HostSeries>,
    page: SeriesPage,
) -> Result<(Vec<HostSeries>, Vec<TierRead>), ReadError> {
    let host_ids: Vec<Uuid> = hosts.iter().map(HostSeries::host_id).collect();
    // A counter of the first step grows from the tick before it.
    let anchor = if page.is_first { page.since - 1 } else { page.since };
    let earliest = (page.since - LOOKBACK).div_euclid(HOUR) * HOUR;
    let from = if page.is_first { page.since - LOOKBACK } else { page.since };
    let lanes = hosts.into_iter().map(|host| HeadLane::new(host, page, from)).collect();
    let mut lanes = Lanes::new(lanes);
    let at = |micros| to_timestamptz(system_time(micros));
    let mut rows = sqlx::query(
        "select host.place, tick.tick_at, tick.boot_id, tick.payload
         from unnest($1::uuid[], $2::timestamptz[]) with ordinality as host (host_id, anchor_at, place)
         cross join lateral (
             select tick_at, boot_id, payload
             from head
             where head.host_id = host.host_id and head.tick_at >= $3 and head.tick_at < $4
               and head.tick_at >= coalesce(
                   (select max(keyframe.tick_at)
                    from head as keyframe
                    where keyframe.host_id = host.host_id and keyframe.keyframe
                      and keyframe.tick_at >= $3 and keyframe.tick_at <= $5
                      and keyframe.tick_at <= host.anchor_at),
                   host.anchor_at)
             order by tick_at
         ) as tick",
    )
    .bind(&host_ids)
    .bind(vec![at(anchor); host_ids.len()])
    .bind(at(earliest))
    .bind(at(page.until))
    .bind(at(anchor))
    .fetch(&mut *snapshot);
    let failed = StoreError::during("read ticks");
    let (mut of, mut batch, mut count) = (0, Batch::default(), 0);
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let place = usize::try_from(row.try_get::<i64, _>(0).map_err(&failed)? - 1).unwrap_or_default();
        if place != of || batch.bytes.len() >= BATCH_BYTES_FULL {
            lanes.read(of, std::mem::take(&mut batch)).await?;
            of = place;
        }
        let payload: &[u8] = row.try_get(3).map_err(&failed)?;
        batch.bytes.extend_from_slice(payload);
        let tick_at = micros_of(&row, 1).map_err(&failed)?;
        batch.rows.push((tick_at, row.try_get(2).map_err(&failed)?, batch.bytes.len()));
        count += 1;
    }
    lanes.read(of, batch).await?;
    let read = TierRead { tier: StoredTier::Head, rows: count, since: page.since, until: page.until };
    let hosts = lanes.finish().await?.into_iter().map(HeadLane::into_host).collect();
    Ok((hosts, if count > 0 { vec![read] } else { Vec::new() }))
}

pub(super) const HOUR: i64 = 3_600_000_000;

/// Somebody who reads batches of one host, one after the other.
pub(super) trait Lane: Send + 'static {
    fn read(&mut self, batch: &Batch) -> Result<(), ReadError>;
}

/// Hosts whose batches are read on threads, those of one host in their order.
struct Lanes<L> {
    /// `None` while it is being read into.
    waiting: Vec<Option<L>>,
    reading: JoinSet<Result<(usize, L), ReadError>>,
    threads: usize,
}

impl<L: Lane> Lanes<L> {
    fn new(lanes: Vec<L>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { waiting: lanes.into_iter().map(Some).collect(), reading: JoinSet::new(), threads }
    }

    async fn read(&mut self, place: usize, batch: Batch) -> Result<(), ReadError> {
        if batch.rows.is_empty() {
            return Ok(());
        }
        while self.waiting[place].is_none() || self.reading.len() > self.threads {
            self.take_back().await?;
        }
        let Some(mut lane) = self.waiting[place].take() else { return Ok(()) };
        if self.waiting.len() == 1 && batch.bytes.len() <= BATCH_BYTES_AT_ONCE {
            lane.read(&batch)?;
            self.waiting[place] = Some(lane);
            return Ok(());
        }
        self.reading.spawn_blocking(move || {
            lane.read(&batch)?;
            Ok((place, lane))
        });
        Ok(())
    }

    async fn take_back(&mut self) -> Result<(), ReadError> {
        match self.reading.join_next().await {
            Some(Ok(read)) => {
                let (place, lane) = read?;
                self.waiting[place] = Some(lane);
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => {}
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<L>, ReadError> {
        while !self.reading.is_empty() {
            self.take_back().await?;
        }
        Ok(self.waiting.into_iter().flatten().collect())
    }
}
