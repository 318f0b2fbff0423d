//! The ticks of a window as changes per cgroup, and series out of them. What does not change costs nothing, neither
//! when a tick is added nor in memory. Pure.

use std::collections::HashMap;

use cgfleet_model::{Metric, MetricSet};
use rustc_hash::FxBuildHasher;

use crate::store::codec::{CgroupKey, ChunkColumn, ChunkSeries, MetricValues, TickChanges, TickValues};

/// In the column of an event: from this tick on the metric is absent.
const ABSENT: u8 = 0x80;

const _: () = assert!(Metric::ALL.len() <= ABSENT as usize, "a column's number leaves a bit");

/// What an event takes, and what a cgroup takes besides.
const EVENT_BYTES: usize = 11;
const CGROUP_BYTES: usize = 512;

/// The ticks of one window, of all cgroups or of those in a range of keys.
#[derive(Debug)]
pub(super) struct WindowLog {
    ticks: Vec<i64>,
    series: Vec<SeriesLog>,
    by_key: HashMap<CgroupKey, usize, FxBuildHasher>,
    from: Option<CgroupKey>,
    /// Where the range ends; it comes closer when there is too much.
    until: Option<CgroupKey>,
    bytes: usize,
    bytes_max: usize,
}

/// One cgroup: which ticks have it, and what changed of it.
#[derive(Debug)]
struct SeriesLog {
    key: CgroupKey,
    /// From which tick on, and until which; the last one may be open.
    spans: Vec<(usize, usize)>,
    /// Every metric that it ever had, in the order in which it came.
    columns: Vec<Metric>,
    /// What it has now, the column of each, and their values.
    present: MetricSet,
    places: Vec<u8>,
    last: Vec<u64>,
    // Events, in the order of their ticks.
    event_ticks: Vec<u16>,
    event_columns: Vec<u8>,
    event_values: Vec<u64>,
}

/// Of a span that is open.
const OPEN: usize = usize::MAX;

