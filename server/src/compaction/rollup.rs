//! Minutes and hours out of a cgroup's series. Pure.
//!
//! A counter grows from one tick to the next: only where no tick is missing between them, both have it, and it was not
//! reset. That growth belongs to the minute of the later one.

use std::collections::HashMap;

use cgfleet_model::Metric;
use rustc_hash::FxBuildHasher;
use uuid::Uuid;

use super::window::{hour_start, minute_of_hour};
use crate::store::{
    COUNTERS, GAUGES, GaugeRollup, HourRow, MinuteRow, StoredMinutes, TICKS_APART_MIN_USEC,
    codec::{CgroupKey, ChunkSeries, TickValues},
};

const MINUTES: usize = 60;

/// The ticks of a window, as far as rollups are concerned.
#[derive(Debug)]
pub(super) struct RollupTicks {
    boot_id: Uuid,
    from_usec: i64,
    /// Of each tick, its minute.
    minutes: Vec<usize>,
    /// The time since the tick before it; `None` if ticks are missing in between.
    elapsed: Vec<Option<f64>>,
    before: CounterValues,
}

/// What counters showed at one tick, by cgroup.
pub(super) type CounterValues = HashMap<CgroupKey, [Option<u64>; COUNTERS.len()], FxBuildHasher>;

/// The counters of a tick.
pub(super) fn counters_of(tick: &TickValues) -> CounterValues {
    tick.iter().map(|(key, values)| (key, COUNTERS.map(|metric| values.get(metric)))).collect()
}

#[derive(Debug, Clone, Copy, Default)]
struct Grown {
    by: f64,
    seconds: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gauged {
    sum: f64,
    ticks: u32,
    max: u64,
    last: u64,
}

impl RollupTicks {
    /// Of the ticks of a window with their times; `follows` says of each whether no tick is missing before it, and `before`
    /// has the counters of the tick before the first, with its time.
    pub(super) fn new(
        boot_id: Uuid,
        ticks: &[i64],
        follows: &[bool],
        before: Option<(i64, CounterValues)>,
    ) -> Self {
        let distance = |earlier: i64, later: i64| {
            let elapsed = later - earlier;
            (elapsed >= TICKS_APART_MIN_USEC).then(|| seconds(elapsed))
        };
        let first =
            before.as_ref().zip(ticks.first()).and_then(|((at_usec, _), first)| distance(*at_usec, *first));
        let elapsed = std::iter::once(first)
            .chain(ticks.windows(2).map(|pair| distance(pair[0], pair[1])))
            .zip(follows)
            .map(|(elapsed, follows)| elapsed.filter(|_| *follows))
            .collect();
        Self {
            boot_id,
            from_usec: hour_start(ticks.first().copied().unwrap_or_default()),
            minutes: ticks.iter().map(|tick| minute_of_hour(*tick) as usize).collect(),
            elapsed,
            before: before.map(|(_, counters)| counters).unwrap_or_default(),
        }
    }

    /// The minutes and the hour of a series, of which `places` are its ticks within the window. No row of minutes if
    /// they are all as the hour says.
    pub(super) fn roll_up(&self, series: &ChunkSeries, places: &[usize]) -> (Option<MinuteRow>, HourRow) {
        let present = places.iter().fold(0_u64, |present, place| present | 1 << self.minutes[*place]);
        let before = self.before.get(&series.key).filter(|_| places.first() == Some(&0));
        let mut hour = self.empty_hour(series, places, present, before.is_some());
        let mut row = self.empty_minutes(series.key, present);
        for (nth, metric) in COUNTERS.iter().enumerate() {
            let Some(values) = column(series, *metric) else { continue };
            let (minutes, total) = self.growth(values, places, before.and_then(|before| before[nth]));
            row.rates[nth] = stored(present, &minutes.map(|grown| grown.rate()), |_| 0.0);
            hour.rates[nth] = total.rate();
            hour.rate_seconds[nth] = real(total.seconds);
            hour.measured[nth] = values.iter().any(Option::is_some);
        }
        for (nth, metric) in GAUGES.iter().enumerate() {
            let Some(values) = column(series, *metric) else { continue };
            let (minutes, total) = self.gauge(values, places);
            row.gauges[nth] = stored(present, &minutes.map(|gauged| gauged.rollup()), unchanged);
            hour.gauges[nth] = total.rollup();
            hour.gauge_ticks[nth] = total.ticks;
        }
        hour.constant = row == constant_minutes(&hour);
        ((!hour.constant).then_some(row), hour)
    }

