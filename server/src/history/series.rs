//! Series as they are put together out of the parts that hosts have of them, and the answer they make.

use std::collections::HashMap;

use super::{Aggregation, Measure, SeriesKey, Steps};

/// More is held than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} {what}")]
pub struct TooMany {
    /// Of what.
    pub what: &'static str,
    /// The most that are allowed.
    pub limit: usize,
}

/// What a step of a series has so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    pub(super) value: f64,
    pub(super) is_there: bool,
    pub(super) reset: bool,
    pub(super) gap: bool,
}

/// The steps of one series.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    pub(super) steps: Vec<Slot>,
    /// With percentiles: every value of each step.
    pub(super) values: Vec<Vec<f64>>,
    pub(super) total: Slot,
    pub(super) resets: u64,
    pub(super) cgroups: u32,
}

impl Slots {
    pub(super) fn new(measure: Measure, steps: usize) -> Self {
        let values = if matches!(measure.aggregation, Aggregation::Percentile(_)) { steps } else { 0 };
        Self {
            steps: vec![Slot::default(); steps],
            values: vec![Vec::new(); values],
            total: Slot::default(),
            resets: 0,
            cgroups: 0,
        }
    }

    fn merge(&mut self, other: Self, aggregation: Aggregation) {
        for (slot, other) in self.steps.iter_mut().zip(other.steps) {
            slot.merge(other, aggregation);
        }
        for (values, mut other) in self.values.iter_mut().zip(other.values) {
            values.append(&mut other);
        }
        self.total.merge(other.total, aggregation);
        self.resets += other.resets;
        self.cgroups += other.cgroups;
    }

    /// Turns the values of percentiles into percentiles.
    fn close(&mut self, aggregation: Aggregation) {
        let Aggregation::Percentile(percent) = aggregation else { return };
        let mut all = Vec::new();
        for (slot, values) in self.steps.iter_mut().zip(std::mem::take(&mut self.values)) {
            let mut values = values;
            all.extend_from_slice(&values);
            if let Some(value) = percentile(&mut values, percent) {
                slot.add(value, aggregation);
            }
        }
        if let Some(value) = percentile(&mut all, percent) {
            self.total.add(value, aggregation);
        }
    }
}

impl Slot {
    /// Takes in the value of one more cgroup.
    pub(super) fn add(&mut self, value: f64, aggregation: Aggregation) {
        self.value = match (self.is_there, aggregation) {
            (false, _) => value,
            (true, Aggregation::Max | Aggregation::Percentile(_)) => self.value.max(value),
            (true, Aggregation::Min) => self.value.min(value),
            (true, Aggregation::Last | Aggregation::Mean | Aggregation::Sum | Aggregation::Rate) => {
                self.value + value
            }
        };
        self.is_there = true;
    }

    fn merge(&mut self, other: Self, aggregation: Aggregation) {
        if other.is_there {
            self.add(other.value, aggregation);
        }
        self.reset |= other.reset;
        self.gap |= other.gap;
    }
}

/// The smallest of the values that `percent` of them do not exceed.
fn percentile(values: &mut [f64], percent: u8) -> Option<f64> {
    let rank = (values.len() * usize::from(percent)).div_ceil(100).max(1);
    if values.is_empty() {
        return None;
    }
    let (_, value, _) = values.select_nth_unstable_by(rank - 1, f64::total_cmp);
    Some(*value)
}

/// Series of many hosts.
#[derive(Debug)]
pub struct SeriesSet {
    measures: Vec<Measure>,
    steps: Steps,
    found: HashMap<(SeriesKey, usize), Slots>,
    values_max: usize,
    series_max: usize,
    values: usize,
    series_found: usize,
    top: Option<usize>,
}

/// A series that was found, and its values.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundSeries {
    /// Which.
    pub key: SeriesKey,
    /// What of it.
    pub measure: Measure,
    /// How many cgroups are in it.
    pub cgroups: u32,
    /// The aggregate over the range.
    pub total: Option<f64>,
    /// Resets that were met.
    pub resets: u64,
    /// The steps that have a value.
    pub points: Vec<Point>,
}

/// The value of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When the step begins, in microseconds since the Unix epoch.
    pub from: i64,
    /// The value.
    pub value: f64,
    /// A counter was reset in it.
    pub reset: bool,
    /// Ticks are missing in a part of it.
    pub gap: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// By metric; within one the greatest first, or by key.
    pub series: Vec<FoundSeries>,
    /// How many there were before `top` left some out.
    pub series_found: usize,
}

