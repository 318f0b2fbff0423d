//! What one host has of some series: its values as they come, in time order for each cgroup.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    Aggregation, Cgroup, Grouping, Measure, SeriesKey, SeriesSet, Steps, TooMany,
    group::{Counts, Member},
    series::Slots,
};
use crate::store::{
    TICKS_APART_MIN_USEC,
    codec::{CgroupKey, ScannedTick, UNTAGGED},
};

/// How far before the range a counter's value is looked for, in microseconds.
pub const LOOKBACK: i64 = 5 * 60_000_000;

/// A cgroup within its host.
pub type HostCgroup = (Uuid, CgroupKey);

/// The tag of a cgroup that is in no series.
const IN_NO_SERIES: u32 = UNTAGGED - 1;

/// The part of some series that one host has.
#[derive(Debug)]
pub struct HostSeries {
    host_id: Uuid,
    measures: Vec<Measure>,
    steps: Steps,
    series: Vec<SeriesKey>,
    members: Vec<Member>,
    by_cgroup: HashMap<HostCgroup, Option<u32>>,
    /// Whether a cgroup that is not known is a series of its own.
    is_open: bool,
    /// Of each member its measures.
    states: Vec<State>,
    /// Of each series its measures.
    slots: Vec<Option<Slots>>,
    series_max: usize,
    /// Values before this moment are only what counters grow from.
    counts_from: i64,
    /// Where ticks are missing: the last before, and the first behind. Ascending.
    gaps: Vec<(i64, i64)>,
}

/// The aggregate of a minute or an hour of a cgroup's metric, as rollups have it.
#[derive(Debug, Clone, Copy)]
pub struct Minute {
    /// When it begins, in microseconds since the Unix epoch.
    pub from: i64,
    /// The aggregate; growth as a rate. Absent where there is none.
    pub value: Option<f64>,
    /// How much it counts beside others: the ticks of a gauge, the seconds of a counter.
    pub weight: f64,
}

/// What is known of one cgroup's one metric while its values come.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    before: Option<(i64, u64)>,
    /// The step that `now` is of.
    step: usize,
    now: Span,
    range: Span,
}

/// What a stretch of time has so far.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    is_there: bool,
    reset: bool,
    last: f64,
    least: f64,
    most: f64,
    sum: f64,
    /// Ticks, or seconds in which a counter grew.
    weight: f64,
}

impl Span {
    /// Takes in a value that counts so much.
    fn add(&mut self, value: f64, sum: f64, weight: f64) {
        (self.least, self.most) =
            if self.is_there { (self.least.min(value), self.most.max(value)) } else { (value, value) };
        self.is_there = true;
        self.last = value;
        self.sum += sum;
        self.weight += weight;
    }

    fn value(&self, measure: Measure) -> Option<f64> {
        let value = match measure.aggregation {
            Aggregation::Last => self.last,
            Aggregation::Max => self.most,
            Aggregation::Min => self.least,
            Aggregation::Sum => self.sum,
            Aggregation::Mean | Aggregation::Rate => self.sum / self.weight,
            Aggregation::Percentile(_) => return None,
        };
        self.is_there.then_some(value)
    }
}

impl HostSeries {
    /// Series of these cgroups.
    pub fn new(
        host_id: Uuid,
        measures: &[Measure],
        steps: Steps,
        grouping: &Grouping,
        cgroups: &[Cgroup],
        series_max: usize,
    ) -> Self {
        let (series, members_of) = grouping.members(host_id, cgroups);
        let mut by_cgroup = HashMap::with_capacity(cgroups.len());
        let mut members = Vec::new();
        for (cgroup, member) in cgroups.iter().zip(members_of) {
            let tag = member.map(|member| {
                members.push(member);
                u32::try_from(members.len() - 1).unwrap_or(IN_NO_SERIES)
            });
            by_cgroup.insert((cgroup.identity.boot_id, cgroup.identity.key), tag);
        }
        let mut host = Self::open(host_id, measures, steps, series_max);
        host.is_open = false;
        host.states = vec![State::default(); members.len() * measures.len()];
        host.slots.resize(series.len() * measures.len(), None);
        (host.series, host.members, host.by_cgroup) = (series, members, by_cgroup);
        host
    }

