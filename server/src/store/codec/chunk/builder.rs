//! Series out of ticks: rows are appended as they come and turned into columns at the end.

use cgfleet_model::{Metric, MetricSet};

use super::{
    super::{CgroupKey, MetricValues},
    ChunkColumn, ChunkSeries,
};

/// Gathers the ticks of one host's window. Costs 8 bytes a value until it is finished.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    /// Ascending by key.
    series: Vec<(CgroupKey, Rows)>,
    /// Behind the series that was pushed to last: the cgroups of a tick come in their order.
    next: usize,
}

/// A series as it is gathered.
#[derive(Debug, Default)]
struct Rows {
    ticks: Vec<i64>,
    /// Which metrics there are, from which tick on.
    stretches: Vec<(usize, MetricSet)>,
    /// Of each tick those that are present.
    values: Vec<u64>,
}

impl ChunkBuilder {
    /// Adds what was measured of a cgroup at a tick, later than all that were pushed of it. The ticks of
    /// several cgroups may come in any order; quickest is tick by tick, each ascending by key.
    pub fn push(&mut self, tick_us: i64, key: CgroupKey, values: &MetricValues) {
        let is_next = |at: usize| self.series.get(at).is_some_and(|(found, _)| *found == key);
        let at = [self.next, 0].into_iter().find(|at| is_next(*at)).unwrap_or_else(|| {
            self.series.binary_search_by_key(&key, |(found, _)| *found).unwrap_or_else(|at| {
                self.series.insert(at, (key, Rows::default()));
                at
            })
        });
        self.next = at + 1;
        self.series[at].1.push(tick_us, values);
    }

    /// How many cgroups there are so far.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The series, ascending by key, each made when it is taken.
    pub fn into_series(self) -> impl Iterator<Item = ChunkSeries> {
        self.series.into_iter().map(|(key, rows)| rows.into_series(key))
    }

    /// All series at once, ascending by key.
    pub fn finish(self) -> Vec<ChunkSeries> {
        self.into_series().collect()
    }
}

impl Rows {
    fn push(&mut self, tick_us: i64, values: &MetricValues) {
        if self.stretches.last().is_none_or(|(_, metrics)| *metrics != values.present) {
            self.stretches.push((self.ticks.len(), values.present));
        }
        self.ticks.push(tick_us);
        self.values.extend_from_slice(&values.values);
    }

    fn into_series(self, key: CgroupKey) -> ChunkSeries {
        let metrics =
            self.stretches.iter().fold(MetricSet::default(), |all, (_, metrics)| all.union(*metrics));
        let columns =
            metrics.iter().map(|metric| ChunkColumn { metric, values: self.column(metric) }).collect();
        ChunkSeries { key, ticks: self.ticks, columns }
    }

    fn column(&self, metric: Metric) -> Vec<Option<u64>> {
        let mut column = Vec::with_capacity(self.ticks.len());
        let mut values = self.values.as_slice();
        let ends = self.stretches.iter().skip(1).map(|(from, _)| *from).chain([self.ticks.len()]);
        for ((from, metrics), end) in self.stretches.iter().zip(ends) {
            let (of_stretch, rest) = values.split_at((end - from) * metrics.len());
            if metrics.contains(metric) {
                let rows = of_stretch.iter().skip(metrics.rank(metric)).step_by(metrics.len());
                column.extend(rows.copied().map(Some));
            } else {
                column.resize(end, None);
            }
            values = rest;
        }
        column
    }
}
