//! Rows of the rollups as migrations/0008_rollup.sql has them, on their way into Postgres and back.

use cgfleet_model::Metric;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    codec::CgroupKey,
    copy::CopyRows,
    timestamp::{from_timestamptz, from_unix_usec, to_timestamptz, unix_usec},
};

/// Counters that are rolled up, in the order of their columns.
pub const COUNTERS: [Metric; 4] =
    [Metric::CpuUsage, Metric::CpuThrottled, Metric::IoRbytes, Metric::IoWbytes];

/// Gauges that are rolled up, in the order of their columns.
pub const GAUGES: [Metric; 2] = [Metric::MemoryCurrent, Metric::PidsCurrent];

/// A gauge over some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaugeRollup {
    /// At the last tick that measured it.
    pub last: f32,
    /// Over the ticks that measured it.
    pub mean: f32,
    /// Over the same.
    pub max: f32,
}

/// One minute of a cgroup. What was not measured is absent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Minute {
    /// Of the counters, per second; absent too if no two ticks follow each other.
    pub rates: [Option<f32>; COUNTERS.len()],
    /// Of the gauges.
    pub gauges: [Option<GaugeRollup>; GAUGES.len()],
}

impl Minute {
    /// What the next minute is if nothing changes in it: what minutes that are not stored are like.
    #[must_use]
    pub fn unchanged(&self) -> Self {
        Self {
            rates: self.rates.map(|rate| rate.map(|_| 0.0)),
            gauges: self.gauges.map(|gauge| {
                gauge.map(|gauge| GaugeRollup { last: gauge.last, mean: gauge.last, max: gauge.last })
            }),
        }
    }
}

/// The minutes of one cgroup in one hour.
#[derive(Debug, Clone, PartialEq)]
pub struct MinuteRow {
    /// The boot that the key is of.
    pub boot_id: Uuid,
    /// The cgroup.
    pub key: CgroupKey,
    /// The UTC hour, in microseconds since the Unix epoch.
    pub from_usec: i64,
    /// A bit for each minute that has a tick with the cgroup.
    pub present: u64,
    /// A bit for each minute in `minutes`; of these, the lowest of `present` is one.
    pub stored: u64,
    /// Those that are stored.
    pub minutes: Vec<Minute>,
}

/// One cgroup in one hour.
#[derive(Debug, Clone, PartialEq)]
pub struct HourRow {
    /// The boot that the key is of.
    pub boot_id: Uuid,
    /// The cgroup.
    pub key: CgroupKey,
    /// The UTC hour, in microseconds since the Unix epoch.
    pub from_usec: i64,
    /// A bit for each minute that has a tick with the cgroup.
    pub present: u64,
    /// What the counters showed last.
    pub lasts: [Option<u64>; COUNTERS.len()],
    /// How fast they grew, per second.
    pub rates: [Option<f32>; COUNTERS.len()],
    /// The time that each rate covers.
    pub rate_seconds: [f32; COUNTERS.len()],
    /// The gauges.
    pub gauges: [Option<GaugeRollup>; GAUGES.len()],
    /// The ticks that measured each gauge.
    pub gauge_ticks: [u32; GAUGES.len()],
    /// Ticks with the cgroup.
    pub tick_count: u32,
    /// The time between ticks with the cgroup that follow each other.
    pub seconds: f32,
    /// Whether every minute is as this row says: then there is no row of minutes.
    pub constant: bool,
}

impl HourRow {
    /// Seconds and ticks of each metric; `None` if all that are present have the row's.
    fn coverage(&self) -> Option<Vec<Option<f32>>> {
        let of_row =
            |present: bool, covered: f32, of_row: f32| !present || covered.to_bits() == of_row.to_bits();
        let counters = self.lasts.iter().zip(self.rate_seconds);
        let gauges = self.gauges.iter().zip(self.gauge_ticks);
        let is_of_row = counters.clone().all(|(last, seconds)| of_row(last.is_some(), seconds, self.seconds))
            && gauges.clone().all(|(gauge, ticks)| gauge.is_none() || ticks == self.tick_count);
        let seconds = counters.map(|(_, seconds)| Some(seconds));
        (!is_of_row).then(|| seconds.chain(gauges.map(|(_, ticks)| Some(as_real(ticks)))).collect())
    }
}

