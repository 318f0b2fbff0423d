//! Ticks of one host's cgroups as they were, page by page.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use cgfleet_model::{MetricSet, TimeRange};
use cgfleet_proto::v1::CgroupSample;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    super::{
        CgroupIdentity, Gap, Store, StoreError,
        codec::{CgroupKey, ChunkSeries, HeadDecoder, decode_chunk},
        partitions::Tier,
        ticks::reason_of_text,
        timestamp::{from_timestamptz, from_unix_usec, start_of_utc_day, to_timestamptz, unix_usec},
    },
    chunk::{ChunkOf, wanted_chunks},
    series::{BEGIN_SNAPSHOT, HOUR, TierRead},
};

/// The most ticks that one page reads: the reader holds no more than this many payloads.
const PAGE_TICKS_MAX: i64 = 128;

/// What happened to the selected cgroups, in time order.
#[derive(Debug, Clone, PartialEq)]
pub enum HistoryEvent {
    /// Ticks are missing.
    Gap(Gap),
    /// A cgroup at a tick.
    Point {
        /// The tick by the server's clock.
        tick_at: SystemTime,
        /// What was measured, with identity and path. Where each group was read is not stored.
        sample: Box<CgroupSample>,
    },
}

/// A page of chunks is so long that this many cgroups would have an hour of it: some ten thousand points.
const PAGE_CGROUP_HOURS: i64 = 20;

/// Reads the history of some cgroups of one host, page by page. A page is one snapshot; nothing is held in Postgres
/// between two.
#[derive(Debug)]
pub struct HistoryReader {
    store: Store,
    host_id: Uuid,
    range: TimeRange,
    cgroups: Vec<CgroupIdentity>,
    places: HashMap<(Uuid, CgroupKey), usize>,
    metrics: MetricSet,
    decoder: HeadDecoder,
    /// The tick that the decoder read last.
    decoded: Option<SystemTime>,
    progress: Progress,
    reads: Vec<TierRead>,
}

#[derive(Debug, Clone, Copy)]
enum Progress {
    NotBegun,
    /// Ticks up to here were read.
    Through(SystemTime),
    Done,
}

struct HeadRow {
    tick_at: SystemTime,
    boot_id: Uuid,
    payload: Vec<u8>,
}

impl Store {
    /// Reads the history of cgroups that [`find_cgroups`](Self::find_cgroups) found, and the host's
    /// gaps.
    pub fn history(&self, host_id: Uuid, cgroups: Vec<CgroupIdentity>, range: TimeRange) -> HistoryReader {
        let places =
            cgroups.iter().enumerate().map(|(place, cgroup)| ((cgroup.boot_id, cgroup.key), place)).collect();
        HistoryReader {
            store: self.clone(),
            host_id,
            range,
            cgroups,
            places,
            metrics: MetricSet::all(),
            decoder: HeadDecoder::default(),
            decoded: None,
            progress: Progress::NotBegun,
            reads: Vec::new(),
        }
    }
}

impl HistoryReader {
    /// Only these metrics are wanted, so that others need not be decoded.
    #[must_use]
    pub fn of(self, metrics: MetricSet) -> Self {
        Self { metrics, ..self }
    }

    /// What was read since this was asked last.
    pub fn take_reads(&mut self) -> Vec<TierRead> {
        std::mem::take(&mut self.reads)
    }

    /// The next events, possibly none; `None` behind the last page. After an error there is no next
    /// page.
    pub async fn next_page(&mut self) -> Result<Option<Vec<HistoryEvent>>, StoreError> {
        let is_first = matches!(self.progress, Progress::NotBegun);
        let since = self.range.since();
        let through = match std::mem::replace(&mut self.progress, Progress::Done) {
            Progress::NotBegun => since.checked_sub(Duration::from_micros(1)).unwrap_or(since),
            Progress::Through(at) => at,
            Progress::Done => return Ok(None),
        };
        let failed = StoreError::during("read history");
        let mut snapshot = self.store.pool.begin_with(BEGIN_SNAPSHOT).await.map_err(&failed)?;
        let watermark = watermark_of(&mut snapshot, self.host_id).await?;
        let (points, next) = match watermark.filter(|watermark| *watermark > through) {
            Some(watermark) => self.chunk_page(&mut snapshot, through, watermark).await?,
            None => self.head_page(&mut snapshot, through).await?,
        };
        let gaps_after = if is_first { since } else { through };
        let gaps = gaps(&mut snapshot, self.host_id, gaps_after, next, self.range.until()).await?;
        snapshot.commit().await.map_err(&failed)?;
        if let Some(next) = next {
            self.progress = Progress::Through(next);
        }
        Ok(Some(merged(points, gaps)))
    }