    /// Series of whatever cgroups there are, one each.
    pub fn open(host_id: Uuid, measures: &[Measure], steps: Steps, series_max: usize) -> Self {
        Self {
            host_id,
            measures: measures.to_vec(),
            steps,
            series: Vec::new(),
            members: Vec::new(),
            by_cgroup: HashMap::new(),
            is_open: true,
            states: Vec::new(),
            slots: Vec::new(),
            series_max,
            counts_from: steps.since(),
            gaps: Vec::new(),
        }
    }

    /// Takes values before this moment for what counters grow from, and for no more.
    pub fn count_from(&mut self, at: i64) {
        self.counts_from = at;
    }

    /// The host.
    pub fn host_id(&self) -> Uuid {
        self.host_id
    }

    /// The cgroups that it knows; `None` if it takes any.
    pub fn keys(&self) -> Option<Vec<CgroupKey>> {
        let known = self.by_cgroup.iter().filter(|(_, member)| member.is_some());
        (!self.is_open).then(|| known.map(|((_, key), _)| *key).collect())
    }

    /// The place of a cgroup among the members, which is new if need be.
    pub fn member(&mut self, cgroup: HostCgroup) -> Result<Option<u32>, TooMany> {
        if let Some(known) = self.by_cgroup.get(&cgroup) {
            return Ok(*known);
        }
        if !self.is_open {
            return Ok(None);
        }
        if self.members.len() >= self.series_max {
            return Err(TooMany { what: "series", limit: self.series_max });
        }
        let (boot_id, key) = cgroup;
        let series = self.series.len();
        self.series.push(SeriesKey {
            host_id: Some(self.host_id),
            cgroup: Some((boot_id, key.hierarchy_id, key.cgroup_id)),
            ..SeriesKey::default()
        });
        self.members.push(Member { series, counts: Counts::Always });
        self.states.resize(self.members.len() * self.measures.len(), State::default());
        self.slots.resize(self.series.len() * self.measures.len(), None);
        let member = u32::try_from(series).unwrap_or(IN_NO_SERIES);
        self.by_cgroup.insert(cgroup, Some(member));
        Ok(Some(member))
    }

    /// Takes in a tick, whose metrics are those of the measures, in their order.
    pub fn tick(&mut self, at: i64, boot_id: Uuid, tick: &mut ScannedTick<'_>) -> Result<(), TooMany> {
        for cgroup in 0..tick.cgroups.len() {
            let mut tag = tick.cgroups[cgroup].tag;
            if tag == UNTAGGED {
                tag = self.member((boot_id, tick.cgroups[cgroup].key))?.unwrap_or(IN_NO_SERIES);
                tick.cgroups[cgroup].tag = tag;
            }
            if tag == IN_NO_SERIES {
                continue;
            }
            for measure in 0..self.measures.len() {
                match tick.value(cgroup, measure) {
                    Some(value) => self.value(tag, measure, at, value),
                    None => self.absent(tag, measure),
                }
            }
        }
        Ok(())
    }

    /// Says that a member is there, and has no value: nothing grows from before it to behind it.
    pub fn absent(&mut self, member: u32, measure: usize) {
        self.states[member as usize * self.measures.len() + measure].before = None;
    }

    /// Takes in one value of a member.
    pub fn value(&mut self, member: u32, measure: usize, at: i64, value: u64) {
        let Member { series, counts } = self.members[member as usize];
        let what = self.measures[measure];
        if !counts.of(what.metric) {
            return;
        }
        let place = member as usize * self.measures.len() + measure;
        let state = &mut self.states[place];
        let before = if what.is_of_growth() { state.before.replace((at, value)) } else { None };
        let Some(step) = self.steps.of(at).filter(|_| at >= self.counts_from) else { return };
        if step != state.step {
            flush(&mut self.slots, state, (series, measure), &self.measures, self.steps);
            state.step = step;
        }
        let slots = self.slots[series * self.measures.len() + measure]
            .get_or_insert_with(|| Slots::new(what, self.steps.count()));
        let taken = if what.is_of_growth() {
            let is_neighbour = |before: &(i64, u64)| {
                before.0 >= self.steps.since() - LOOKBACK && !is_torn(&self.gaps, before.0, at)
            };
            let Some((before_at, before)) = before.filter(is_neighbour) else { return };
            let Some(grown) = value.checked_sub(before) else {
                (state.now.reset, state.range.reset) = (true, true);
                slots.steps[step].reset = true;
                slots.resets += 1;
                return;
            };
            if at - before_at < TICKS_APART_MIN_USEC {
                return;
            }
            let (grown, seconds) = (as_float(grown), micros_as_seconds(at - before_at));
            (grown / seconds, grown, seconds)
        } else {
            let value = of_limit(what, value);
            (value, value, 1.0)
        };
        state.now.add(taken.0, taken.1, taken.2);
        state.range.add(taken.0, taken.1, taken.2);
        if let Some(values) = slots.values.get_mut(step) {
            values.push(taken.0);
        }
    }

