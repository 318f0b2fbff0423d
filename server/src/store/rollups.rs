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

/// What was computed for the minutes of an hour, without those that the one before them says already.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredMinutes<T> {
    /// A bit for each minute that is stored, the first one the lowest.
    pub stored: u64,
    /// Of these, what was computed; `None` if the metric was not measured.
    pub values: Vec<Option<T>>,
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
    /// A bit for each minute that has a tick with the cgroup. The lowest is stored of every metric.
    pub present: u64,
    /// Of the counters, per second; absent too if no two ticks follow each other. 0 in minutes that are not stored.
    pub rates: [StoredMinutes<f32>; COUNTERS.len()],
    /// Of the gauges. In minutes that are not stored they stay at their last.
    pub gauges: [StoredMinutes<GaugeRollup>; GAUGES.len()],
}

impl<T: Copy> StoredMinutes<T> {
    /// The stored minutes; `None` if all of them are of a metric that was not measured.
    fn mask(&self) -> Option<u64> {
        self.values.iter().any(Option::is_some).then_some(self.stored)
    }

    /// One number of each; `None` likewise.
    fn array(&self, number: impl Fn(T) -> f32) -> Option<Vec<Option<f32>>> {
        self.mask()?;
        Some(self.values.iter().map(|value| value.map(&number)).collect())
    }
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
    /// Whether each counter was measured.
    pub measured: [bool; COUNTERS.len()],
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
    fn measured_bits(&self) -> i16 {
        self.measured.iter().enumerate().fold(0, |bits, (nth, measured)| bits | i16::from(*measured) << nth)
    }

    /// Seconds and ticks of each metric; `None` if all that are present have the row's.
    fn coverage(&self) -> Option<Vec<Option<f32>>> {
        let of_row =
            |present: bool, covered: f32, of_row: f32| !present || covered.to_bits() == of_row.to_bits();
        let counters = self.measured.iter().zip(self.rate_seconds);
        let gauges = self.gauges.iter().zip(self.gauge_ticks);
        let is_of_row = counters.clone().all(|(measured, seconds)| of_row(*measured, seconds, self.seconds))
            && gauges.clone().all(|(gauge, ticks)| gauge.is_none() || ticks == self.tick_count);
        let seconds = counters.map(|(_, seconds)| Some(seconds));
        (!is_of_row).then(|| seconds.chain(gauges.map(|(_, ticks)| Some(as_real(ticks)))).collect())
    }
}

#[allow(clippy::cast_precision_loss, reason = "an hour has fewer than 2^24 ticks")]
fn as_real(ticks: u32) -> f32 {
    ticks as f32
}

const MINUTE_COLUMNS: &str = "host_id, boot_id, cgroup_id, from_at, present, hierarchy_id,
    cpu_usage_usec_stored, cpu_throttled_usec_stored, io_rbytes_stored, io_wbytes_stored,
    memory_current_bytes_stored, pids_current_stored,
    cpu_usage_usec_rate, cpu_throttled_usec_rate, io_rbytes_rate, io_wbytes_rate,
    memory_current_bytes_last, memory_current_bytes_mean, memory_current_bytes_max,
    pids_current_last, pids_current_mean, pids_current_max";

const HOUR_COLUMNS: &str = "host_id, boot_id, cgroup_id, from_at, present,
    cpu_usage_usec_rate, cpu_throttled_usec_rate, io_rbytes_rate, io_wbytes_rate,
    memory_current_bytes_last, memory_current_bytes_mean, memory_current_bytes_max,
    pids_current_last, pids_current_mean, pids_current_max,
    hierarchy_id, tick_count, seconds, coverage, measured, constant";