    fn empty_hour(&self, series: &ChunkSeries, places: &[usize], present: u64, has_before: bool) -> HourRow {
        let seconds = places.iter().enumerate().filter_map(|(nth, place)| {
            let has_previous = if nth == 0 { has_before } else { places[nth - 1] + 1 == *place };
            self.elapsed[*place].filter(|_| has_previous)
        });
        HourRow {
            boot_id: self.boot_id,
            key: series.key,
            from_usec: self.from_usec,
            present,
            measured: [false; COUNTERS.len()],
            rates: [None; COUNTERS.len()],
            rate_seconds: [0.0; COUNTERS.len()],
            gauges: [None; GAUGES.len()],
            gauge_ticks: [0; GAUGES.len()],
            tick_count: u32::try_from(places.len()).unwrap_or(u32::MAX),
            seconds: real(seconds.sum()),
            constant: false,
        }
    }

    fn growth(
        &self,
        values: &[Option<u64>],
        places: &[usize],
        before: Option<u64>,
    ) -> ([Grown; MINUTES], Grown) {
        let (mut minutes, mut total) = ([Grown::default(); MINUTES], Grown::default());
        let mut previous = before;
        let mut expected = 0;
        for (value, place) in values.iter().zip(places) {
            let adjoins = *place == expected;
            expected = *place + 1;
            let pair = previous.filter(|_| adjoins).zip(*value).zip(self.elapsed[*place]);
            previous = *value;
            let Some(((earlier, later), elapsed)) = pair else { continue };
            // Less than before: it was reset, nobody knows after how much.
            let Some(by) = later.checked_sub(earlier) else { continue };
            for grown in [&mut minutes[self.minutes[*place]], &mut total] {
                grown.by += float(by);
                grown.seconds += elapsed;
            }
        }
        (minutes, total)
    }

    fn gauge(&self, values: &[Option<u64>], places: &[usize]) -> ([Gauged; MINUTES], Gauged) {
        let mut minutes = [Gauged::default(); MINUTES];
        let mut total = Gauged::default();
        for (value, place) in values.iter().zip(places) {
            let Some(value) = *value else { continue };
            for gauged in [&mut minutes[self.minutes[*place]], &mut total] {
                gauged.sum += float(value);
                gauged.ticks += 1;
                gauged.max = gauged.max.max(value);
                gauged.last = value;
            }
        }
        (minutes, total)
    }

