//! Values of series out of minutes and hours. What the columns mean is said in migrations/0008_rollup.sql.

use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    super::{
        COUNTERS, GAUGES, StoreError,
        codec::CgroupKey,
        timestamp::{from_unix_usec, to_timestamptz},
    },
    micros::micros_of,
    series::{HOUR, ReadError, place_of},
};
use crate::history::{Aggregation, HostSeries, Measure, Minute, Tier};

const MINUTE: i64 = 60_000_000;
/// Columns before those of the measures.
const FIXED: usize = 5;

/// Whether a tier has what an aggregate of a metric is made of.
pub fn is_rolled_up(tier: Tier, measure: Measure) -> bool {
    let is_counter = COUNTERS.contains(&measure.metric);
    let is_gauge = GAUGES.contains(&measure.metric);
    match (measure.aggregation, tier) {
        (_, Tier::Ticks) => true,
        (Aggregation::Rate, _) | (Aggregation::Sum, Tier::Hours) if is_counter => true,
        (Aggregation::Last | Aggregation::Mean | Aggregation::Max, _) => is_gauge,
        _ => false,
    }
}

/// A column's name without what it is of.
fn stem(measure: Measure) -> String {
    measure.metric.name().replace('.', "_")
}

/// The arrays of minutes that an aggregate is made of: the first, and where that is null or not stored the second.
fn arrays(measure: Measure) -> Vec<String> {
    let stem = stem(measure);
    match measure.aggregation {
        Aggregation::Mean => vec![format!("{stem}_mean"), format!("{stem}_last")],
        Aggregation::Max => vec![format!("{stem}_max"), format!("{stem}_last")],
        Aggregation::Last => vec![format!("{stem}_last")],
        _ => vec![format!("{stem}_rate")],
    }
}

/// The same of an hour, as an expression.
fn of_hour(measure: Measure) -> String {
    let stem = stem(measure);
    match measure.aggregation {
        Aggregation::Mean => format!("coalesce(rollup.{stem}_mean, rollup.{stem}_last)"),
        Aggregation::Max => format!("coalesce(rollup.{stem}_max, rollup.{stem}_last)"),
        Aggregation::Last => format!("rollup.{stem}_last"),
        // A rate of 0 is not written.
        _ => {
            let nth = COUNTERS.iter().position(|metric| *metric == measure.metric).unwrap_or_default();
            format!(
                "coalesce(rollup.{stem}_rate, case when rollup.measured & {} > 0 and {} > 0 then 0 end)",
                1 << nth,
                coverage(measure),
            )
        }
    }
}

/// How much of an hour counts: seconds of a counter, ticks of a gauge.
fn coverage(measure: Measure) -> String {
    let nth = |of: &[cgfleet_model::Metric]| of.iter().position(|metric| *metric == measure.metric);
    match (nth(&COUNTERS), nth(&GAUGES)) {
        (Some(nth), _) => format!("coalesce(rollup.coverage[{}], rollup.seconds)", nth + 1),
        (None, nth) => {
            let nth = COUNTERS.len() + nth.unwrap_or_default() + 1;
            format!("coalesce(rollup.coverage[{nth}], rollup.tick_count)")
        }
    }
}

/// Reads minutes of hosts, of each up to its own moment; returns how many rows.
pub(super) async fn read_minutes(
    snapshot: &mut PgConnection,
    hosts: &mut [HostSeries],
    measures: &[Measure],
    since: i64,
    untils: &[i64],
) -> Result<u64, ReadError> {
    // Of each measure the mask of what is stored, then its arrays.
    let named: Vec<String> = measures
        .iter()
        .flat_map(|measure| {
            let mask = format!("coalesce(rollup.{}_stored, 0)", stem(*measure));
            std::iter::once(mask).chain(arrays(*measure).into_iter().map(|array| format!("rollup.{array}")))
        })
        .collect();
    // Of what did not change in an hour, each minute is as the first says.
    let constant: Vec<String> = measures
        .iter()
        .flat_map(|measure| {
            let array = format!("array[({})::real]", of_hour(*measure));
            let arrays = arrays(*measure).into_iter().map(move |_| array.clone());
            std::iter::once("rollup.present & -rollup.present".to_owned()).chain(arrays)
        })
        .collect();
    let of = |table, condition, columns: Vec<String>| {
        format!(
            "select host.place, rollup.boot_id, rollup.cgroup_id, rollup.from_at, rollup.present, {}
             from unnest($1::uuid[], $2::timestamptz[]) with ordinality as host (host_id, until_at, place)
             join {table} as rollup on rollup.host_id = host.host_id and rollup.hierarchy_id = 0
                  and rollup.from_at < host.until_at
             where rollup.from_at >= $3 and rollup.from_at < $4 and ($5::bigint[] is null or rollup.cgroup_id = any($5))
               and {condition}",
            columns.join(", "),
        )
    };
    let minutes = of("rollup_minute", "true", named);
    let hours = of("rollup_hour", "rollup.constant", constant);
    // In the order of time, of windows of the same hour by their minutes: a step that is left is not come back to.
    let statement = format!("{minutes} union all {hours} order by 4, 5");
    read(snapshot, hosts, statement, since, untils, |host, row| {
        let from = micros_of(row, 3)?;
        let present = row.try_get::<i64, _>(4)?.cast_unsigned();
        minutes_of(host, measures, [since, from], present, row)
    })
    .await
}

