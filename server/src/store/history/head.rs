//! Values of series out of ticks.

use cgfleet_model::MetricSet;
use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{
    super::{
        StoreError,
        codec::{CgroupKey, HeadScanner},
        timestamp::{from_unix_usec, to_timestamptz},
    },
    micros::micros_of,
    series::{BATCH_BYTES_FULL, Batch, BatchRow, HOUR, Lane, Lanes, ReadError, SeriesPage, place_of},
};
use crate::history::HostSeries;

/// A tick is of all cgroups.
const NO_CGROUP: CgroupKey = CgroupKey { hierarchy_id: 0, cgroup_id: 0 };

/// One host's ticks, from a keyframe on.
#[derive(Debug)]
struct HeadLane {
    host: HostSeries,
    scanner: HeadScanner,
    boot_id: Option<Uuid>,
    metrics: MetricSet,
    /// Ticks before this moment are read for those behind them alone.
    from: i64,
}

impl Lane for HeadLane {
    fn read(&mut self, batch: &Batch) -> Result<(), ReadError> {
        for (BatchRow { at, boot_id, .. }, payload) in batch.iter() {
            if self.boot_id.replace(boot_id).is_some_and(|before| before != boot_id) {
                self.scanner = HeadScanner::new(self.metrics, self.host.keys());
            }
            let damaged = |source| StoreError::Payload {
                host_id: self.host.host_id(),
                tick_at: from_unix_usec(at),
                source,
            };
            let mut tick = self.scanner.apply(payload).map_err(damaged)?;
            if at >= self.from {
                self.host.tick(at, boot_id, &mut tick)?;
            }
        }
        Ok(())
    }
}

/// Reads ticks of hosts: of each from its moment in `froms` on, as far as that takes no more than a keyframe before its
/// anchor: a counter grows from the tick before it. Returns how many rows there were.
pub(super) async fn read_head(
    snapshot: &mut PgConnection,
    hosts: Vec<HostSeries>,
    page: SeriesPage<'_>,
    froms: &[i64],
    anchors: &[i64],
) -> Result<(Vec<HostSeries>, u64), ReadError> {
    let metrics = page.metrics();
    let host_ids: Vec<Uuid> = hosts.iter().map(HostSeries::host_id).collect();
    let lanes = hosts.into_iter().zip(froms).map(|(host, from)| {
        let scanner = HeadScanner::new(metrics, host.keys());
        HeadLane { host, scanner, boot_id: None, metrics, from: *from }
    });
    let mut lanes = Lanes::new(lanes.collect());
    let at = |micros| to_timestamptz(from_unix_usec(micros));
    // Where ticks before the anchor count for nothing, it may itself be the keyframe.
    let anchor = |(anchor, from): (&i64, &i64)| if from < anchor { anchor - 1 } else { *anchor };
    let anchors: Vec<i64> = anchors.iter().zip(froms).map(anchor).collect();
    let earliest = froms.iter().copied().min().unwrap_or(page.since).div_euclid(HOUR) * HOUR;
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
    .bind(anchors.iter().map(|anchor| at(*anchor)).collect::<Vec<_>>())
    .bind(at(earliest))
    .bind(at(page.until))
    .bind(at(anchors.iter().copied().max().unwrap_or(page.since)))
    .fetch(&mut *snapshot);
    let failed = StoreError::during("read ticks");
    let (mut of, mut batch, mut count) = (0, Batch::default(), 0);
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let place = place_of(&row).map_err(&failed)?;
        if place != of || batch.bytes.len() >= BATCH_BYTES_FULL {
            lanes.read(of, std::mem::take(&mut batch)).await?;
            of = place;
        }
        let tick_at = micros_of(&row, 1).map_err(&failed)?;
        let boot_id = row.try_get(2).map_err(&failed)?;
        batch.push(tick_at, boot_id, NO_CGROUP, row.try_get(3).map_err(&failed)?);
        count += 1;
    }
    lanes.read(of, batch).await?;
    Ok((lanes.finish().await?.into_iter().map(|lane| lane.host).collect(), count))
}