impl SeriesSet {
    /// Takes series of these measures. No more than `values_max` values and `series_max` series are held at one
    /// time; of each measure the `top` greatest are kept, if given.
    pub fn new(
        measures: Vec<Measure>,
        steps: Steps,
        top: Option<usize>,
        values_max: usize,
        series_max: usize,
    ) -> Self {
        let found = HashMap::new();
        Self { measures, steps, found, values_max, series_max, values: 0, series_found: 0, top }
    }

    /// Takes in what one host has.
    pub(super) fn take(&mut self, key: SeriesKey, measure: usize, slots: Slots) -> Result<(), TooMany> {
        self.values += slots.steps.len() + slots.values.iter().map(Vec::len).sum::<usize>();
        let aggregation = self.measures[measure].aggregation;
        match self.found.entry((key, measure)) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                self.values -= slots.steps.len();
                known.get_mut().merge(slots, aggregation);
            }
            std::collections::hash_map::Entry::Vacant(vacant) => {
                self.series_found += 1;
                vacant.insert(slots);
            }
        }
        if self.found.len() > self.series_max {
            return Err(TooMany { what: "series", limit: self.series_max });
        }
        if self.values > self.values_max {
            return Err(TooMany { what: "values", limit: self.values_max });
        }
        Ok(())
    }

    /// Whether it holds half of what it may.
    pub fn is_crowded(&self) -> bool {
        self.found.len() > self.series_max / 2 || self.values > self.values_max / 2
    }

    /// Leaves out what cannot be among the greatest any more: only where no series has cgroups of hosts that are
    /// still to come.
    pub fn keep_top(&mut self) {
        let Some(top) = self.top else { return };
        if self.found.len() <= top.saturating_mul(self.measures.len()) {
            return;
        }
        for measure in 0..self.measures.len() {
            let aggregation = self.measures[measure].aggregation;
            let of_measure = self.found.iter_mut().filter(|((_, of), _)| *of == measure);
            let mut totals: Vec<(f64, SeriesKey)> = of_measure
                .map(|((key, _), slots)| {
                    slots.close_total(aggregation);
                    (slots.rank(), key.clone())
                })
                .collect();
            totals.sort_by(|(one, key), (other, other_key)| {
                other.total_cmp(one).then_with(|| key.cmp(other_key))
            });
            for (_, key) in totals.into_iter().skip(top) {
                if let Some(slots) = self.found.remove(&(key, measure)) {
                    self.values -= slots.steps.len() + slots.values.iter().map(Vec::len).sum::<usize>();
                }
            }
        }
    }

    /// Gives what was found so far, and begins anew.
    pub fn drain(&mut self) -> Answer {
        self.keep_top();
        let mut series: Vec<FoundSeries> = self
            .found
            .drain()
            .map(|((key, measure), mut slots)| {
                let measure = self.measures[measure];
                slots.close(measure.aggregation);
                found_series(key, measure, &slots, self.steps)
            })
            .collect();
        let place = |measure: Measure| self.measures.iter().position(|known| *known == measure);
        series.sort_by(|one, other| {
            let by_total = || rank_of(other.total).total_cmp(&rank_of(one.total));
            let by_key = || one.key.cmp(&other.key);
            let by_measure = place(one.measure).cmp(&place(other.measure));
            match self.top {
                Some(_) => by_measure.then_with(by_total).then_with(by_key),
                None => by_key().then(by_measure),
            }
        });
        self.values = 0;
        Answer { series, series_found: std::mem::take(&mut self.series_found) }
    }
}

impl Slots {
    /// The total, of percentiles too, without giving up their values.
    fn close_total(&mut self, aggregation: Aggregation) {
        if let Aggregation::Percentile(percent) = aggregation {
            let mut all: Vec<f64> = self.values.iter().flatten().copied().collect();
            if let Some(value) = percentile(&mut all, percent) {
                self.total = Slot { value, is_there: true, ..Slot::default() };
            }
        }
    }

    fn rank(&self) -> f64 {
        rank_of(self.total.is_there.then_some(self.total.value))
    }
}

/// What has no total comes last.
fn rank_of(total: Option<f64>) -> f64 {
    total.unwrap_or(f64::NEG_INFINITY)
}

fn found_series(key: SeriesKey, measure: Measure, slots: &Slots, steps: Steps) -> FoundSeries {
    let points = slots.steps.iter().enumerate().filter(|(_, slot)| slot.is_there);
    FoundSeries {
        key,
        measure,
        cgroups: slots.cgroups,
        total: slots.total.is_there.then_some(slots.total.value),
        resets: slots.resets,
        points: points
            .map(|(step, slot)| Point {
                from: steps.from(step),
                value: slot.value,
                reset: slot.reset,
                gap: slot.gap,
            })
            .collect(),
    }
}