#[allow(clippy::cast_precision_loss, reason = "an hour has fewer than 2^24 ticks")]
fn as_real(ticks: u32) -> f32 {
    ticks as f32
}

const MINUTE_COLUMNS: &str = "host_id, boot_id, cgroup_id, from_at, present, stored, hierarchy_id,
    cpu_usage_usec_rate, cpu_throttled_usec_rate, io_rbytes_rate, io_wbytes_rate,
    memory_current_bytes_last, memory_current_bytes_mean, memory_current_bytes_max,
    pids_current_last, pids_current_mean, pids_current_max";

const HOUR_COLUMNS: &str = "host_id, boot_id, cgroup_id, from_at, present,
    cpu_usage_usec_last, cpu_throttled_usec_last, io_rbytes_last, io_wbytes_last,
    cpu_usage_usec_rate, cpu_throttled_usec_rate, io_rbytes_rate, io_wbytes_rate,
    memory_current_bytes_last, memory_current_bytes_mean, memory_current_bytes_max,
    pids_current_last, pids_current_mean, pids_current_max,
    hierarchy_id, tick_count, seconds, coverage, constant";

pub(super) async fn insert_minutes(
    connection: &mut PgConnection,
    host_id: Uuid,
    rows: &[MinuteRow],
) -> Result<(), sqlx::Error> {
    let mut copy = CopyRows::new(17);
    for row in rows {
        copy.begin_row();
        copy.uuid(host_id);
        copy.uuid(row.boot_id);
        copy.bigint(row.key.cgroup_id.cast_signed());
        copy.timestamptz(row.from_usec);
        copy.bigint(row.present.cast_signed());
        copy.bigint(row.stored.cast_signed());
        copy.integer(row.key.hierarchy_id.cast_signed());
        for nth in 0..COUNTERS.len() {
            copy.reals(array_of(row, |minute| minute.rates[nth]).as_deref());
        }
        for nth in 0..GAUGES.len() {
            let gauge = |of: fn(GaugeRollup) -> f32| array_of(row, |minute| minute.gauges[nth].map(of));
            let lasts = gauge(|gauge| gauge.last);
            for array in [gauge(|gauge| gauge.mean), gauge(|gauge| gauge.max)].iter().fold(
                vec![lasts.as_ref()],
                |mut arrays, array| {
                    arrays.push(array.as_ref().filter(|array| Some(*array) != lasts.as_ref()));
                    arrays
                },
            ) {
                copy.reals(array.map(Vec::as_slice));
            }
        }
    }
    copy.send(connection, &format!("copy rollup_minute ({MINUTE_COLUMNS}) from stdin (format binary)")).await
}

/// One value of each minute, without the equal ones at the end; `None` if there is none at all.
fn array_of(row: &MinuteRow, value: impl Fn(&Minute) -> Option<f32>) -> Option<Vec<Option<f32>>> {
    let mut values: Vec<Option<f32>> = row.minutes.iter().map(value).collect();
    while let [.., before, last] = values[..]
        && before == last
    {
        values.pop();
    }
    (values.iter().any(Option::is_some)).then_some(values)
}