    /// Minutes in which no metric was measured.
    fn empty_minutes(&self, key: CgroupKey, present: u64) -> MinuteRow {
        let (boot_id, from_usec) = (self.boot_id, self.from_usec);
        let rates = std::array::from_fn(|_| first_only(present, None));
        let gauges = std::array::from_fn(|_| first_only(present, None));
        MinuteRow { boot_id, key, from_usec, present, rates, gauges }
    }
}

/// The minutes that are not what the stored one before them says already.
fn stored<T: Copy + PartialEq>(
    present: u64,
    minutes: &[Option<T>; MINUTES],
    unchanged: impl Fn(T) -> T,
) -> StoredMinutes<T> {
    let mut found = StoredMinutes { stored: 0, values: Vec::new() };
    for (nth, minute) in minutes.iter().enumerate().filter(|(nth, _)| present >> nth & 1 == 1) {
        if found.values.last().is_none_or(|before| before.map(&unchanged) != *minute) {
            found.stored |= 1 << nth;
            found.values.push(*minute);
        }
    }
    found
}

/// What the next minute is if the gauge does not move.
fn unchanged(gauge: GaugeRollup) -> GaugeRollup {
    GaugeRollup { last: gauge.last, mean: gauge.last, max: gauge.last }
}

/// The first minute, and nothing that changes behind it.
fn first_only<T>(present: u64, value: Option<T>) -> StoredMinutes<T> {
    StoredMinutes { stored: present & present.wrapping_neg(), values: vec![value] }
}

/// The minutes of a cgroup of which nothing changes within an hour: as the hour says.
fn constant_minutes(hour: &HourRow) -> MinuteRow {
    MinuteRow {
        boot_id: hour.boot_id,
        key: hour.key,
        from_usec: hour.from_usec,
        present: hour.present,
        rates: hour.rates.map(|rate| first_only(hour.present, rate.map(|_| 0.0))),
        gauges: hour.gauges.map(|gauge| first_only(hour.present, gauge.map(unchanged))),
    }
}

/// Adds a later window's rows of an hour to those that are there. What were constant minutes of a cgroup that is not
/// constant any more become rows of minutes.
pub(super) fn merge_hours(stored: Vec<HourRow>, new: Vec<HourRow>) -> (Vec<HourRow>, Vec<MinuteRow>) {
    let mut stored: HashMap<CgroupKey, HourRow, FxBuildHasher> =
        stored.into_iter().map(|row| (row.key, row)).collect();
    let mut minutes = Vec::new();
    let mut merged = Vec::with_capacity(new.len());
    for row in new {
        let Some(earlier) = stored.remove(&row.key) else {
            merged.push(row);
            continue;
        };
        let sum = sum_of(&earlier, &row);
        if !sum.constant {
            minutes.extend(
                [earlier, row].into_iter().filter(|row| row.constant).map(|row| constant_minutes(&row)),
            );
        }
        merged.push(sum);
    }
    merged.extend(stored.into_values());
    (merged, minutes)
}

fn sum_of(earlier: &HourRow, later: &HourRow) -> HourRow {
    let mut sum = later.clone();
    sum.present |= earlier.present;
    sum.tick_count += earlier.tick_count;
    sum.seconds += earlier.seconds;
    for nth in 0..COUNTERS.len() {
        let grown = [earlier, later].map(|row| Grown {
            by: f64::from(row.rates[nth].unwrap_or_default()) * f64::from(row.rate_seconds[nth]),
            seconds: f64::from(row.rate_seconds[nth]),
        });
        let total = Grown { by: grown[0].by + grown[1].by, seconds: grown[0].seconds + grown[1].seconds };
        sum.measured[nth] |= earlier.measured[nth];
        sum.rates[nth] = total.rate();
        sum.rate_seconds[nth] = real(total.seconds);
    }
    for nth in 0..GAUGES.len() {
        sum.gauge_ticks[nth] += earlier.gauge_ticks[nth];
        sum.gauges[nth] = match (earlier.gauges[nth], later.gauges[nth]) {
            (Some(before), Some(after)) => {
                let [first, second] = [earlier, later].map(|row| f64::from(row.gauge_ticks[nth]));
                let mean =
                    (f64::from(before.mean) * first + f64::from(after.mean) * second) / (first + second);
                Some(GaugeRollup { last: after.last, mean: real(mean), max: before.max.max(after.max) })
            }
            (before, after) => after.or(before),
        };
    }
    sum.constant =
        earlier.constant && later.constant && earlier.rates == later.rates && earlier.gauges == later.gauges;
    sum
}

impl Grown {
    fn rate(&self) -> Option<f32> {
        (self.seconds > 0.0).then(|| real(self.by / self.seconds))
    }
}

impl Gauged {
    fn rollup(&self) -> Option<GaugeRollup> {
        (self.ticks > 0).then(|| GaugeRollup {
            last: real(float(self.last)),
            mean: real(self.sum / f64::from(self.ticks)),
            max: real(float(self.max)),
        })
    }
}

fn column(series: &ChunkSeries, metric: Metric) -> Option<&[Option<u64>]> {
    let at = series.columns.binary_search_by_key(&metric, |column| column.metric).ok()?;
    Some(&series.columns[at].values)
}

fn seconds(usec: i64) -> f64 {
    float(usec.unsigned_abs()) / 1e6
}

#[allow(clippy::cast_precision_loss, reason = "exact below 2^53, and a rollup has 24 bits")]
fn float(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_possible_truncation, reason = "24 bits are what a rollup keeps")]
fn real(value: f64) -> f32 {
    value as f32
}
