//! Scenario `churn`: thousands of cgroups that live for a moment, one subscriber, and what it is told of them.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::Metric;
use cgfleet_proto::v1::{RemovedValues, SubscribeSpec};
use prost_types::FieldMask;

use super::{Bench, Figure, Row, process::Process};
use crate::{
    cgroups::TestTree,
    churn::churn,
    daemon::{Daemon, Start},
    mirror::{Watching, watch},
    walk::by_path,
};

const CGROUPS: u32 = 10_000;
const HISTORY_BYTES_MAX: &str = "1048576";
const LIFETIME: Duration = Duration::from_millis(50);
/// The part of the parent's growth that the final values may be off.
const SUM_REACH_PERCENT: f64 = 1.0;
/// The agent's memory a while later, against what it was at the start.
const RSS_REACH: f64 = 1.1;
/// Ticks until the agent has let go of what it kept for those that are gone.
const TICKS_AFTER: u64 = 30;

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let tree = TestTree::v2()?;
    for below in ["warm", "brief", "rest"] {
        tree.make(below)?;
    }
    // What is kept for subscribers that come back is bounded, and would take hours to be full here.
    let start =
        Start::agent()?.flag("--sample-interval", "1s").flag("--history-bytes-max", HISTORY_BYTES_MAX);
    let agent = bench.block_on(start.flag("--log", "info").start())?;
    let spec = SubscribeSpec {
        target: Some(by_path(tree.path(""))),
        read_mask: Some(FieldMask {
            paths: vec!["cpu".to_owned(), "pids".to_owned(), "structure".to_owned()],
        }),
        ..SubscribeSpec::default()
    };
    let mut watching = bench.block_on(watch(&agent, spec))?;
    // An agent that has seen churn has the memory that it works with.
    through(bench, &tree, "warm", &mut watching)?;
    let before = settled_rss(bench, &agent, &mut watching)?;
    let (removed_before, usage_before) = (watching.mirror.removed.len(), tree.cpu_stat_usage_usec("brief")?);
    let process = Process::new(agent.pid());
    let made = through(bench, &tree, "brief", &mut watching)?;
    let peak = process.rss_peak_bytes()?;
    let used = tree.cpu_stat_usage_usec("brief")? - usage_before;
    let after = settled_rss(bench, &agent, &mut watching)?;

    let told = &watching.mirror.removed[removed_before..];
    let ids: BTreeSet<u64> =
        told.iter().filter_map(|removed| Some(removed.sample.as_ref()?.cgroup_id)).collect();
    ensure!(ids == made, "{} of {} removals are told of", ids.len(), made.len());
    let finals = told.iter().filter(|removed| removed.values() == RemovedValues::Final).count();
    let usage = told.iter().filter_map(|removed| removed.sample.as_ref()?.metric(Metric::CpuUsage));
    let (sum, count) = (usage.sum::<u64>(), f64::from(CGROUPS));
    let one =
        |name: &str, unit, value: f64| Figure::new(format!("{CGROUPS} cgroups: {name}"), unit, vec![value]);
    let number = |value: u64| anyhow::Ok(f64::from(u32::try_from(value)?));
    let off = 100.0 * number(sum.abs_diff(used))? / number(used)?;
    let mib = |bytes: u64| anyhow::Ok(number(bytes / 1024)? / 1024.0);
    let at_start = one("RSS before", "MiB", mib(before)?);
    Ok(vec![
        one("not told of with final values", "cgroups", count - number(finals as u64)?).row().reach(0.0),
        one("told to be lost", "cgroups", number(watching.mirror.lost)?).row().reach(0.0),
        one("their CPU time against what their parent grew by, off", "%", off).row().reach(SUM_REACH_PERCENT),
        one("CPU time of each", "us", number(used)? / count).row(),
        at_start.row(),
        one("RSS after", "MiB", mib(after)?).row_against(&at_start).reach(RSS_REACH),
        one("RSS, peak", "MiB", mib(peak)?).row(),
    ])
}

/// Has cgroups come and go, while the subscriber takes what it is sent; until it was told of all of them.
fn through(bench: &Bench, tree: &TestTree, top: &str, watching: &mut Watching) -> Result<BTreeSet<u64>> {
    std::thread::scope(|scope| {
        let churned = scope.spawn(|| churn(tree, top, "rest", CGROUPS, LIFETIME));
        while !churned.is_finished() {
            bench.block_on(watching.tick())?;
        }
        let made = churned.join().map_err(|_| anyhow::anyhow!("the churn panicked"))??;
        // Two more: the last was removed within the first of them.
        for _ in 0..2 {
            bench.block_on(watching.tick())?;
        }
        Ok(made)
    })
}

/// The agent's memory, once it has had time to let go of what it needs no more.
fn settled_rss(bench: &Bench, agent: &Daemon, watching: &mut Watching) -> Result<u64> {
    let until = watching.mirror.sequence() + TICKS_AFTER;
    bench.block_on(watching.until_sequence(until))?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(rss.trim().strip_suffix(" kB").context("no kB")?.trim().parse::<u64>()? * 1024)
}