pub(super) async fn insert_hours(
    connection: &mut PgConnection,
    host_id: Uuid,
    rows: &[HourRow],
) -> Result<(), sqlx::Error> {
    let mut copy = CopyRows::new(24);
    for row in rows {
        copy.begin_row();
        copy.uuid(host_id);
        copy.uuid(row.boot_id);
        copy.bigint(row.key.cgroup_id.cast_signed());
        copy.timestamptz(row.from_usec);
        copy.bigint(row.present.cast_signed());
        row.lasts.iter().for_each(|last| copy.bigint_or_null(last.map(u64::cast_signed)));
        row.rates.iter().for_each(|rate| copy.real_or_null(*rate));
        for gauge in row.gauges {
            copy.real_or_null(gauge.map(|gauge| gauge.last));
            copy.real_or_null(gauge.map(|gauge| gauge.mean));
            copy.real_or_null(gauge.map(|gauge| gauge.max));
        }
        copy.integer(row.key.hierarchy_id.cast_signed());
        copy.integer(row.tick_count.cast_signed());
        copy.real_or_null(Some(row.seconds));
        copy.reals(row.coverage().as_deref());
        copy.boolean(row.constant);
    }
    copy.send(connection, &format!("copy rollup_hour ({HOUR_COLUMNS}) from stdin (format binary)")).await
}

/// Takes the rows that a host has of an hour out of the table.
pub(super) async fn take_hours(
    connection: &mut PgConnection,
    host_id: Uuid,
    boot_id: Uuid,
    from_usec: i64,
) -> Result<Vec<HourRow>, sqlx::Error> {
    let statement = format!(
        "delete from rollup_hour where host_id = $1 and from_at = $2 and boot_id = $3 returning {HOUR_COLUMNS}"
    );
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(host_id)
        .bind(to_timestamptz(from_unix_usec(from_usec)))
        .bind(boot_id)
        .try_map(|row: PgRow| hour_row(&row))
        .fetch_all(connection)
        .await
}

fn hour_row(row: &PgRow) -> Result<HourRow, sqlx::Error> {
    let lasts: [Option<i64>; 4] = [row.try_get(5)?, row.try_get(6)?, row.try_get(7)?, row.try_get(8)?];
    let gauge = |at: usize| -> Result<Option<GaugeRollup>, sqlx::Error> {
        let [last, mean, max]: [Option<f32>; 3] =
            [row.try_get(at)?, row.try_get(at + 1)?, row.try_get(at + 2)?];
        Ok(last.zip(mean).zip(max).map(|((last, mean), max)| GaugeRollup { last, mean, max }))
    };
    let (hierarchy_id, cgroup_id): (i32, i64) = (row.try_get(19)?, row.try_get(2)?);
    let (tick_count, seconds): (i32, f32) = (row.try_get(20)?, row.try_get(21)?);
    let tick_count = tick_count.cast_unsigned();
    let lasts = lasts.map(|last| last.map(i64::cast_unsigned));
    let gauges = [gauge(13)?, gauge(16)?];
    let coverage: Option<Vec<f32>> = row.try_get(22)?;
    let covered = |nth: usize, otherwise| coverage.as_ref().map_or(otherwise, |covered| covered[nth]);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of ticks that was written"
    )]
    let ticks = |nth: usize| covered(COUNTERS.len() + nth, as_real(tick_count)) as u32;
    Ok(HourRow {
        boot_id: row.try_get(1)?,
        key: CgroupKey { hierarchy_id: hierarchy_id.cast_unsigned(), cgroup_id: cgroup_id.cast_unsigned() },
        from_usec: unix_usec(from_timestamptz(row.try_get(3)?)),
        present: row.try_get::<i64, _>(4)?.cast_unsigned(),
        rates: [row.try_get(9)?, row.try_get(10)?, row.try_get(11)?, row.try_get(12)?],
        rate_seconds: std::array::from_fn(
            |nth| if lasts[nth].is_some() { covered(nth, seconds) } else { 0.0 },
        ),
        gauge_ticks: std::array::from_fn(|nth| if gauges[nth].is_some() { ticks(nth) } else { 0 }),
        lasts,
        gauges,
        tick_count,
        seconds,
        constant: row.try_get(23)?,
    })
}
