//! Scenario `walk`: a walk by a real agent, over gRPC, of cgroups that are all idle, against readers of
//! the same cgroups' cpu.stat files.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    CgroupOrder, WalkEnd, WalkEngine, WalkRequest, WalkSpec, WalkSummary,
    agent_service_client::AgentServiceClient, walk_response::Event,
};
use cgfleet_rpc::channel::Channel;
use prost_types::FieldMask;

use super::{
    Bench, Figure, Row,
    cpu_stat::{CpuStatFiles, Found},
    timed,
};
use crate::{
    cgroups::TestTree,
    daemon::Start,
    walk::{by_path, spec},
};

/// Of a walk by either engine, flush included, to pread on kept descriptors.
const WALK_REACH: f64 = 1.0 / 3.0;
/// Of the whole gRPC round trip to open, read and close.
const ROUND_TRIP_REACH: f64 = 1.0;

/// A tree to walk. Its own top is one cgroup more.
struct Shape {
    name: &'static str,
    below_top: u32,
    is_chain: bool,
    rounds: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "chain of 60", below_top: 60, is_chain: true, rounds: 501 },
    Shape { name: "10000 flat", below_top: 10_000, is_chain: false, rounds: 31 },
    Shape { name: "50000 flat", below_top: 50_000, is_chain: false, rounds: 11 },
];

/// What one round measured.
struct Round {
    unlocked_walk_ns: f64,
    locked_walk_ns: f64,
    /// Of the unlocked walk.
    round_trip_ns: f64,
    pread_kept_ns: f64,
    open_read_close_ns: f64,
    readdir_walk_ns: f64,
    unlocked_mutex_held_us: f64,
    locked_mutex_held_us: f64,
    slice_us: f64,
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for shape in &SHAPES {
        let (made, made_in) = timed(|| shape.make());
        let (tree, directories) = made?;
        let (measured, measured_in) = timed(|| measure(bench, shape, &tree, &directories));
        rows.extend(measured?);
        let ((), removed_in) = timed(|| drop(tree));
        println!(
            "{}: made in {made_in:.1?}, {} rounds in {measured_in:.1?}, removed in {removed_in:.1?}",
            shape.name, shape.rounds
        );
    }
    Ok(rows)
}

impl Shape {
    fn make(&self) -> Result<(TestTree, Vec<PathBuf>)> {
        let tree = TestTree::v2()?;
        let mut directories = vec![tree.directory("")];
        let mut below = String::new();
        for number in 0..self.below_top {
            below = if self.is_chain && number > 0 { format!("{below}/c") } else { format!("c{number}") };
            tree.make(&below)?;
            directories.push(tree.directory(&below));
        }
        Ok((tree, directories))
    }

    fn cgroups(&self) -> u32 {
        self.below_top + 1
    }
}

fn per_cgroup_ns(took: Duration, cgroups: u32) -> f64 {
    took.as_secs_f64() * 1e9 / f64::from(cgroups)
}

