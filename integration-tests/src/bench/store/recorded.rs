//! A recorded stream of this host: a real agent's ticks, a second apart, with cgroups that are busy.
//!
//! They are made ticks of ten seconds without inventing a value. Every tenth tick of the recording is such a series, and so
//! is every tenth from the second on, and so forth: ten series, which share no tick. They are put one behind the other,
//! and where one begins its counters go on from where those of the one before ended: what is added from tick to tick
//! is what this host did in ten seconds.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use cgfleet_model::{Metric, MetricKind, MetricSet};
use cgfleet_proto::v1::{CgroupSample, SubscribeRequest, subscribe_response::Event};

use crate::{
    bench::{Bench, trees::Shape},
    daemon::Start,
};

const SHAPE: Shape = Shape { name: "recorded", below_top: 100, is_chain: false, rounds: 1 };
/// Of which so many burn, and so many only have a process.
const BUSY: u32 = 6;
const RESTING: u32 = 30;
/// Ticks of the recording from one tick to the next.
const APART: usize = 10;

/// Records so many seconds.
pub(super) fn record(bench: &Bench, seconds: usize) -> Result<Vec<Vec<CgroupSample>>> {
    let mut grown = SHAPE.grow()?;
    for number in 0..BUSY {
        grown.tree.work_in(&format!("c{number}"))?;
    }
    for number in BUSY..BUSY + RESTING {
        grown.tree.rest_in(&format!("c{number}"))?;
    }
    let agent =
        bench.block_on(Start::agent()?.flag("--sample-interval", "1s").flag("--log", "info").start())?;
    let subscribed =
        async { anyhow::Ok(agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner()) };
    let mut stream = bench.block_on(subscribed)?;
    let (mut ticks, mut tick) = (Vec::new(), Vec::new());
    while ticks.len() < seconds {
        bench.pause(std::time::Duration::ZERO)?;
        let message = bench.block_on(stream.message())?.context("the ticks ended")?;
        match message.event.context("an empty message")? {
            Event::Header(_) => tick = Vec::new(),
            Event::Batch(batch) => tick.extend(batch.samples),
            Event::Summary(_) => ticks.push(std::mem::take(&mut tick)),
            Event::Change(change) => bail!("a change in a stream of whole ticks: {change:?}"),
        }
    }
    Ok(ticks)
}

/// Ticks of ten seconds.
pub(super) fn stretched(recorded: &[Vec<CgroupSample>]) -> Vec<Vec<CgroupSample>> {
    let mut stretched: Vec<Vec<CgroupSample>> = Vec::with_capacity(recorded.len());
    let mut shown: HashMap<(u64, Metric), u64> = HashMap::new();
    for phase in 0..APART {
        let mut offsets: HashMap<(u64, Metric), u64> = HashMap::new();
        for tick in recorded.iter().skip(phase).step_by(APART) {
            let mut tick = tick.clone();
            for sample in &mut tick {
                for metric in counters() {
                    let Some(value) = sample.metric(metric) else { continue };
                    let key = (sample.cgroup_id, metric);
                    let before = shown.get(&key).copied().unwrap_or(value);
                    let offset = *offsets.entry(key).or_insert_with(|| before.wrapping_sub(value));
                    let value = value.wrapping_add(offset);
                    shown.insert(key, value);
                    sample.set_metric(metric, Some(value));
                }
            }
            stretched.push(tick);
        }
    }
    stretched
}

fn counters() -> impl Iterator<Item = Metric> {
    MetricSet::all().iter().filter(|metric| metric.info().kind == MetricKind::Counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_where_the_series_before_ended() {
        let tick = |usage| {
            let mut sample = CgroupSample { cgroup_id: 1, ..CgroupSample::default() };
            sample.set_metric(Metric::CpuUsage, Some(usage));
            sample.set_metric(Metric::PidsCurrent, Some(usage));
            vec![sample]
        };
        let recorded: Vec<_> = (0..20).map(|second| tick(100 + second)).collect();
        let stretched = stretched(&recorded);
        let values =
            |metric| stretched.iter().map(|tick| tick[0].metric(metric).unwrap()).collect::<Vec<_>>();
        let expect: Vec<u64> = (0..10).flat_map(|phase| [100 + phase * 10, 110 + phase * 10]).collect();
        assert_eq!(values(Metric::CpuUsage), expect);
        let expect: Vec<u64> = (0..10).flat_map(|phase| [100 + phase, 110 + phase]).collect();
        assert_eq!(values(Metric::PidsCurrent), expect);
    }
}
