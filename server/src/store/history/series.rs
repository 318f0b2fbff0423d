//! Values for series of many hosts: a page is one snapshot, with one statement for each tier.

use std::collections::HashMap;

use cgfleet_model::MetricSet;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    super::{
        Gap, Store, StoreError,
        codec::CgroupKey,
        partitions::{Partition, Tier as StoredTier},
        ticks::reason_of_text,
        timestamp::{from_timestamptz, from_unix_usec, to_timestamptz, unix_usec},
    },
    chunk, head,
    micros::micros_of,
    rollup,
};
use crate::history::{Aggregation, HostSeries, LOOKBACK, Measure, Steps, Tier, TooMany};

/// A batch of rows goes to a thread of its own when it has so many bytes.
pub(super) const BATCH_BYTES_FULL: usize = 1 << 20;
/// A batch as small as this is read at once, without a thread.
const BATCH_BYTES_AT_ONCE: usize = 64 << 10;

/// Begins to read what is stored as of one moment. Dropping a partition is seen at once, whatever the moment: none of the
/// head goes while this is held.
pub(super) const BEGIN_SNAPSHOT: &str =
    "begin isolation level repeatable read read only; lock table only head in access share mode";

/// A stretch of time to be read of some hosts: of whole minutes or hours, where rollups of these may be read.
#[derive(Debug, Clone, Copy)]
pub struct SeriesPage<'a> {
    /// The first moment, in microseconds since the Unix epoch.
    pub since: i64,
    /// The first moment behind it.
    pub until: i64,
    /// Whether it is the first of its hosts: what counters grow from is to be found before it.
    pub is_first: bool,
    /// The coarsest tier that may be read.
    pub tier: Tier,
    /// The measures of the series.
    pub measures: &'a [Measure],
    /// Their steps.
    pub steps: Steps,
}

impl SeriesPage<'_> {
    /// Up to where rollups are read that end with a moment. A mean is not made of minutes and of ticks: then whole
    /// steps are of the one or of the other.
    fn rolled_until(&self, whole: i64) -> i64 {
        let steps = self.steps;
        if !self.measures.iter().any(|measure| measure.aggregation == Aggregation::Mean) {
            return whole;
        }
        match steps.length() {
            _ if whole >= steps.until() => whole,
            Some(length) => steps.since() + (whole.max(steps.since()) - steps.since()) / length * length,
            None => i64::MIN,
        }
    }

    /// The metrics of the measures, in whose order they are.
    pub(super) fn metrics(&self) -> MetricSet {
        self.measures.iter().map(|measure| measure.metric).collect()
    }
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

/// What a page has.
#[derive(Debug)]
pub struct PageRead {
    /// The hosts' series.
    pub hosts: Vec<HostSeries>,
    /// From where.
    pub tiers: Vec<TierRead>,
    /// The hosts' gaps, of the first page those of the whole range.
    pub gaps: Vec<(Uuid, Gap)>,
}

impl Store {
    /// Reads a page into these hosts' series.
    pub async fn read_series(
        &self,
        hosts: Vec<HostSeries>,
        page: SeriesPage<'_>,
    ) -> Result<PageRead, ReadError> {
        let failed = StoreError::during("read history");
        let mut snapshot = self.pool.begin_with(BEGIN_SNAPSHOT).await.map_err(&failed)?;
        let read = read_page(&mut snapshot, hosts, page).await?;
        snapshot.commit().await.map_err(&failed)?;
        Ok(read)
    }
}

