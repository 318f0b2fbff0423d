//! Reading back what was stored of a host: in pages, from a keyframe on.

use std::time::{Duration, SystemTime};

use cgfleet_model::TimeRange;
use cgfleet_proto::v1::CgroupSample;
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use super::super::{
    CgroupIdentity, Gap, Store, StoreError,
    codec::HeadDecoder,
    partitions::Tier,
    ticks::reason_of_text,
    timestamp::{from_timestamptz, start_of_utc_day, to_timestamptz, unix_usec},
};
use super::series::TierRead;

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

/// Reads the history of some cgroups of one host, page by page. Nothing is held in Postgres between
/// two pages.
#[derive(Debug)]
pub struct HistoryReader {
    store: Store,
    host_id: Uuid,
    range: TimeRange,
    cgroups: Vec<CgroupIdentity>,
    decoder: HeadDecoder,
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
        HistoryReader {
            store: self.clone(),
            host_id,
            range,
            cgroups,
            decoder: HeadDecoder::default(),
            progress: Progress::NotBegun,
            reads: Vec::new(),
        }
    }

    /// The last keyframe of the same UTC day at or before `at`.
    async fn keyframe_before(&self, host_id: Uuid, at: SystemTime) -> Result<Option<SystemTime>, StoreError> {
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
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::during("find keyframe"))?;
        Ok(found.map(from_timestamptz))
    }

    async fn head_rows(
        &self,
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
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("read ticks"))
    }

    /// Gaps that end behind `after` and not behind `through`, and begin before `until`. Every gap ends
    /// at a stored tick, so there are no more than ticks in that stretch, and one.
    async fn gaps(
        &self,
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
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("read gaps"))
    }
}

impl HistoryReader {
    /// What was read since this was asked last.
    pub fn take_reads(&mut self) -> Vec<TierRead> {
        std::mem::take(&mut self.reads)
    }

    /// The next events, possibly none; `None` behind the last page. After an error there is no next
    /// page.
    pub async fn next_page(&mut self) -> Result<Option<Vec<HistoryEvent>>, StoreError> {
        let (ticks_after, gaps_after) = match std::mem::replace(&mut self.progress, Progress::Done) {
            Progress::NotBegun => (self.before_first_tick().await?, self.range.since()),
            Progress::Through(at) => (at, at.max(self.range.since())),
            Progress::Done => return Ok(None),
        };
        let rows = self.store.head_rows(self.host_id, ticks_after, self.range.until()).await?;
        let more = i64::try_from(rows.len()).is_ok_and(|read| read == PAGE_TICKS_MAX);
        let through = rows.last().map(|row| row.tick_at).filter(|_| more);
        let gaps = self.store.gaps(self.host_id, gaps_after, through, self.range.until()).await?;
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            let (since, until) = (unix_usec(first.tick_at), unix_usec(last.tick_at) + 1);
            let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
            self.reads.push(TierRead { tier: Tier::Head, rows: count, since, until });
        }
        let events = self.events(rows, gaps)?;
        if let Some(through) = through {
            self.progress = Progress::Through(through);
        }
        Ok(Some(events))
    }

    /// The moment behind which reading has to begin. The first tick of a day is a keyframe, so where
    /// none precedes `since` on its day, the first tick behind it is one.
    async fn before_first_tick(&self) -> Result<SystemTime, StoreError> {
        let since = self.range.since();
        let keyframe_at = self.store.keyframe_before(self.host_id, since).await?;
        let first = keyframe_at.unwrap_or(since);
        Ok(first.checked_sub(Duration::from_micros(1)).unwrap_or(first))
    }

    /// Decodes ticks and merges them with the gaps, each before the tick that ends it.
    fn events(&mut self, rows: Vec<HeadRow>, gaps: Vec<Gap>) -> Result<Vec<HistoryEvent>, StoreError> {
        let mut events = Vec::new();
        let mut gaps = gaps.into_iter().peekable();
        for HeadRow { tick_at, boot_id, payload } in rows {
            while let Some(gap) = gaps.next_if(|gap| gap.before_at <= tick_at) {
                events.push(HistoryEvent::Gap(gap));
            }
            let damaged = |source| StoreError::Payload { host_id: self.host_id, tick_at, source };
            let values = self.decoder.apply(&payload).map_err(damaged)?;
            if tick_at < self.range.since() {
                continue;
            }
            for cgroup in self.cgroups.iter().filter(|cgroup| cgroup.boot_id == boot_id) {
                if let Some(values) = values.get(cgroup.key) {
                    let mut sample = sample_of(cgroup);
                    values.write_to(&mut sample);
                    events.push(HistoryEvent::Point { tick_at, sample: Box::new(sample) });
                }
            }
        }
        events.extend(gaps.map(HistoryEvent::Gap));
        Ok(events)
    }
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