/// The minutes of a row, each of all measures.
fn minutes_of(
    (member, host): (u32, &mut HostSeries),
    measures: &[Measure],
    [since, from]: [i64; 2],
    present: u64,
    row: &PgRow,
) -> Result<(), sqlx::Error> {
    let is_in = |minute: &u32| present >> minute & 1 == 1 && from + i64::from(*minute) * MINUTE >= since;
    let mut column = FIXED;
    for (measure, what) in measures.iter().enumerate() {
        let stored = row.try_get::<i64, _>(column)?.cast_unsigned();
        let count = arrays(*what).len();
        let mut values = Vec::with_capacity(count);
        for at in 1..=count {
            values.push(row.try_get::<Option<Vec<Option<f32>>>, _>(column + at)?.unwrap_or_default());
        }
        column += 1 + count;
        for minute in (0..60).filter(is_in) {
            let is_stored = stored >> minute & 1 == 1;
            // The last stored minute up to this one.
            let place = (stored & ((2_u64 << minute) - 1)).count_ones() as usize;
            let element =
                |array: &[Option<f32>]| place.checked_sub(1).and_then(|at| *array.get(at)?).map(f64::from);
            let value = match values.as_slice() {
                [own, last] => element(own).filter(|_| is_stored).or_else(|| element(last)),
                [own] if what.aggregation == Aggregation::Last => element(own),
                [rate] => element(rate).map(|rate| if is_stored { rate } else { 0.0 }),
                _ => None,
            };
            let minute = Minute {
                from: from + i64::from(minute) * MINUTE,
                value,
                // Minutes count alike.
                weight: if what.is_of_growth() { 60.0 } else { 1.0 },
            };
            host.minute(member, measure, &minute);
        }
    }
    Ok(())
}

/// Reads hours of hosts, of each up to its own moment; returns how many rows.
pub(super) async fn read_hours(
    snapshot: &mut PgConnection,
    hosts: &mut [HostSeries],
    measures: &[Measure],
    since: i64,
    untils: &[i64],
) -> Result<u64, ReadError> {
    let columns = measures.iter().map(|measure| {
        format!("({})::double precision, {}::double precision", of_hour(*measure), coverage(*measure))
    });
    let statement = format!(
        "select host.place, rollup.boot_id, rollup.cgroup_id, rollup.from_at, 0::bigint, {}
         from unnest($1::uuid[], $2::timestamptz[]) with ordinality as host (host_id, until_at, place)
         join rollup_hour as rollup on rollup.host_id = host.host_id and rollup.hierarchy_id = 0
              and rollup.from_at < host.until_at
         where rollup.from_at >= $3 and rollup.from_at < $4 and ($5::bigint[] is null or rollup.cgroup_id = any($5))
         order by rollup.from_at",
        columns.collect::<Vec<_>>().join(", "),
    );
    read(snapshot, hosts, statement, since, untils, |(member, host), row| {
        let from = micros_of(row, 3)?;
        for (measure, what) in measures.iter().enumerate() {
            let value: Option<f64> = row.try_get(FIXED + 2 * measure)?;
            let weight: Option<f64> = row.try_get(FIXED + 2 * measure + 1)?;
            // A last value counts, however little time there was to grow in.
            let weight = if what.aggregation == Aggregation::Last { 1.0 } else { weight.unwrap_or_default() };
            host.minute(member, measure, &Minute { from, value, weight });
        }
        Ok(())
    })
    .await
}

async fn read(
    snapshot: &mut PgConnection,
    hosts: &mut [HostSeries],
    statement: String,
    since: i64,
    untils: &[i64],
    mut take: impl FnMut((u32, &mut HostSeries), &PgRow) -> Result<(), sqlx::Error>,
) -> Result<u64, ReadError> {
    let at = |micros: i64| to_timestamptz(from_unix_usec(micros));
    let host_ids: Vec<Uuid> = hosts.iter().map(HostSeries::host_id).collect();
    let keys: Option<Vec<Vec<CgroupKey>>> = hosts.iter().map(HostSeries::keys).collect();
    let cgroup_ids = keys.map(|keys| {
        let mut ids: Vec<i64> = keys.into_iter().flatten().map(|key| key.cgroup_id.cast_signed()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    });
    let until = untils.iter().copied().max().unwrap_or(since);
    let mut rows = sqlx::query(AssertSqlSafe(statement))
        .bind(host_ids)
        .bind(untils.iter().map(|until| at(*until)).collect::<Vec<_>>())
        .bind(at(since.div_euclid(HOUR) * HOUR))
        .bind(at(until))
        .bind(cgroup_ids)
        .fetch(snapshot);
    let failed = StoreError::during("read rollups");
    let mut count = 0;
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let host = &mut hosts[place_of(&row).map_err(&failed)?];
        let boot_id: Uuid = row.try_get(1).map_err(&failed)?;
        let cgroup_id: i64 = row.try_get(2).map_err(&failed)?;
        let key = CgroupKey { hierarchy_id: 0, cgroup_id: cgroup_id.cast_unsigned() };
        if let Some(member) = host.member((boot_id, key))? {
            take((member, host), &row).map_err(&failed)?;
        }
        count += 1;
    }
    Ok(count)
}
