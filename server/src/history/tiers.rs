//! From what an answer may be read.

use cgfleet_model::MetricKind;

use super::{Aggregation, Measure, Steps};

/// What is stored, the finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Ticks, or ticks by cgroup: all that was measured.
    Ticks,
    /// Minutes of the main metrics.
    Minutes,
    /// Hours of the main metrics.
    Hours,
}

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// The coarsest tier that can answer for all of these: whole minutes or hours make up each step, and the rollups
/// have what the aggregations need. `is_rolled_up` says of which metrics there are rollups.
pub fn coarsest(measures: &[Measure], steps: Steps, is_rolled_up: impl Fn(Measure) -> bool) -> Tier {
    if !measures.iter().all(|measure| has_parts(*measure) && is_rolled_up(*measure)) {
        return Tier::Ticks;
    }
    let is_whole = |unit| {
        let length = steps.length().unwrap_or(steps.until() - steps.since());
        [steps.since(), steps.until(), length].iter().all(|at| at % unit == 0)
    };
    match (is_whole(HOUR), is_whole(MINUTE)) {
        (true, _) => Tier::Hours,
        (false, true) => Tier::Minutes,
        (false, false) => Tier::Ticks,
    }
}

/// Whether an aggregate of a step can be made of those of its parts, as rollups have them.
fn has_parts(measure: Measure) -> bool {
    match (measure.aggregation, measure.metric.info().kind) {
        (Aggregation::Last, _)
        | (Aggregation::Rate | Aggregation::Sum, MetricKind::Counter)
        | (Aggregation::Mean | Aggregation::Max, MetricKind::Gauge | MetricKind::Limit) => true,
        (Aggregation::Min | Aggregation::Percentile(_), _)
        | (Aggregation::Max | Aggregation::Mean, MetricKind::Counter)
        | (Aggregation::Sum | Aggregation::Rate, MetricKind::Gauge | MetricKind::Limit) => false,
    }
}