    /// Takes in what rollups have of a minute or an hour of a member, of those before the moment from which values
    /// count.
    pub fn minute(&mut self, member: u32, measure: usize, minute: &Minute) {
        let Member { series, counts } = self.members[member as usize];
        let what = self.measures[measure];
        let (Some(value), Some(step)) = (minute.value, self.steps.of(minute.from)) else { return };
        if !counts.of(what.metric) || minute.weight <= 0.0 || minute.from >= self.counts_from {
            return;
        }
        let state = &mut self.states[member as usize * self.measures.len() + measure];
        if step != state.step {
            flush(&mut self.slots, state, (series, measure), &self.measures, self.steps);
            state.step = step;
        }
        let sum = value * minute.weight;
        state.now.add(value, sum, minute.weight);
        state.range.add(value, sum, minute.weight);
        self.slots[series * self.measures.len() + measure]
            .get_or_insert_with(|| Slots::new(what, self.steps.count()));
    }

    /// Says where ticks are missing, before the values behind are taken: nothing grows from one side to the other.
    pub fn gap(&mut self, after: i64, before: i64) {
        if self.gaps.last().is_none_or(|known| known.1 < before) {
            self.gaps.push((after, before));
        }
    }

    fn mark_gaps(&mut self) {
        for (after, before) in &self.gaps {
            let touched = self.steps.touched(*after, *before);
            for slots in self.slots.iter_mut().flatten() {
                slots.steps[touched.clone()].iter_mut().for_each(|slot| slot.gap = true);
            }
        }
    }

    /// How many cgroups it has.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// How many values it holds.
    pub fn held(&self) -> usize {
        let of = |slots: &Slots| slots.steps.len() + slots.values.iter().map(Vec::len).sum::<usize>();
        self.slots.iter().flatten().map(of).sum()
    }

    /// Hands over all that came.
    pub fn finish(mut self, set: &mut SeriesSet) -> Result<(), TooMany> {
        let measures = self.measures.len();
        for (member, of) in self.members.iter().enumerate() {
            for measure in 0..measures {
                let state = &mut self.states[member * measures + measure];
                flush(&mut self.slots, state, (of.series, measure), &self.measures, self.steps);
                let range = state.range;
                if let Some(slots) = &mut self.slots[of.series * measures + measure] {
                    let aggregation = self.measures[measure].aggregation;
                    slots.cgroups += u32::from(range.is_there || range.reset);
                    if let Some(total) = range.value(self.measures[measure]) {
                        slots.total.add(total, aggregation);
                    }
                }
            }
        }
        self.mark_gaps();
        for (place, slots) in self.slots.into_iter().enumerate() {
            let Some(slots) = slots else { continue };
            // Nothing but the first value of a counter came.
            if slots.cgroups > 0 {
                set.take(self.series[place / measures].clone(), place % measures, slots)?;
            }
        }
        Ok(())
    }
}

/// Adds what one cgroup has of a step to its series.
fn flush(
    slots: &mut [Option<Slots>],
    state: &mut State,
    (series, measure): (usize, usize),
    measures: &[Measure],
    steps: Steps,
) {
    let now = std::mem::take(&mut state.now);
    let Some(value) = now.value(measures[measure]) else { return };
    let slots = slots[series * measures.len() + measure]
        .get_or_insert_with(|| Slots::new(measures[measure], steps.count()));
    slots.steps[state.step].add(value, measures[measure].aggregation);
}

/// Whether ticks are missing between two.
fn is_torn(gaps: &[(i64, i64)], earlier: i64, later: i64) -> bool {
    let next = gaps.partition_point(|(_, before)| *before <= earlier);
    gaps.get(next).is_some_and(|(_, before)| *before <= later)
}

/// A limit that is `max` is infinite.
fn of_limit(measure: Measure, value: u64) -> f64 {
    let is_limit = measure.metric.info().kind == cgfleet_model::MetricKind::Limit;
    if is_limit && value == u64::MAX { f64::INFINITY } else { as_float(value) }
}

#[allow(clippy::cast_precision_loss, reason = "the wire says that values are exact up to 2^53")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
fn micros_as_seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}
