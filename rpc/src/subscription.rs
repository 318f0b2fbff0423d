//! Subscriptions to what changes, parsed as far as agents and servers agree on them.

use std::time::Duration;

use cgfleet_model::{MetricSet, WorkloadFilter};
use cgfleet_proto::{
    metrics_of_read_mask,
    v1::{CounterForm, SubscribeSpec, TickPosition},
};
use uuid::Uuid;

use crate::{duration, wire_error::WireError, workload};

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_hours(1);

const FORMS: &str = "COUNTER_FORM_UNSPECIFIED (0), COUNTER_FORM_CUMULATIVE (1), COUNTER_FORM_DELTA (2), \
                     COUNTER_FORM_RATE (3)";

/// What every host is asked for alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// 100 ms to 1 h, in whole milliseconds; `None` leaves it to the agent, which may allow less.
    pub interval: Option<Duration>,
    /// What is told of each cgroup.
    pub metrics: MetricSet,
    /// In what cgroups; `None` for all.
    pub workload: Option<WorkloadFilter>,
    /// Never unspecified.
    pub counters: CounterForm,
    /// 0 to 1; 0 with deltas.
    pub dead_band: f64,
    /// The tick to begin with, of this agent process; with `every_tick` alone, and without a token.
    pub start: Option<(Uuid, u64)>,
}

/// Parses all of a specification but where its target is and what its token means.
pub fn parse(spec: &SubscribeSpec) -> Result<Subscription, WireError> {
    let interval = spec.interval.map(|interval| parse_interval(Some(interval))).transpose()?;
    if let Some(target) = spec.target.as_ref().filter(|target| !target.hierarchy.is_empty()) {
        let of_v2 = "empty: subscriptions are to cgroup v2";
        return Err(WireError::invalid_field("spec.target.hierarchy", &target.hierarchy, of_v2));
    }
    let counters = match CounterForm::try_from(spec.counters) {
        Ok(CounterForm::Unspecified) => CounterForm::Cumulative,
        Ok(counters) => counters,
        Err(_) => return Err(WireError::invalid_field("spec.counters", spec.counters, FORMS)),
    };
    let refused = |allowed| Err(WireError::invalid_field("spec.dead_band", spec.dead_band, allowed));
    match counters {
        _ if !(0.0..=1.0).contains(&spec.dead_band) => return refused("0 to 1"),
        CounterForm::Delta if spec.dead_band > 0.0 => {
            return refused("0 with COUNTER_FORM_DELTA, or another form");
        }
        _ => {}
    }
    Ok(Subscription {
        interval,
        metrics: metrics_of_read_mask(spec.read_mask.as_ref())?,
        workload: workload::filter("spec.workload", spec.workload.as_ref())?,
        counters,
        dead_band: spec.dead_band,
        start: start(spec)?,
    })
}

fn start(spec: &SubscribeSpec) -> Result<Option<(Uuid, u64)>, WireError> {
    let Some(TickPosition { agent_epoch, sequence }) = &spec.start else { return Ok(None) };
    let refused =
        |allowed| Err(WireError::invalid_field("spec.start", format!("{agent_epoch}/{sequence}"), allowed));
    if !spec.every_tick {
        return refused("unset without every_tick");
    }
    if !spec.resume_token.is_empty() {
        return refused("unset with resume_token, which says where to go on");
    }
    match Uuid::parse_str(agent_epoch) {
        Ok(agent_epoch) => Ok(Some((agent_epoch, *sequence))),
        Err(_) => refused("a uuid as agent_epoch, and a sequence"),
    }
}

fn parse_interval(asked: Option<prost_types::Duration>) -> Result<Duration, WireError> {
    let interval = duration::from_zero("spec.interval", asked)?;
    let is_whole = interval.subsec_nanos().is_multiple_of(1_000_000);
    if is_whole && (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        return Ok(interval);
    }
    let allowed = "100ms to 1h, in whole milliseconds, and what each agent allows";
    Err(WireError::invalid_field("spec.interval", format!("{interval:?}"), allowed))
}