async fn read_page(
    snapshot: &mut PgConnection,
    mut hosts: Vec<HostSeries>,
    page: SeriesPage<'_>,
) -> Result<PageRead, ReadError> {
    let (watermarks, gaps) = watermarks_and_gaps(snapshot, &hosts, page).await?;
    for host in &mut hosts {
        let host_id = host.host_id();
        for (_, gap) in gaps.iter().filter(|(of, _)| *of == host_id) {
            host.gap(unix_usec(gap.after_at), unix_usec(gap.before_at));
        }
    }
    let mut tiers = Vec::new();
    let mut note = |tier, rows, since, until| {
        if rows > 0 {
            tiers.push(TierRead { tier, rows, since, until });
        }
    };
    // Of each host, from where on ticks are needed: rollups end with their last whole unit.
    let mut ticks_from = vec![page.since; hosts.len()];
    if let Some((unit, tier)) = unit_of(page.tier) {
        for (from, through) in ticks_from.iter_mut().zip(&watermarks) {
            let whole = through.map_or(i64::MIN, |through| (through + 1).div_euclid(unit) * unit);
            *from = page.rolled_until(whole).clamp(page.since, page.until);
        }
        let rolled_until = ticks_from.iter().copied().max().unwrap_or(page.since);
        if rolled_until > page.since {
            hosts.iter_mut().zip(&ticks_from).for_each(|(host, from)| host.count_from(*from));
            let read = match tier {
                StoredTier::RollupHour => {
                    rollup::read_hours(snapshot, &mut hosts, page.measures, page.since, &ticks_from).await?
                }
                _ => {
                    rollup::read_minutes(snapshot, &mut hosts, page.measures, page.since, &ticks_from).await?
                }
            };
            note(tier, read, page.since, rolled_until);
        }
    }
    hosts.iter_mut().zip(&ticks_from).for_each(|(host, from)| host.count_from(*from));
    let first = ticks_from.iter().copied().min().unwrap_or(page.since);
    // Where the page before had rollups, there is nothing yet that counters grow from.
    let is_continued = |from: i64| !page.is_first && from == page.since && page.tier == Tier::Ticks;
    let froms: Vec<i64> =
        ticks_from.iter().map(|from| from - if is_continued(*from) { 0 } else { LOOKBACK }).collect();
    let last_compacted = watermarks.iter().flatten().copied().max();
    let has_chunks = last_compacted.is_some_and(|through| through >= first - LOOKBACK) && first < page.until;
    // Not of a time that is compacted whole: its partition may have been dropped, and made again for a host that was late.
    let is_recent = last_compacted.is_none_or(|through| through < page.until);
    let in_head = has_chunks
        && is_recent
        && prefers_head(&hosts, page)
        && head_has(snapshot, first - LOOKBACK, page.until).await?;
    if has_chunks && !in_head {
        let rows;
        (hosts, rows) = chunk::read_chunks(snapshot, hosts, page, &froms).await?;
        let until = last_compacted.map_or(page.until, |through| (through + 1).min(page.until));
        note(StoredTier::Chunk, rows, first, until.max(first));
    }
    let behind: Vec<i64> = froms
        .iter()
        .zip(&watermarks)
        .map(|(from, through)| {
            (*from).max(through.filter(|_| !in_head).map_or(i64::MIN, |through| through + 1))
        })
        .collect();
    if behind.iter().any(|from| *from < page.until) {
        let anchors: Vec<i64> =
            ticks_from.iter().zip(&behind).map(|(from, behind)| (*from).max(*behind)).collect();
        let rows;
        (hosts, rows) = head::read_head(snapshot, hosts, page, &behind, &anchors).await?;
        note(StoredTier::Head, rows, anchors.iter().copied().min().unwrap_or(page.since), page.until);
    }
    Ok(PageRead { hosts, tiers, gaps })
}

/// What a tier is made of, and how it is called.
fn unit_of(tier: Tier) -> Option<(i64, StoredTier)> {
    match tier {
        Tier::Ticks => None,
        Tier::Minutes => Some((60_000_000, StoredTier::RollupMinute)),
        Tier::Hours => Some((HOUR, StoredTier::RollupHour)),
    }
}

/// Whether ticks of a short time are read faster from the head than as a chunk of each cgroup, if the head has them.
fn prefers_head(hosts: &[HostSeries], page: SeriesPage<'_>) -> bool {
    page.until - page.since <= HEAD_RANGE_MAX
        && hosts.iter().all(|host| host.keys().is_none_or(|keys| keys.len() > 16))
}

/// A range that is longer than this is read from the chunks.
const HEAD_RANGE_MAX: i64 = 15 * 60_000_000;

/// Whether the head has all of a stretch of time: none of its partitions is gone.
async fn head_has(snapshot: &mut PgConnection, since: i64, until: i64) -> Result<bool, ReadError> {
    let hours =
        (since.div_euclid(HOUR)..=(until - 1).div_euclid(HOUR)).map(|hour| from_unix_usec(hour * HOUR));
    let names: Vec<String> =
        hours.map(|hour| Partition::of(StoredTier::Head, hour).name().to_owned()).collect();
    let has =
        sqlx::query_scalar("select bool_and(to_regclass(name) is not null) from unnest($1::text[]) as name")
            .bind(names)
            .fetch_one(snapshot)
            .await
            .map_err(StoreError::during("look for the head's partitions"))?;
    Ok(has)
}

