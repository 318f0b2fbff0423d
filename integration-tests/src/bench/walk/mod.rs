//! Scenario `walk`: walks by a real agent, over gRPC, against the kernel's own iterator and against
//! readers of the same cgroups' cpu.stat files; of cgroups that are idle, and of cgroups that are all
//! dirty.

mod guest;

use std::{cell::RefCell, time::Duration};

use anyhow::{Result, ensure};
use cgfleet_proto::v1::WalkEngine;

pub(super) use guest::run as run_in_guest;

use super::{
    Bench, Row,
    client::{Answer, CPU, Client},
    dirtier::Dirtier,
    files::{CPU_STAT, CgroupFiles, Found},
    interleaved::{Figures, Interleaved},
    noop::{NOOP, add_noop},
    timed,
    trees::{Grown, Shape},
};
use crate::daemon::{Daemon, Start};

/// Of an unlocked walk, flush included, to pread on kept descriptors.
const IDLE_REACH: f64 = 1.0 / 10.0;
const DIRTY_REACH: f64 = 1.0 / 3.0;
/// Of an unlocked walk, without the flush, to the iterator that does nothing.
const NOOP_REACH: f64 = 1.1;
/// Of the whole gRPC round trip to open, read and close.
const ROUND_TRIP_REACH: f64 = 1.0;

const SHAPES: [Shape; 3] = [
    Shape { name: "chain of 60", below_top: 60, is_chain: true, rounds: 501 },
    Shape { name: "10000 flat", below_top: 10_000, is_chain: false, rounds: 31 },
    Shape { name: "50000 flat", below_top: 50_000, is_chain: false, rounds: 11 },
];
/// To make all cgroups dirty takes as long as ten walks, and is done before each turn.
const DIRTY_ROUNDS: [usize; 3] = [101, 11, 5];

pub(super) const PER_CGROUP: &str = "ns/cgroup";
const PREAD_KEPT: &str = "pread on kept fds";
const OPEN_READ_CLOSE: &str = "open+read+close";
const READDIR_WALK: &str = "readdir walk";

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (shape, dirty_rounds) in SHAPES.iter().zip(DIRTY_ROUNDS) {
        let (grown, made_in) = timed(|| shape.grow());
        let grown = grown?;
        let (measured, measured_in) = timed(|| measure(bench, shape, &grown, dirty_rounds));
        rows.extend(measured?);
        let ((), removed_in) = timed(|| drop(grown));
        println!(
            "{}: made in {made_in:.1?}, measured in {measured_in:.1?}, removed in {removed_in:.1?}",
            shape.name
        );
    }
    Ok(rows)
}

fn measure(bench: &Bench, shape: &Shape, grown: &Grown, dirty_rounds: usize) -> Result<Vec<Row>> {
    let mut files = CgroupFiles::of(grown.tree.directory(""), &grown.directories, &[CPU_STAT])?;
    files.keep_open(usize::MAX)?;
    // An agent for each tree: none knows names of another's.
    let agent = bench.block_on(Start::agent()?.flushing_freely().start())?;

    let mut idle = Interleaved::of(shape.name);
    add_noop(&mut idle, shape, grown)?;
    add_walks(&mut idle, bench, shape, grown, &agent)?;
    add_reader(&mut idle, PREAD_KEPT, files.kept_cgroups()?, || files.pread_kept());
    add_reader(&mut idle, OPEN_READ_CLOSE, shape.cgroups(), || files.open_read_close(1));
    add_reader(&mut idle, READDIR_WALK, shape.cgroups(), || files.readdir_walk());
    let idle = idle.run(bench, shape.rounds)?;
    let mut rows = idle_rows(&idle)?;

    let dirtier = RefCell::new(Dirtier::start(grown)?);
    let mut dirty = Interleaved::of(format!("{}, all dirty", shape.name));
    dirty.before_each(|| dirtier.borrow_mut().pass_through());
    add_walks(&mut dirty, bench, shape, grown, &agent)?;
    add_reader(&mut dirty, PREAD_KEPT, files.kept_cgroups()?, || files.pread_kept());
    add_reader(&mut dirty, OPEN_READ_CLOSE, shape.cgroups(), || files.open_read_close(1));
    rows.extend(dirty_rows(&dirty.run(bench, dirty_rounds)?)?);
    Ok(rows)
}