    /// Ticks that are compacted: those behind `through`, of some time. Says up to where that was, if there are more.
    async fn chunk_page(
        &mut self,
        snapshot: &mut PgConnection,
        through: SystemTime,
        watermark: SystemTime,
    ) -> Result<(Vec<Point>, Option<SystemTime>), StoreError> {
        let from = unix_usec(through) + 1;
        let cgroups = i64::try_from(self.cgroups.len()).unwrap_or(i64::MAX).max(1);
        let length = (HOUR * PAGE_CGROUP_HOURS / cgroups).clamp(HOUR / 360, 6 * HOUR);
        let last = unix_usec(watermark) + 1;
        let until = from.saturating_add(length).min(last).min(unix_usec(self.range.until()));
        let (mut points, mut rows, mut damaged) = (Vec::new(), 0, None);
        let keys = vec![self.cgroups.iter().map(|cgroup| cgroup.key).collect::<Vec<_>>()];
        wanted_chunks(snapshot, &[self.host_id], &keys, [from, until], |_, of, payload| {
            rows += 1;
            match decode_chunk(payload, self.metrics) {
                Ok(decoded) => self.take_chunk(of, decoded, [from, until], &mut points),
                Err(source) => damaged = Some((of, source)),
            }
        })
        .await?;
        if let Some((ChunkOf { at, key, .. }, source)) = damaged {
            return Err(StoreError::Chunk {
                host_id: self.host_id,
                key,
                first_at: from_unix_usec(at),
                source,
            });
        }
        if rows > 0 {
            self.reads.push(TierRead { tier: Tier::Chunk, rows, since: from, until });
        }
        points.sort_by_key(|point| (point.tick_at, point.place));
        let next = from_unix_usec(until - 1);
        Ok((points, Some(next).filter(|_| until < unix_usec(self.range.until()))))
    }

    fn take_chunk(
        &self,
        of: ChunkOf,
        decoded: Vec<ChunkSeries>,
        [from, until]: [i64; 2],
        points: &mut Vec<Point>,
    ) {
        for series in decoded {
            let Some(place) = self.places.get(&(of.boot_id, series.key)) else { continue };
            let begin = series.ticks.partition_point(|tick| *tick < from);
            let end = series.ticks.partition_point(|tick| *tick < until);
            for at in begin..end {
                let mut sample = sample_of(&self.cgroups[*place]);
                for column in &series.columns {
                    sample.set_metric(column.metric, column.values[at]);
                }
                points.push(Point { tick_at: from_unix_usec(series.ticks[at]), place: *place, sample });
            }
        }
    }

    /// Ticks as they came, behind `through`. Says up to where, if there may be more.
    async fn head_page(
        &mut self,
        snapshot: &mut PgConnection,
        through: SystemTime,
    ) -> Result<(Vec<Point>, Option<SystemTime>), StoreError> {
        let mut after = through;
        if self.decoded != Some(through) {
            // The first tick of a partition is a keyframe, so where none precedes, the first tick behind is one.
            let keyframe_at = keyframe_before(snapshot, self.host_id, through).await?;
            let before = |at: SystemTime| at.checked_sub(Duration::from_micros(1)).unwrap_or(at);
            after = keyframe_at.map_or(through, before);
        }
        let rows = head_rows(snapshot, self.host_id, after, self.range.until()).await?;
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            let (since, until) = (unix_usec(first.tick_at), unix_usec(last.tick_at) + 1);
            let rows = u64::try_from(rows.len()).unwrap_or(u64::MAX);
            self.reads.push(TierRead { tier: Tier::Head, rows, since, until });
        }
        let is_full = i64::try_from(rows.len()).is_ok_and(|read| read == PAGE_TICKS_MAX);
        let mut points = Vec::new();
        for HeadRow { tick_at, boot_id, payload } in rows {
            let damaged = |source| StoreError::Payload { host_id: self.host_id, tick_at, source };
            let values = self.decoder.apply(&payload).map_err(damaged)?;
            self.decoded = Some(tick_at);
            if tick_at <= through {
                continue;
            }
            for (place, cgroup) in self.cgroups.iter().enumerate() {
                if let Some(values) = values.get(cgroup.key).filter(|_| cgroup.boot_id == boot_id) {
                    let mut sample = sample_of(cgroup);
                    values.write_to(&mut sample);
                    points.push(Point { tick_at, place, sample });
                }
            }
        }
        // What was read for the keyframe alone is no progress, but the decoder's.
        let next = self.decoded.filter(|_| is_full);
        Ok((points, next.map(|next| next.max(through))))
    }
}

