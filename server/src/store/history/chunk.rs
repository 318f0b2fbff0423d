//! Values of series out of chunks.

use std::collections::HashSet;

use cgfleet_model::MetricSet;
use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    super::{
        StoreError,
        codec::{CgroupKey, decode_chunk},
        timestamp::{from_unix_usec, to_timestamptz},
    },
    micros::micros_of,
    series::{Batch, BatchRow, HOUR, Lane, Lanes, ReadError, SeriesPage, place_of},
};
use crate::history::HostSeries;

/// One host's chunks, all of a page at once: a cgroup may be in one of its own and in one that it shares, one after
/// the other.
#[derive(Debug)]
struct ChunkLane {
    host: HostSeries,
    metrics: MetricSet,
    /// Of these cgroups; `None` is all.
    keys: Option<HashSet<CgroupKey>>,
    /// Ticks from here on, up to there.
    from: i64,
    until: i64,
}

impl Lane for ChunkLane {
    fn read(&mut self, batch: &Batch) -> Result<(), ReadError> {
        let mut rows: Vec<_> = batch.iter().collect();
        rows.sort_by_key(|(row, _)| row.at);
        for (BatchRow { at: first_at, boot_id, key, .. }, payload) in rows {
            let damaged = |source| StoreError::Chunk {
                host_id: self.host.host_id(),
                key,
                first_at: from_unix_usec(first_at),
                source,
            };
            for series in decode_chunk(payload, self.metrics).map_err(damaged)? {
                if self.keys.as_ref().is_some_and(|keys| !keys.contains(&series.key)) {
                    continue;
                }
                let Some(member) = self.host.member((boot_id, series.key))? else { continue };
                let begin = series.ticks.partition_point(|tick| *tick < self.from);
                let end = series.ticks.partition_point(|tick| *tick < self.until);
                for column in &series.columns {
                    let measure = self.metrics.rank(column.metric);
                    for (at, value) in series.ticks[begin..end].iter().zip(&column.values[begin..end]) {
                        match value {
                            Some(value) => self.host.value(member, measure, *at, *value),
                            None => self.host.absent(member, measure),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Rows that short-lived cgroups of a window share have no cgroup's id, and numbers instead of a hierarchy: so many of
/// these are looked for at first.
const SHARED_ROWS: i32 = 4;

/// Reads chunks of hosts, of each from its moment in `froms` on. Returns how many rows there were.
pub(super) async fn read_chunks(
    snapshot: &mut PgConnection,
    hosts: Vec<HostSeries>,
    page: SeriesPage<'_>,
    froms: &[i64],
) -> Result<(Vec<HostSeries>, u64), ReadError> {
    let metrics = page.metrics();
    let host_ids: Vec<Uuid> = hosts.iter().map(HostSeries::host_id).collect();
    let keys: Option<Vec<Vec<CgroupKey>>> = hosts.iter().map(HostSeries::keys).collect();
    let range = [froms.iter().copied().min().unwrap_or(page.since), page.until];
    let lanes = hosts.into_iter().zip(froms).map(|(host, from)| {
        let keys = host.keys().map(|keys| keys.into_iter().collect());
        ChunkLane { host, metrics, keys, from: *from, until: page.until }
    });
    let mut lanes = Lanes::new(lanes.collect());
    let mut rows = 0;
    match keys {
        Some(keys) => {
            let mut batches: Vec<Batch> = Vec::new();
            batches.resize_with(host_ids.len(), Batch::default);
            wanted_chunks(snapshot, &host_ids, &keys, range, |place, row, payload| {
                batches[place].push(row.at, row.boot_id, row.key, payload);
                rows += 1;
            })
            .await?;
            for (place, batch) in batches.into_iter().enumerate() {
                lanes.read(place, batch).await?;
            }
        }
        None => rows = all_chunks(snapshot, &host_ids, range, &mut lanes).await?,
    }
    Ok((lanes.finish().await?.into_iter().map(|lane| lane.host).collect(), rows))
}

/// The chunks of some cgroups of each host, and those that they may share with others.
pub(super) async fn wanted_chunks(
    snapshot: &mut PgConnection,
    host_ids: &[Uuid],
    keys: &[Vec<CgroupKey>],
    range: [i64; 2],
    mut take: impl FnMut(usize, ChunkOf, &[u8]),
) -> Result<(), StoreError> {
    let own = keys.iter().enumerate().flat_map(|(place, keys)| {
        keys.iter().map(move |key| (place, key.hierarchy_id.cast_signed(), key.cgroup_id.cast_signed()))
    });
    let shared = |numbers: std::ops::Range<i32>| {
        (0..host_ids.len()).flat_map(move |place| numbers.clone().map(move |number| (place, number, 0)))
    };
    let mut wanted: Vec<(usize, i32, i64)> = own.chain(shared(0..SHARED_ROWS)).collect();
    let mut next = SHARED_ROWS;
    // Each number up to the last there is was used.
    while named_chunks(snapshot, host_ids, &wanted, range, &mut take).await? >= next - 1 {
        wanted = shared(next..next * 4).collect();
        next *= 4;
    }
    Ok(())
}

/// Whose a chunk is.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkOf {
    /// Its first tick.
    pub(super) at: i64,
    pub(super) boot_id: Uuid,
    pub(super) key: CgroupKey,
}

impl ChunkOf {
    /// By the columns behind the first and the payload.
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (hierarchy_id, cgroup_id): (i32, i64) = (row.try_get(4)?, row.try_get(5)?);
        let key =
            CgroupKey { hierarchy_id: hierarchy_id.cast_unsigned(), cgroup_id: cgroup_id.cast_unsigned() };
        Ok(Self { at: micros_of(row, 1)?, boot_id: row.try_get(2)?, key })
    }
}

/// Reads rows by host, hierarchy and cgroup; returns the highest number of a shared one.
async fn named_chunks(
    snapshot: &mut PgConnection,
    host_ids: &[Uuid],
    wanted: &[(usize, i32, i64)],
    [from, until]: [i64; 2],
    take: &mut impl FnMut(usize, ChunkOf, &[u8]),
) -> Result<i32, StoreError> {
    let at = |micros| to_timestamptz(from_unix_usec(micros));
    let place = |place: usize| i64::try_from(place + 1).unwrap_or_default();
    let mut rows = sqlx::query(
        "select wanted.place, chunk.first_at, chunk.boot_id, chunk.payload, wanted.hierarchy_id, wanted.cgroup_id
         from unnest($1::bigint[], $2::uuid[], $3::integer[], $4::bigint[])
                  as wanted (place, host_id, hierarchy_id, cgroup_id)
         cross join lateral (
             select first_at, boot_id, payload
             from chunk
             where chunk.host_id = wanted.host_id and chunk.hierarchy_id = wanted.hierarchy_id
               and chunk.cgroup_id = wanted.cgroup_id
               and chunk.first_at >= $5 and chunk.first_at < $6 and chunk.last_at >= $7
             offset 0
         ) as chunk",
    )
    .bind(wanted.iter().map(|(of, ..)| place(*of)).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(of, ..)| host_ids[*of]).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(_, hierarchy_id, _)| *hierarchy_id).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(.., cgroup_id)| *cgroup_id).collect::<Vec<_>>())
    .bind(at(from.div_euclid(HOUR) * HOUR))
    .bind(at(until))
    .bind(at(from))
    .fetch(snapshot);
    let failed = StoreError::during("read chunks");
    let mut highest = -1;
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let of = ChunkOf::of(&row).map_err(&failed)?;
        take(place_of(&row).map_err(&failed)?, of, row.try_get(3).map_err(&failed)?);
        if of.key.cgroup_id == 0 {
            highest = highest.max(of.key.hierarchy_id.cast_signed());
        }
    }
    Ok(highest)
}

/// Every chunk of the hosts, one host after the other; returns how many there were.
async fn all_chunks(
    snapshot: &mut PgConnection,
    host_ids: &[Uuid],
    [from, until]: [i64; 2],
    lanes: &mut Lanes<ChunkLane>,
) -> Result<u64, ReadError> {
    let at = |micros| to_timestamptz(from_unix_usec(micros));
    let mut rows = sqlx::query(
        "select host.place, chunk.first_at, chunk.boot_id, chunk.payload, chunk.hierarchy_id, chunk.cgroup_id
         from unnest($1::uuid[]) with ordinality as host (host_id, place)
         cross join lateral (
             select first_at, boot_id, payload, hierarchy_id, cgroup_id
             from chunk
             where chunk.host_id = host.host_id
               and chunk.first_at >= $2 and chunk.first_at < $3 and chunk.last_at >= $4
             offset 0
         ) as chunk",
    )
    .bind(host_ids)
    .bind(at(from.div_euclid(HOUR) * HOUR))
    .bind(at(until))
    .bind(at(from))
    .fetch(snapshot);
    let failed = StoreError::during("read chunks");
    let (mut place, mut batch, mut count) = (0, Batch::default(), 0);
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let next = place_of(&row).map_err(&failed)?;
        if next != place {
            lanes.read(place, std::mem::take(&mut batch)).await?;
            place = next;
        }
        let of = ChunkOf::of(&row).map_err(&failed)?;
        batch.push(of.at, of.boot_id, of.key, row.try_get(3).map_err(&failed)?);
        count += 1;
    }
    lanes.read(place, batch).await?;
    Ok(count)
}
