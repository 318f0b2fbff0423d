//! From what an answer may be read.

use super::{Measure, Steps};

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
/// have what the aggregations are made of.
pub fn coarsest(measures: &[Measure], steps: Steps, has: impl Fn(Tier, Measure) -> bool) -> Tier {
    let length = steps.length().unwrap_or(steps.until() - steps.since());
    let is_made_of = |unit| [steps.since(), steps.until(), length].iter().all(|at| at % unit == 0);
    let has_all = |tier| measures.iter().all(|measure| has(tier, *measure));
    [(Tier::Hours, HOUR), (Tier::Minutes, MINUTE)]
        .into_iter()
        .find(|(tier, unit)| is_made_of(*unit) && has_all(*tier))
        .map_or(Tier::Ticks, |(tier, _)| tier)
}
