//! Reading back what was stored of a host: in pages, from a keyframe on.

use std::time::{Duration, SystemTime};

use cgfleet_model::TimeRange;
use cgfleet_proto::v1::CgroupSample;
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    CgroupIdentity, Gap, Store, StoreError,
    codec::{CgroupKey, HeadDecoder},
    ticks::reason_of_text,
    timestamp::{from_timestamptz, start_of_utc_day, to_timestamptz},
};

/// The most ticks that one page reads: the reader holds no more than this many payloads.
const PAGE_TICKS_MAX: i64 = 128;

/// Names a cgroup of one hierarchy. Over time, a path may have named several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupSelector<'a> {
    /// By the path from the hierarchy's root.
    Path {
        /// The hierarchy; 0 is cgroup v2.
        hierarchy_id: u32,
        /// The path, escaped as in `CgroupSample.path`.
        path: &'a str,
    },
    /// By id, in whichever boot.
    Key(CgroupKey),
}

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
    /// The cgroups that answer to a selector and were there before `until`, the newest first, at most
    /// `limit`.
    pub async fn find_cgroups(
        &self,
        host_id: Uuid,
        selector: CgroupSelector<'_>,
        until: SystemTime,
        limit: u32,
    ) -> Result<Vec<CgroupIdentity>, StoreError> {
        let query = match selector {
            CgroupSelector::Path { hierarchy_id, path } => sqlx::query(
                "select boot_id, hierarchy_id, cgroup_id, parent_id, level, path
                 from cgroup
                 where host_id = $1 and hierarchy_id = $2 and left(path, 500) = left($3, 500) and path = $3
                   and first_tick_at < $4
                 order by first_tick_at desc
                 limit $5",
            )
            .bind(host_id)
            .bind(hierarchy_id.cast_signed())
            .bind(path),
            CgroupSelector::Key(key) => sqlx::query(
                "select boot_id, hierarchy_id, cgroup_id, parent_id, level, path
                 from cgroup
                 where host_id = $1 and hierarchy_id = $2 and cgroup_id = $3 and first_tick_at < $4
                 order by first_tick_at desc
                 limit $5",
            )
            .bind(host_id)
            .bind(key.hierarchy_id.cast_signed())
            .bind(key.cgroup_id.cast_signed()),
        };
        query
            .bind(to_timestamptz(until))
            .bind(i64::from(limit))
            .try_map(|row: PgRow| cgroup_identity(&row))
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::during("find cgroups"))
    }

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

fn cgroup_identity(row: &PgRow) -> Result<CgroupIdentity, sqlx::Error> {
    let [cgroup_id, parent_id]: [i64; 2] = [row.try_get("cgroup_id")?, row.try_get("parent_id")?];
    let [hierarchy_id, level]: [i32; 2] = [row.try_get("hierarchy_id")?, row.try_get("level")?];
    Ok(CgroupIdentity {
        boot_id: row.try_get("boot_id")?,
        key: CgroupKey { hierarchy_id: hierarchy_id.cast_unsigned(), cgroup_id: cgroup_id.cast_unsigned() },
        parent_id: parent_id.cast_unsigned(),
        level: level.cast_unsigned(),
        path: row.try_get("path")?,
    })
}
