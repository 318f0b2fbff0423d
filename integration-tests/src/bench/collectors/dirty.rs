//! Flushing and reading the sum of a tree, in some of whose cgroups something was counted since.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::Collector;

use super::{
    switched::Switched,
    workload::{Work, Workload},
};
use crate::{
    bench::{
        Bench, Row,
        client::CPU,
        interleaved::Interleaved,
        trees::{Grown, Shape},
    },
    daemon::Daemon,
    walk::by_path,
};

/// A flat tree, and in how many of its cgroups something is counted before it is read.
pub(super) struct Dirty {
    pub(super) cgroups: u32,
    /// Ascending: a cgroup keeps its place in the collector's maps.
    pub(super) counts: &'static [u32],
    pub(super) rounds: usize,
}

impl Dirty {
    pub(super) fn measure(&self, bench: &Bench) -> Result<Vec<Row>> {
        let shape = Shape { name: "flat", below_top: self.cgroups, is_chain: false, rounds: self.rounds };
        let grown = shape.grow()?;
        let agent = bench.block_on(super::agent()?.start())?;
        let mut rows = Vec::new();
        for count in self.counts {
            rows.extend(self.measure_with(bench, &agent, &grown, *count)?);
        }
        Ok(rows)
    }

    /// A process goes through so many cgroups before each reading of the top.
    fn measure_with(&self, bench: &Bench, agent: &Daemon, grown: &Grown, count: u32) -> Result<Vec<Row>> {
        let collector = Collector::Attach;
        let mut switched = Switched::new(bench, agent, collector)?;
        let target = by_path(grown.tree.path(""));
        let dirty = grown.directories.get(1..=count as usize).context("the tree has fewer cgroups")?;
        let mut workload = Workload::start(Work::Move, count, &[], dirty)?;
        switched.set(true)?;
        let before = switched.count(&target)?;
        workload.work()?;
        let counted = switched.count(&target)? - before;
        ensure!(counted == u64::from(count), "{counted} of {count} moves were counted");

        let subject = format!("{collector}, {count} of {} cgroups dirty", self.cgroups);
        let mut interleaved = Interleaved::of(subject);
        let mut on_first = false;
        let figures = ["flush, off", "flush, on", "reading cpu, off", "reading cpu + attach, on"];
        interleaved.add_several(&figures.map(|name| (name, "us")), || {
            on_first = !on_first;
            let mut turn = |is_on| {
                switched.set(is_on)?;
                workload.work()?;
                let groups: &[&str] = if is_on { &[CPU, collector.name()] } else { &[CPU] };
                let started = Instant::now();
                let summary = switched.read(&target, groups)?;
                let read = started.elapsed();
                let flush_us = Duration::from_nanos(summary.flush_ns).as_secs_f64() * 1e6;
                anyhow::Ok((flush_us, read.as_secs_f64() * 1e6))
            };
            let first = turn(on_first)?;
            let second = turn(!on_first)?;
            let (off, on) = if on_first { (second, first) } else { (first, second) };
            Ok(vec![off.0, on.0, off.1, on.1])
        });
        let measured = interleaved.run(bench, self.rounds)?;
        let [flush_off, flush_on, read_off, read_on] = figures.map(|name| measured.get(name));
        let (flush_off, read_off) = (flush_off?, read_off?);
        Ok(vec![
            flush_off.row(),
            flush_on?.row_against(flush_off),
            read_off.row(),
            read_on?.row_against(read_off),
        ])
    }
}