fn measure(bench: &Bench, shape: &Shape, tree: &TestTree, directories: &[PathBuf]) -> Result<[Row; 9]> {
    let files = CpuStatFiles::open(tree.directory(""), directories)?;
    // An agent for each tree: none knows names of another's.
    let agent = bench.block_on(Start::agent()?.start())?;
    let mut client = bench.block_on(async { agent.agent() })?;
    let mut cpu_group = spec(by_path(tree.path("")), CgroupOrder::DescendantsPre);
    cpu_group.read_mask = Some(FieldMask { paths: vec!["cpu".to_owned()] });
    let read = |reader: fn(&CpuStatFiles) -> Result<Found>, cgroups: u32| {
        let (found, took) = timed(|| reader(&files));
        let found = found?;
        ensure!(found.cgroups == cgroups, "a reader found {found:?}, not {cgroups} cgroups");
        Ok(per_cgroup_ns(took, cgroups))
    };
    let (cgroups, kept_fds) = (shape.cgroups(), files.kept_count()?);
    let in_kernel_ns = |summary: &WalkSummary| {
        per_cgroup_ns(Duration::from_nanos(summary.flush_ns + summary.walk_ns), cgroups)
    };
    let us = |ns| Duration::from_nanos(ns).as_secs_f64() * 1e6;
    let rounds = bench.rounds(shape.rounds, || {
        let mut by = |engine: WalkEngine| {
            let spec = WalkSpec { engine: engine.into(), ..cpu_group.clone() };
            let (summary, round_trip) = timed(|| bench.block_on(walk(&mut client, spec, cgroups)));
            summary.map(|summary| (summary, round_trip))
        };
        let (locked, _) = by(WalkEngine::Locked)?;
        let (unlocked, round_trip) = by(WalkEngine::Unlocked)?;
        Ok(Round {
            unlocked_walk_ns: in_kernel_ns(&unlocked),
            locked_walk_ns: in_kernel_ns(&locked),
            round_trip_ns: per_cgroup_ns(round_trip, cgroups),
            pread_kept_ns: read(CpuStatFiles::pread_kept, kept_fds)?,
            open_read_close_ns: read(CpuStatFiles::open_read_close, cgroups)?,
            readdir_walk_ns: read(CpuStatFiles::readdir_walk, cgroups)?,
            unlocked_mutex_held_us: us(unlocked.cgroup_mutex_held_ns_max),
            locked_mutex_held_us: us(locked.cgroup_mutex_held_ns_max),
            slice_us: us(unlocked.unbroken_ns_max()),
        })
    })?;
    Ok(to_rows(shape, kept_fds, &rounds))
}

/// Walks on a connection that stays open, decodes every row and lets it go.
async fn walk(client: &mut AgentServiceClient<Channel>, spec: WalkSpec, cgroups: u32) -> Result<WalkSummary> {
    let engine = spec.engine();
    let mut stream = client.walk(WalkRequest { spec: Some(spec) }).await?.into_inner();
    let (mut rows_with_cpu, mut summary) = (0, None);
    while let Some(response) = stream.message().await? {
        match response.event.context("an empty part")? {
            Event::Header(_) => {}
            Event::Batch(batch) => {
                rows_with_cpu += batch.samples.iter().filter(|sample| sample.cpu.is_some()).count();
            }
            Event::Summary(part) => summary = Some(part),
        }
    }
    let summary = summary.context("no summary")?;
    ensure!(
        summary.end() == WalkEnd::Complete
            && summary.engine() == engine
            && summary.flushed_cgroup_id != 0
            && rows_with_cpu == cgroups as usize,
        "not the whole walk of {cgroups} cgroups: {rows_with_cpu} rows with cpu, {summary:?}"
    );
    Ok(summary)
}

fn to_rows(shape: &Shape, kept_fds: u32, rounds: &[Round]) -> [Row; 9] {
    let pread_name = format!("pread on {kept_fds} kept fds");
    let figure = |name: &str, unit, value: fn(&Round) -> f64| {
        Figure::new(format!("{}: {name}", shape.name), unit, rounds.iter().map(value).collect())
    };
    let per_cgroup = |name, value| figure(name, "ns/cgroup", value);
    let unlocked_walk = per_cgroup("unlocked walk with flush", |round| round.unlocked_walk_ns);
    let locked_walk = per_cgroup("locked walk with flush", |round| round.locked_walk_ns);
    let round_trip = per_cgroup("unlocked, gRPC round trip", |round| round.round_trip_ns);
    let pread_kept = per_cgroup(&pread_name, |round| round.pread_kept_ns);
    let open_read_close = per_cgroup("open+read+close", |round| round.open_read_close_ns);
    let readdir_walk = per_cgroup("readdir walk", |round| round.readdir_walk_ns);
    [
        unlocked_walk.row_against(&pread_kept, WALK_REACH),
        locked_walk.row_against(&pread_kept, WALK_REACH),
        round_trip.row_against(&open_read_close, ROUND_TRIP_REACH),
        figure("unlocked, longest slice, peak", "us", |round| round.slice_us).row_of_peak(),
        figure("unlocked, cgroup_mutex held, peak", "us", |round| round.unlocked_mutex_held_us).row_of_peak(),
        figure("locked, cgroup_mutex held, peak", "us", |round| round.locked_mutex_held_us).row_of_peak(),
        pread_kept.row(),
        open_read_close.row(),
        readdir_walk.row(),
    ]
}
