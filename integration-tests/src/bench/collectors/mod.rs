//! Scenario `collectors`: what each event costs that a collector counts, and what it costs to flush and
//! to read the sums of cgroups in which something was counted.

mod dirty;
mod programs;
mod scene;
mod switched;
pub(super) mod workload;

use anyhow::{Result, ensure};
use cgfleet_model::Collector;

use super::{Bench, Figure, Row, interleaved::Interleaved};
use crate::daemon::Start;
use dirty::Dirty;
use programs::Programs;
use scene::Scene;
use switched::Switched;
use workload::{Took, Workload};

/// How often each workload does its work in a turn, and in how many rounds.
struct Effort {
    collector: Collector,
    /// What is done once.
    act: &'static str,
    repeats: u32,
    rounds: usize,
    /// Which time tells what it costs. Requests are completed while nothing runs.
    time: fn(&Took) -> f64,
}

const ON_CPU: fn(&Took) -> f64 = |took| took.on_cpu_ns;
const WALL: fn(&Took) -> f64 = |took| took.wall_ns;

const EFFORTS: [Effort; 4] = [
    Effort { collector: Collector::Attach, act: "move", repeats: 2_000, rounds: 61, time: ON_CPU },
    Effort { collector: Collector::Reclaim, act: "reclaim", repeats: 100, rounds: 61, time: ON_CPU },
    Effort { collector: Collector::Runqueue, act: "switch", repeats: 20_000, rounds: 61, time: ON_CPU },
    Effort { collector: Collector::BlockIo, act: "4 KiB read", repeats: 500, rounds: 61, time: WALL },
];
/// A guest is emulated, and slow.
const GUEST_DIVISOR: u32 = 4;
const GUEST_ROUNDS: usize = 15;

/// Percent of a core that 100,000 switches a second take, of nanoseconds that one takes.
const PERCENT_OF_NS: f64 = 100.0 * 100_000.0 / 1e9;

const DIRTY: Dirty = Dirty { cgroups: 10_000, counts: &[0, 100, 1_000, 10_000], rounds: 15 };
const GUEST_DIRTY: Dirty = Dirty { cgroups: 1_000, counts: &[0, 10, 100, 1_000], rounds: 5 };

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for effort in &EFFORTS {
        let (of_events, event) = events(bench, effort)?;
        rows.extend(of_events);
        if effort.collector == Collector::Runqueue {
            rows.push(
                event.times(PERCENT_OF_NS, "runqueue: 100000 switches/s".to_owned(), "% of a core").row(),
            );
        }
    }
    rows.extend(DIRTY.measure(bench)?);
    Ok(rows)
}

pub(super) fn run_in_guest(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for effort in &EFFORTS {
        let repeats = effort.repeats.div_ceil(GUEST_DIVISOR);
        rows.extend(events(bench, &Effort { repeats, rounds: GUEST_ROUNDS, ..*effort })?.0);
    }
    rows.extend(GUEST_DIRTY.measure(bench)?);
    Ok(rows)
}

/// The same workload with the collector off and on in each round: its rows, and what an event costs.
fn events(bench: &Bench, effort: &Effort) -> Result<(Vec<Row>, Figure)> {
    let Effort { collector, act, repeats, rounds, time } = *effort;
    let mut scene = Scene::of(collector, repeats)?;
    let agent = bench.block_on(agent()?.start())?;
    let mut switched = Switched::new(bench, &agent, collector)?;
    let events = calibrate(&mut switched, &mut scene)?;
    println!("{collector}: {events} events in a turn");

    let mut interleaved = Interleaved::of(collector.name());
    let names = [format!("{act}, off"), format!("{act}, on"), "an event".to_owned()];
    let [off, on, event] = names.each_ref().map(String::as_str);
    let mut on_first = false;
    interleaved.add_several(&[(off, "ns"), (on, "ns"), (event, "ns")], || {
        on_first = !on_first;
        let mut turn = |is_on| {
            switched.set(is_on)?;
            anyhow::Ok(time(&scene.workload.work()?) / f64::from(events))
        };
        let first = turn(on_first)?;
        let second = turn(!on_first)?;
        let (off, on) = if on_first { (second, first) } else { (first, second) };
        Ok(vec![off, on, on - off])
    });
    let figures = interleaved.run(bench, rounds)?;
    let (off, event) = (figures.get(off)?, figures.get(event)?);
    let mut rows = vec![off.row(), figures.get(on)?.row_against(off), event.row()];
    switched.set(true)?;
    rows.extend(runs(bench, effort, &mut scene.workload, &Programs::of(&agent), events)?);
    Ok((rows, event.clone()))
}

/// Runs of the collector's programs, as the kernel measures them.
fn runs(
    bench: &Bench,
    effort: &Effort,
    workload: &mut Workload,
    programs: &Programs,
    events: u32,
) -> Result<Vec<Row>> {
    let measured = bench.rounds(effort.rounds, || programs.during(|| workload.work().map(drop)))?;
    // What runs now and then, such as for a cgroup that is freed, is no part of an event.
    let is_part =
        |name: &&String| measured.iter().all(|runs| runs[*name].count >= u64::from(events / 2).max(1));
    let names: Vec<&String> =
        measured.first().map(|runs| runs.keys().filter(is_part).collect()).unwrap_or_default();
    ensure!(!names.is_empty(), "no program of {} ran for its events", effort.collector);
    let row = |name: &String| {
        let values = measured.iter().map(|runs| runs[name].ns_each()).collect::<Result<_>>()?;
        Ok(Figure::new(format!("{}: a run of {name}", effort.collector), "ns", values).row())
    };
    names.into_iter().map(row).collect()
}

/// How many events the workload has in a turn, and that none is counted while the collector is off.
fn calibrate(switched: &mut Switched<'_>, scene: &mut Scene) -> Result<u32> {
    let mut counted = |is_on| {
        switched.set(is_on)?;
        let before = switched.count(&scene.target)?;
        scene.workload.work()?;
        anyhow::Ok(switched.count(&scene.target)? - before)
    };
    let on = counted(true)?;
    let off = counted(false)?;
    ensure!(on > 0 && off == 0, "{on} events with the collector on, {off} with it off");
    Ok(u32::try_from(on)?)
}

/// An agent with no collector on, that logs little.
fn agent() -> Result<Start> {
    Ok(Start::agent()?
        .flag("--bpf", "require")
        .flag("--collectors", "")
        .flag("--log", "info")
        .flushing_freely())
}