/// A walk for the cpu group by either engine.
fn add_walks<'a>(
    to: &mut Interleaved<'a>,
    bench: &'a Bench,
    shape: &Shape,
    grown: &Grown,
    agent: &Daemon,
) -> Result<()> {
    for (name, engine) in [("unlocked walk", WalkEngine::Unlocked), ("locked walk", WalkEngine::Locked)] {
        let client = bench.block_on(async { agent.agent() })?;
        let client = Client::new(client, grown.tree.path(""), shape.cgroups(), engine, &[CPU]);
        add_walk(to, bench, name, client, shape.cgroups());
    }
    Ok(())
}

/// A reader of one file of each of so many cgroups.
fn add_reader<'a>(
    to: &mut Interleaved<'a>,
    name: &'static str,
    cgroups: u32,
    read: impl Fn() -> Result<Found> + 'a,
) {
    to.add(name, PER_CGROUP, move || {
        let (found, took) = timed(&read);
        let found = found?;
        ensure!(found.files == cgroups, "{name} found {found:?}, not {cgroups} files");
        Ok(per_cgroup_ns(took, cgroups))
    });
}

/// Adds what a walk tells of itself, and what its client sees.
fn add_walk<'a>(to: &mut Interleaved<'a>, bench: &'a Bench, name: &str, mut client: Client, cgroups: u32) {
    let figures = [
        (name.to_owned(), PER_CGROUP),
        (format!("{name} with flush"), PER_CGROUP),
        (format!("{name}, gRPC round trip"), PER_CGROUP),
        (format!("{name}, longest slice, peak"), "us"),
        (format!("{name}, cgroup_mutex held, peak"), "us"),
    ];
    let figures = figures.each_ref().map(|(name, unit)| (name.as_str(), *unit));
    to.add_several(&figures, move || {
        let Answer { summary, round_trip } = bench.block_on(client.walk())?;
        let per_cgroup = |ns| per_cgroup_ns(Duration::from_nanos(ns), cgroups);
        let us = |ns| Duration::from_nanos(ns).as_secs_f64() * 1e6;
        Ok(vec![
            per_cgroup(summary.walk_ns),
            // With what was read from files besides: of a walk of all groups, memory.stat may be.
            per_cgroup(summary.flush_ns + summary.walk_ns + summary.files_ns),
            per_cgroup_ns(round_trip, cgroups),
            us(summary.unbroken_ns_max()),
            us(summary.cgroup_mutex_held_ns_max),
        ])
    });
}

pub(super) fn per_cgroup_ns(took: Duration, cgroups: u32) -> f64 {
    took.as_secs_f64() * 1e9 / f64::from(cgroups)
}

fn idle_rows(figures: &Figures) -> Result<Vec<Row>> {
    let get = |name| figures.get(name);
    let (noop, pread_kept) = (get(NOOP)?, get(PREAD_KEPT)?);
    Ok(vec![
        noop.row(),
        get("unlocked walk")?.row_against(noop).reach(NOOP_REACH),
        get("locked walk")?.row_against(noop),
        get("unlocked walk with flush")?.row_against(pread_kept).reach(IDLE_REACH),
        get("locked walk with flush")?.row_against(pread_kept),
        get("unlocked walk, gRPC round trip")?.row_against(get(OPEN_READ_CLOSE)?).reach(ROUND_TRIP_REACH),
        get("unlocked walk, longest slice, peak")?.row_of_peak(),
        get("unlocked walk, cgroup_mutex held, peak")?.row_of_peak(),
        get("locked walk, cgroup_mutex held, peak")?.row_of_peak(),
        pread_kept.row(),
        get(OPEN_READ_CLOSE)?.row(),
        get(READDIR_WALK)?.row(),
    ])
}

fn dirty_rows(figures: &Figures) -> Result<Vec<Row>> {
    let get = |name| figures.get(name);
    let pread_kept = get(PREAD_KEPT)?;
    Ok(vec![
        get("unlocked walk with flush")?.row_against(pread_kept).reach(DIRTY_REACH),
        get("locked walk with flush")?.row_against(pread_kept),
        get("unlocked walk")?.row(),
        pread_kept.row(),
        get(OPEN_READ_CLOSE)?.row(),
    ])
}
