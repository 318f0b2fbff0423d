//! Series out of stored values: steps, aggregation, growth of counters and their resets, groups, top N. Pure.
//!
//! Must not know: where values are stored or in what form, messages, what time it is.

mod group;
mod host;
mod series;
mod steps;
#[cfg(test)]
mod tests;
mod tiers;

pub use self::{
    group::{Cgroup, GroupBy, Grouping, Member, SeriesKey},
    host::{HostCgroup, HostSeries, LOOKBACK, Minute},
    series::{Answer, FoundSeries, Point, SeriesSet, TooMany},
    steps::Steps,
    tiers::{Tier, coarsest},
};

use cgfleet_model::{Metric, MetricKind};

/// What is computed of a metric's values in a step; `cgfleet.v1.HistoryAggregation` says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aggregation {
    /// The last value.
    Last,
    /// The mean of a gauge's values.
    Mean,
    /// The largest value, or rate between two ticks.
    Max,
    /// The smallest.
    Min,
    /// The sum of values, or of growth.
    Sum,
    /// Growth per second.
    Rate,
    /// A percentile by nearest rank.
    Percentile(u8),
}

/// A metric, and what is computed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Measure {
    /// The metric.
    pub metric: Metric,
    /// What of it.
    pub aggregation: Aggregation,
}

impl Measure {
    /// What is computed of a metric; `None` if that makes no sense. `None` asked for is what suits the metric.
    pub fn of(metric: Metric, asked: Option<Aggregation>) -> Option<Self> {
        let kind = metric.info().kind;
        let aggregation = match (asked, kind) {
            (None | Some(Aggregation::Mean | Aggregation::Rate), MetricKind::Counter) => Aggregation::Rate,
            (None, MetricKind::Gauge) => Aggregation::Mean,
            (None, MetricKind::Limit) => Aggregation::Last,
            (Some(Aggregation::Rate), MetricKind::Gauge | MetricKind::Limit) => return None,
            (Some(asked), _) => asked,
        };
        Some(Self { metric, aggregation })
    }

    /// Whether it is computed of a counter's growth, and so of pairs of values.
    pub fn is_of_growth(self) -> bool {
        self.metric.info().kind == MetricKind::Counter && self.aggregation != Aggregation::Last
    }

    /// The unit of its values.
    pub fn unit(self) -> String {
        let unit = self.metric.info().unit;
        if self.is_of_growth() && self.aggregation != Aggregation::Sum {
            format!("{unit}/s")
        } else {
            unit.to_owned()
        }
    }
}