/// A cgroup at a tick.
struct Point {
    tick_at: SystemTime,
    place: usize,
    sample: CgroupSample,
}

/// Points with the gaps, each before the tick that ends it.
fn merged(points: Vec<Point>, gaps: Vec<Gap>) -> Vec<HistoryEvent> {
    let mut events = Vec::with_capacity(points.len() + gaps.len());
    let mut gaps = gaps.into_iter().peekable();
    for Point { tick_at, sample, .. } in points {
        while let Some(gap) = gaps.next_if(|gap| gap.before_at <= tick_at) {
            events.push(HistoryEvent::Gap(gap));
        }
        events.push(HistoryEvent::Point { tick_at, sample: Box::new(sample) });
    }
    events.extend(gaps.map(HistoryEvent::Gap));
    events
}

async fn watermark_of(snapshot: &mut PgConnection, host_id: Uuid) -> Result<Option<SystemTime>, StoreError> {
    let found = sqlx::query_scalar("select compacted_through from compaction where host_id = $1")
        .bind(host_id)
        .fetch_optional(snapshot)
        .await
        .map_err(StoreError::during("read watermark"))?;
    Ok(found.map(from_timestamptz))
}

/// The last keyframe of the same UTC day at or before `at`.
pub(in super::super) async fn keyframe_before(
    snapshot: &mut PgConnection,
    host_id: Uuid,
    at: SystemTime,
) -> Result<Option<SystemTime>, StoreError> {
    let found = sqlx::query_scalar(
        "select tick_at
         from head
         where host_id = $1 and tick_at >= $2 and tick_at <= $3 and keyframe
         order by tick_at desc
         limit 1",
    )
    .bind(host_id)
    .bind(to_timestamptz(start_of_utc_day(at)))
    .bind(to_timestamptz(at))
    .fetch_optional(snapshot)
    .await
    .map_err(StoreError::during("find keyframe"))?;
    Ok(found.map(from_timestamptz))
}

async fn head_rows(
    snapshot: &mut PgConnection,
    host_id: Uuid,
    after: SystemTime,
    until: SystemTime,
) -> Result<Vec<HeadRow>, StoreError> {
    sqlx::query(
        "select tick_at, boot_id, payload
         from head
         where host_id = $1 and tick_at > $2 and tick_at < $3
         order by tick_at
         limit $4",
    )
    .bind(host_id)
    .bind(to_timestamptz(after))
    .bind(to_timestamptz(until))
    .bind(PAGE_TICKS_MAX)
    .try_map(|row: PgRow| {
        Ok(HeadRow {
            tick_at: from_timestamptz(row.try_get("tick_at")?),
            boot_id: row.try_get("boot_id")?,
            payload: row.try_get("payload")?,
        })
    })
    .fetch_all(snapshot)
    .await
    .map_err(StoreError::during("read ticks"))
}

/// Gaps that end behind `after` and not behind `through`, and begin before `until`. Every gap ends
/// at a stored tick, so there are no more than ticks in that stretch, and one.
async fn gaps(
    snapshot: &mut PgConnection,
    host_id: Uuid,
    after: SystemTime,
    through: Option<SystemTime>,
    until: SystemTime,
) -> Result<Vec<Gap>, StoreError> {
    sqlx::query(
        "select after_at, before_at, reason
         from gap
         where host_id = $1 and before_at > $2 and ($3 is null or before_at <= $3) and after_at < $4
         order by before_at",
    )
    .bind(host_id)
    .bind(to_timestamptz(after))
    .bind(through.map(to_timestamptz))
    .bind(to_timestamptz(until))
    .try_map(|row: PgRow| {
        Ok(Gap {
            after_at: from_timestamptz(row.try_get("after_at")?),
            before_at: from_timestamptz(row.try_get("before_at")?),
            reason: reason_of_text(row.try_get("reason")?),
        })
    })
    .fetch_all(snapshot)
    .await
    .map_err(StoreError::during("read gaps"))
}

fn sample_of(cgroup: &CgroupIdentity) -> CgroupSample {
    CgroupSample {
        hierarchy_id: cgroup.key.hierarchy_id,
        cgroup_id: cgroup.key.cgroup_id,
        parent_id: cgroup.parent_id,
        level: cgroup.level,
        path: cgroup.path.clone(),
        ..CgroupSample::default()
    }
}