impl WindowLog {
    /// An empty log of the cgroups from a key on, that keeps to some bytes: where more would be needed, it gives up the
    /// last of its cgroups.
    pub(super) fn new(from: Option<CgroupKey>, bytes_max: usize) -> Self {
        Self {
            ticks: Vec::new(),
            series: Vec::new(),
            by_key: HashMap::default(),
            from,
            until: None,
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the next tick: the whole of it, and what changed since the one before.
    pub(super) fn push(&mut self, at_usec: i64, values: &TickValues, changes: &TickChanges) {
        let tick = self.ticks.len();
        self.ticks.push(at_usec);
        if tick == 0 || changes.is_whole {
            self.push_whole(tick, values);
        } else {
            for key in &changes.removed {
                if let Some(at) = self.by_key.get(key) {
                    self.series[*at].close(tick);
                }
            }
            for key in &changes.changed {
                if let Some(values) = values.get(*key) {
                    self.push_cgroup(tick, *key, values);
                }
            }
        }
        while self.bytes > self.bytes_max && self.series.len() > 1 {
            self.give_up_half();
        }
    }

    fn push_whole(&mut self, tick: usize, values: &TickValues) {
        for (key, values) in values.iter() {
            self.push_cgroup(tick, key, values);
        }
        for series in &mut self.series {
            if values.get(series.key).is_none() {
                series.close(tick);
            }
        }
    }

    fn push_cgroup(&mut self, tick: usize, key: CgroupKey, values: &MetricValues) {
        if self.from.is_some_and(|from| key < from) || self.until.is_some_and(|until| key >= until) {
            return;
        }
        let at = *self.by_key.entry(key).or_insert_with(|| {
            self.series.push(SeriesLog::new(key));
            self.bytes += CGROUP_BYTES;
            self.series.len() - 1
        });
        self.bytes += EVENT_BYTES * self.series[at].push(tick, values);
    }

    /// Keeps the half with the lower keys. The others are for another log, which begins where this one ends.
    fn give_up_half(&mut self) {
        let mut keys: Vec<CgroupKey> = self.by_key.keys().copied().collect();
        let middle = keys.len() / 2;
        let (_, until, _) = keys.select_nth_unstable(middle);
        let until = *until;
        self.until = Some(until);
        self.series.retain(|series| series.key < until);
        self.by_key = self.series.iter().enumerate().map(|(at, series)| (series.key, at)).collect();
        self.bytes =
            self.series.iter().map(|series| CGROUP_BYTES + EVENT_BYTES * series.event_ticks.len()).sum();
    }

    /// The ticks, in microseconds since the Unix epoch.
    pub(super) fn ticks(&self) -> &[i64] {
        &self.ticks
    }

    /// Where a log of what this one gave up has to begin; `None` if it has all.
    pub(super) fn rest(&self) -> Option<CgroupKey> {
        self.until
    }

    /// Hands every series, ascending by key, with the numbers of its ticks within the window. What is handed is
    /// overwritten by the next.
    pub(super) fn for_each<E>(
        mut self,
        mut take: impl FnMut(&ChunkSeries, &[usize]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.series.sort_unstable_by_key(|series| series.key);
        let (mut places, mut spare) = (Vec::new(), Vec::new());
        let empty = CgroupKey { hierarchy_id: 0, cgroup_id: 0 };
        let mut series = ChunkSeries { key: empty, ticks: Vec::new(), columns: Vec::new() };
        for log in self.series {
            log.write_to(&self.ticks, &mut places, &mut series, &mut spare);
            take(&series, &places)?;
        }
        Ok(())
    }
}

impl SeriesLog {
    fn new(key: CgroupKey) -> Self {
        Self {
            key,
            spans: Vec::new(),
            columns: Vec::new(),
            present: MetricSet::default(),
            places: Vec::new(),
            last: Vec::new(),
            event_ticks: Vec::new(),
            event_columns: Vec::new(),
            event_values: Vec::new(),
        }
    }

    /// Says that the cgroup is not there from this tick on.
    fn close(&mut self, tick: usize) {
        if let Some((_, until)) = self.spans.last_mut().filter(|(_, until)| *until == OPEN) {
            *until = tick;
        }
    }

    /// Adds what the cgroup has from this tick on; how many events that took.
    fn push(&mut self, tick: usize, values: &MetricValues) -> usize {
        if self.spans.last().is_none_or(|(_, until)| *until != OPEN) {
            self.spans.push((tick, OPEN));
        }
        let before = self.event_ticks.len();
        // A window has fewer ticks than that (`WINDOW_TICKS_MAX`).
        let tick = u16::try_from(tick).unwrap_or(u16::MAX);
        if self.present != values.present() {
            self.change_metrics(tick, values.present());
        }
        for (nth, value) in values.values().iter().enumerate() {
            if self.last[nth] != *value {
                self.last[nth] = *value;
                self.event(tick, self.places[nth], *value);
            }
        }
        self.event_ticks.len() - before
    }

    fn event(&mut self, tick: u16, column: u8, value: u64) {
        self.event_ticks.push(tick);
        self.event_columns.push(column);
        self.event_values.push(value);
    }

    fn change_metrics(&mut self, tick: u16, present: MetricSet) {
        let before = std::mem::replace(&mut self.present, present);
        for (nth, metric) in before.iter().enumerate() {
            if !present.contains(metric) {
                self.event(tick, self.places[nth] | ABSENT, 0);
            }
        }
        let (mut places, mut last) = (Vec::with_capacity(present.len()), Vec::with_capacity(present.len()));
        for metric in present.iter() {
            if before.contains(metric) {
                let nth = before.rank(metric);
                places.push(self.places[nth]);
                last.push(self.last[nth]);
                continue;
            }
            let column = self.columns.iter().position(|known| *known == metric).unwrap_or_else(|| {
                self.columns.push(metric);
                self.columns.len() - 1
            });
            // Below the number of metrics.
            let column = u8::try_from(column).unwrap_or_default();
            self.event(tick, column, 0);
            places.push(column);
            last.push(0);
        }
        (self.places, self.last) = (places, last);
    }

    /// Makes the series, in vectors that are there already.
    fn write_to(
        self,
        all_ticks: &[i64],
        places: &mut Vec<usize>,
        series: &mut ChunkSeries,
        spare: &mut Vec<Vec<Option<u64>>>,
    ) {
        places.clear();
        places.extend(self.spans.iter().flat_map(|(from, until)| *from..(*until).min(all_ticks.len())));
        series.key = self.key;
        series.ticks.clear();
        series.ticks.extend(places.iter().map(|place| all_ticks[*place]));
        spare.extend(series.columns.drain(..).map(|column| column.values));
        for metric in &self.columns {
            let mut values = spare.pop().unwrap_or_default();
            values.clear();
            values.reserve(places.len());
            series.columns.push(ChunkColumn { metric: *metric, values });
        }
        let mut now: Vec<Option<u64>> = vec![None; self.columns.len()];
        let mut at = (0, 0);
        let events = self.event_ticks.iter().zip(&self.event_columns).zip(&self.event_values);
        for ((tick, column), value) in events {
            let tick = usize::from(*tick);
            if tick != at.0 {
                // How many of its ticks come before this one.
                at = (tick, at.1 + places[at.1..].partition_point(|place| *place < tick));
            }
            let nth = usize::from(column & !ABSENT);
            let values = &mut series.columns[nth].values;
            if values.len() < at.1 {
                values.resize(at.1, now[nth]);
            }
            now[nth] = (column & ABSENT == 0).then_some(*value);
        }
        for (column, now) in series.columns.iter_mut().zip(now) {
            column.values.resize(places.len(), now);
        }
        series.columns.sort_unstable_by_key(|column| column.metric);
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::CgroupSample;
    use proptest::prelude::*;

    use super::*;
    use crate::store::codec::{ChunkBuilder, Frame, HeadDecoder, HeadEncoder};

    prop_compose! {
        fn any_sample()(
            hierarchy_id in 0_u32..2,
            // Few ids and few values, so that cgroups come, go and come back, and some stay as they are.
            cgroup_id in 1_u64..9,
            values in proptest::collection::vec((0..Metric::ALL.len() / 8, 0_u64..3), 0..4),
        ) -> CgroupSample {
            let mut sample = CgroupSample { hierarchy_id, cgroup_id, ..CgroupSample::default() };
            for (metric, value) in values {
                sample.set_metric(Metric::ALL[metric * 8], Some(value));
            }
            sample
        }
    }

    fn any_ticks() -> impl Strategy<Value = Vec<(Frame, Vec<CgroupSample>)>> {
        let frame = prop_oneof![1 => Just(Frame::Keyframe), 4 => Just(Frame::Delta)];
        proptest::collection::vec((frame, proptest::collection::vec(any_sample(), 0..12)), 1..20)
    }

    /// The series of payloads, read as often as it takes, and in how many readings.
    fn read(payloads: &[Vec<u8>], bytes_max: usize) -> (Vec<ChunkSeries>, usize) {
        let (mut series, mut from, mut readings) = (Vec::new(), None, 0);
        loop {
            readings += 1;
            let mut log = WindowLog::new(from, bytes_max);
            let (mut decoder, mut changes) = (HeadDecoder::default(), TickChanges::default());
            for (at_usec, payload) in (0..).zip(payloads) {
                let values = decoder.apply_telling(payload, &mut changes).unwrap();
                log.push(at_usec, values, &changes);
            }
            from = log.rest();
            log.for_each(|found, places| {
                let ticks: Vec<i64> = places.iter().map(|place| i64::try_from(*place).unwrap()).collect();
                assert_eq!(found.ticks, ticks);
                series.push(found.clone());
                Ok::<(), ()>(())
            })
            .unwrap();
            if from.is_none() {
                return (series, readings);
            }
        }
    }

    proptest! {
        /// Changes add up to what a builder of whole ticks makes, however little memory there is.
        #[test]
        fn series_are_those_of_the_ticks(ticks in any_ticks()) {
            let mut encoder = HeadEncoder::default();
            let mut decoder = HeadDecoder::default();
            let mut builder = ChunkBuilder::default();
            let mut payloads = Vec::new();
            for (at_usec, (frame, samples)) in (0..).zip(&ticks) {
                let payload = encoder.encode(samples, *frame).unwrap().payload;
                for (key, values) in decoder.apply(&payload).unwrap().iter() {
                    builder.push(at_usec, key, values);
                }
                payloads.push(payload);
            }
            let expect = builder.finish();
            for bytes_max in [usize::MAX, 4 * CGROUP_BYTES, 0] {
                let (found, readings) = read(&payloads, bytes_max);
                prop_assert_eq!(&found, &expect);
                match bytes_max {
                    usize::MAX => prop_assert_eq!(readings, 1),
                    // Without any, one cgroup at a time.
                    0 => prop_assert_eq!(readings, expect.len().max(1)),
                    _ => {}
                }
            }
        }
    }
}