/// Of each host how far its ticks are compacted, and the gaps: one statement, for each takes a trip.
async fn watermarks_and_gaps(
    snapshot: &mut PgConnection,
    hosts: &[HostSeries],
    page: SeriesPage<'_>,
) -> Result<(Vec<Option<i64>>, Vec<(Uuid, Gap)>), ReadError> {
    let places: HashMap<Uuid, usize> =
        hosts.iter().enumerate().map(|(place, host)| (host.host_id(), place)).collect();
    let gaps_since = if page.is_first { page.since - LOOKBACK } else { page.since };
    let failed = StoreError::during("read watermarks");
    let rows: Vec<PgRow> = sqlx::query(
        "select host_id, compacted_through, null::timestamptz, null::text from compaction where host_id = any($1)
         union all
         (select host_id, after_at, before_at, reason
          from gap
          where host_id = any($1) and before_at > $2 and after_at < $3
          order by host_id, before_at)",
    )
    .bind(places.keys().copied().collect::<Vec<_>>())
    .bind(to_timestamptz(from_unix_usec(gaps_since)))
    .bind(to_timestamptz(from_unix_usec(page.until)))
    .fetch_all(snapshot)
    .await
    .map_err(&failed)?;
    let (mut watermarks, mut gaps) = (vec![None; hosts.len()], Vec::new());
    for row in rows {
        let host_id: Uuid = row.try_get(0).map_err(&failed)?;
        let before_at: Option<_> = row.try_get(2).map_err(&failed)?;
        let Some(before_at) = before_at else {
            if let Some(place) = places.get(&host_id) {
                watermarks[*place] = Some(micros_of(&row, 1).map_err(&failed)?);
            }
            continue;
        };
        let gap = Gap {
            after_at: from_timestamptz(row.try_get(1).map_err(&failed)?),
            before_at: from_timestamptz(before_at),
            reason: reason_of_text(row.try_get(3).map_err(&failed)?),
        };
        gaps.push((host_id, gap));
    }
    Ok((watermarks, gaps))
}

/// The host of a row, by its first column.
pub(super) fn place_of(row: &PgRow) -> Result<usize, sqlx::Error> {
    Ok(usize::try_from(row.try_get::<i64, _>(0)? - 1).unwrap_or_default())
}

/// Rows of one host, on their way to whoever reads them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<BatchRow>,
    pub(super) bytes: Vec<u8>,
}

/// A row without its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchRow {
    /// Its tick, or its first one.
    pub(super) at: i64,
    pub(super) boot_id: Uuid,
    /// Of a chunk.
    pub(super) key: CgroupKey,
    end: usize,
}

impl Batch {
    pub(super) fn push(&mut self, at: i64, boot_id: Uuid, key: CgroupKey, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.rows.push(BatchRow { at, boot_id, key, end: self.bytes.len() });
    }

    /// Each row and its payload.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BatchRow, &[u8])> {
        let mut begin = 0;
        self.rows.iter().map(move |row| {
            let payload = &self.bytes[begin..row.end];
            begin = row.end;
            (*row, payload)
        })
    }
}

pub(super) const HOUR: i64 = 3_600_000_000;

/// Somebody who reads batches of one host, one after the other.
pub(super) trait Lane: Send + 'static {
    fn read(&mut self, batch: &Batch) -> Result<(), ReadError>;
}

/// Hosts whose batches are read on threads, those of one host in their order.
pub(super) struct Lanes<L> {
    /// `None` while it is being read into.
    waiting: Vec<Option<L>>,
    reading: JoinSet<Result<(usize, L), ReadError>>,
    threads: usize,
}

impl<L: Lane> Lanes<L> {
    pub(super) fn new(lanes: Vec<L>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { waiting: lanes.into_iter().map(Some).collect(), reading: JoinSet::new(), threads }
    }

    pub(super) async fn read(&mut self, place: usize, batch: Batch) -> Result<(), ReadError> {
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

    pub(super) async fn finish(mut self) -> Result<Vec<L>, ReadError> {
        while !self.reading.is_empty() {
            self.take_back().await?;
        }
        Ok(self.waiting.into_iter().flatten().collect())
    }
}