pub(super) async fn insert_minutes(
    connection: &mut PgConnection,
    host_id: Uuid,
    rows: &[MinuteRow],
) -> Result<(), sqlx::Error> {
    let mut copy = CopyRows::new(22);
    for row in rows {
        copy.begin_row();
        copy.uuid(host_id);
        copy.uuid(row.boot_id);
        copy.bigint(row.key.cgroup_id.cast_signed());
        copy.timestamptz(row.from_usec);
        copy.bigint(row.present.cast_signed());
        copy.integer(row.key.hierarchy_id.cast_signed());
        let masks =
            row.rates.iter().map(StoredMinutes::mask).chain(row.gauges.iter().map(StoredMinutes::mask));
        masks.for_each(|mask| copy.bigint_or_null(mask.map(u64::cast_signed)));
        row.rates.iter().for_each(|minutes| copy.reals(minutes.array(|rate| rate).as_deref()));
        for minutes in &row.gauges {
            let last = minutes.array(|gauge| gauge.last);
            let mean = minutes.array(|gauge| gauge.mean).filter(|mean| Some(mean) != last.as_ref());
            let max = minutes.array(|gauge| gauge.max).filter(|max| Some(max) != last.as_ref());
            for array in [last, mean, max] {
                copy.reals(array.as_deref());
            }
        }
    }
    copy.send(connection, &format!("copy rollup_minute ({MINUTE_COLUMNS}) from stdin (format binary)")).await
}

pub(super) async fn insert_hours(
    connection: &mut PgConnection,
    host_id: Uuid,
    rows: &[HourRow],
) -> Result<(), sqlx::Error> {
    let mut copy = CopyRows::new(21);
    for row in rows {
        copy.begin_row();
        copy.uuid(host_id);
        copy.uuid(row.boot_id);
        copy.bigint(row.key.cgroup_id.cast_signed());
        copy.timestamptz(row.from_usec);
        copy.bigint(row.present.cast_signed());
        row.rates.iter().for_each(|rate| copy.real_or_null(rate.filter(|rate| *rate > 0.0)));
        for gauge in row.gauges {
            copy.real_or_null(gauge.map(|gauge| gauge.last));
            let other = |of: fn(GaugeRollup) -> f32| {
                gauge.filter(|gauge| of(*gauge).to_bits() != gauge.last.to_bits()).map(of)
            };
            copy.real_or_null(other(|gauge| gauge.mean));
            copy.real_or_null(other(|gauge| gauge.max));
        }
        copy.integer(row.key.hierarchy_id.cast_signed());
        copy.integer(row.tick_count.cast_signed());
        copy.real_or_null(Some(row.seconds));
        copy.reals(row.coverage().as_deref());
        copy.smallint(row.measured_bits());
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
    let gauge = |at: usize| -> Result<Option<GaugeRollup>, sqlx::Error> {
        let [last, mean, max]: [Option<f32>; 3] =
            [row.try_get(at)?, row.try_get(at + 1)?, row.try_get(at + 2)?];
        Ok(last.map(|last| GaugeRollup { last, mean: mean.unwrap_or(last), max: max.unwrap_or(last) }))
    };
    let (hierarchy_id, cgroup_id): (i32, i64) = (row.try_get(15)?, row.try_get(2)?);
    let (tick_count, seconds): (i32, f32) = (row.try_get(16)?, row.try_get(17)?);
    let tick_count = tick_count.cast_unsigned();
    let gauges = [gauge(9)?, gauge(12)?];
    let coverage: Option<Vec<f32>> = row.try_get(18)?;
    let covered = |nth: usize, otherwise| coverage.as_ref().map_or(otherwise, |covered| covered[nth]);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of ticks that was written"
    )]
    let ticks = |nth: usize| covered(COUNTERS.len() + nth, as_real(tick_count)) as u32;
    let rates: [Option<f32>; 4] = [row.try_get(5)?, row.try_get(6)?, row.try_get(7)?, row.try_get(8)?];
    let bits: i16 = row.try_get(19)?;
    let measured = std::array::from_fn(|nth| bits >> nth & 1 == 1);
    let rate_seconds: [f32; 4] =
        std::array::from_fn(|nth| if measured[nth] { covered(nth, seconds) } else { 0.0 });
    Ok(HourRow {
        boot_id: row.try_get(1)?,
        key: CgroupKey { hierarchy_id: hierarchy_id.cast_unsigned(), cgroup_id: cgroup_id.cast_unsigned() },
        from_usec: unix_usec(from_timestamptz(row.try_get(3)?)),
        present: row.try_get::<i64, _>(4)?.cast_unsigned(),
        rates: std::array::from_fn(|nth| rates[nth].or((rate_seconds[nth] > 0.0).then_some(0.0))),
        rate_seconds,
        gauge_ticks: std::array::from_fn(|nth| if gauges[nth].is_some() { ticks(nth) } else { 0 }),
        measured,
        gauges,
        tick_count,
        seconds,
        constant: row.try_get(20)?,
    })
}
