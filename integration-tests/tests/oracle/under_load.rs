//! Every metric of every row agrees with its file.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use cgfleet_model::{Metric, MetricGroup, MetricSet};
use cgfleet_proto::v1::{
    CgroupSample, GetCapabilitiesRequest, IoDeviceSample, MetricCapability, Source, WalkEngine,
};
use integration_tests::daemon::{Daemon, Start};

use super::{
    compare::{Compared, Loads, Outcome},
    forest::{Forest, Tree},
    pass::Pass,
    shown::Shown,
    table::Tallies,
};

/// The load runs for so long, and longer if something is still zero: but no longer than that.
const LOAD_TIME_MIN: Duration = Duration::from_secs(30);
const LOAD_TIME_MAX: Duration = Duration::from_secs(75);

/// The kernel finishes some things after all processes were stopped, such as writes. What differs is looked at
/// again, and differs if it does every time.
const LOOKS_MAX: u32 = 4;

const CGROUPS_MIN: usize = 50;

pub(crate) fn test(forest: &Forest) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(compare_all(forest))
}

async fn compare_all(forest: &Forest) -> Result<()> {
    let agent = Start::agent()?.flushing_freely().start().await?;
    let mut oracle = Oracle::ask(&agent).await?;
    let mut engines = [WalkEngine::Unlocked, WalkEngine::Locked].into_iter().cycle();
    let mut rounds = 0;
    // Each engine has its turn.
    while rounds < 2
        || forest.started.elapsed() < LOAD_TIME_MIN
        || (!oracle.never_moved().is_empty() && forest.started.elapsed() < LOAD_TIME_MAX)
    {
        let engine = engines.next().unwrap_or_default();
        for tree in &forest.trees {
            oracle.look(tree, engine, Loads::Running).await?;
        }
        forest.stop().await?;
        for tree in &forest.trees {
            oracle.look(tree, engine, Loads::Stopped).await?;
        }
        forest.go_on().await?;
        rounds += 1;
    }
    let (took, cgroups) = (forest.started.elapsed(), oracle.cgroups.len());
    println!(
        "cgfleet-show: {rounds} rounds, {took:.1?} of load, {cgroups} cgroups: {}",
        oracle.tallies.summary()
    );
    oracle.tallies.print(&oracle.capabilities);
    let places = oracle.capabilities.iter().filter(|it| it.metric.starts_with("memory_stat."));
    let mut reasons: HashMap<&str, u32> = HashMap::new();
    places.for_each(|it| *reasons.entry(&it.reason).or_default() += 1);
    println!("memory.stat: {reasons:#?}");
    oracle.check()
}

struct Oracle<'a> {
    agent: &'a Daemon,
    capabilities: Vec<MetricCapability>,
    tallies: Tallies,
    cgroups: HashSet<(u32, u64)>,
}

impl<'a> Oracle<'a> {
    async fn ask(agent: &'a Daemon) -> Result<Self> {
        let capabilities =
            agent.agent()?.get_capabilities(GetCapabilitiesRequest {}).await?.into_inner().metrics;
        Ok(Self { agent, capabilities, tallies: Tallies::default(), cgroups: HashSet::new() })
    }

    fn is_placed(&self, metric: Metric, hierarchy: &str) -> bool {
        self.capabilities.iter().any(|it| {
            it.metric == metric.name() && it.hierarchy == hierarchy && it.source() != Source::Unspecified
        })
    }

    /// Everything; and where not all of memory.stat is read by BPF, everything but what is not: of a group that
    /// is asked for whole, all comes from the file then.
    fn masks(&self) -> Vec<MetricSet> {
        let of_file = |metric: &Metric| {
            let mut found = self.capabilities.iter().filter(|it| it.metric == metric.name());
            found.any(|it| it.source() != Source::Bpf)
        };
        let from_files: MetricSet = MetricGroup::MemoryStat.metrics().filter(of_file).collect();
        let all = MetricSet::all();
        if from_files.is_empty() { vec![all] } else { vec![all, all.without(from_files)] }
    }

    async fn look(&mut self, tree: &Tree, engine: WalkEngine, loads: Loads) -> Result<()> {
        for metrics in self.masks() {
            let mut differs = HashMap::new();
            for _ in 0..if loads == Loads::Stopped { LOOKS_MAX } else { 1 } {
                let pass = Pass::take(self.agent, tree, engine, metrics).await?;
                differs = self.compare(tree, &pass, metrics, loads);
                if differs.is_empty() {
                    break;
                }
            }
            for ((_, metric), text) in differs {
                self.tallies.add_mismatch(metric, format!("{text} ({engine:?}, {loads:?})"));
            }
        }
        Ok(())
    }

    /// Gives what differs.
    fn compare(
        &mut self,
        tree: &Tree,
        pass: &Pass,
        metrics: MetricSet,
        loads: Loads,
    ) -> HashMap<(u64, Metric), String> {
        let mut differs = HashMap::new();
        for (id, before) in &pass.before {
            // Removed meanwhile.
            let Some(after) = pass.after.get(id) else { continue };
            let Some(row) = pass.rows.get(id) else {
                differs.insert((*id, Metric::CpuUsage), format!("{id}: no row"));
                continue;
            };
            self.cgroups.insert((row.hierarchy_id, *id));
            for metric in metrics.iter() {
                let compared = Compared {
                    metric,
                    before: before.value(metric),
                    row: row.metric(metric),
                    after: after.value(metric),
                    is_placed: self.is_placed(metric, tree.hierarchy),
                    has_no_file: (if tree.is_v2() { metric.info().v2() } else { metric.info().v1() })
                        .is_none(),
                };
                let outcome = compared.outcome(loads);
                self.tallies.add(metric, outcome, compared.row, (row.hierarchy_id, *id));
                if let Outcome::Mismatch(why) = outcome {
                    let text = format!("{} {}: {why}: {compared:?}", tree.hierarchy, row.path);
                    differs.insert((*id, metric), text);
                }
            }
            if let Some(why) = device_mismatch(row, before, after) {
                differs.insert((*id, Metric::IoRbytes), format!("{}: {why}", row.path));
            }
        }
        differs
    }

    /// Metrics that have a source and a file, and were zero in every row.
    fn never_moved(&self) -> Vec<Metric> {
        let has_source = |metric: &Metric| {
            let mut found = self.capabilities.iter().filter(|it| it.metric == metric.name());
            metric.info().v2().is_some() && found.any(|it| it.source() != Source::Unspecified)
        };
        let is_expected = |metric: &Metric| !zero_here().iter().any(|(known, _)| known == metric);
        let metrics = Metric::ALL.iter().copied().filter(has_source).filter(is_expected);
        metrics.filter(|metric| !self.tallies.was_not_zero(*metric)).collect()
    }

    fn check(&self) -> Result<()> {
        ensure!(self.cgroups.len() >= CGROUPS_MIN, "only {} cgroups", self.cgroups.len());
        ensure!(self.tallies.mismatches() == 0, "{} mismatches", self.tallies.mismatches());
        let zero: Vec<&str> = self.never_moved().into_iter().map(Metric::name).collect();
        ensure!(zero.is_empty(), "always zero, so never tested: {}", zero.join(", "));
        Ok(())
    }
}

/// What cannot be anything but zero on this host, and why.
fn zero_here() -> &'static [(Metric, &'static str)] {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let has_swap = read("/proc/swaps").lines().count() > 1;
    let is_6_18 = read("/proc/sys/kernel/osrelease").starts_with("6.18.");
    match (has_swap, is_6_18) {
        (true, true) => &[(Metric::MemoryStatPagetables, "6.18's own memory.stat shows 0 of every cgroup")],
        (true, false) => &[],
        (false, _) => &[
            (Metric::MemoryStatSwapcached, "there is no swap"),
            (Metric::MemoryStatWorkingsetRefaultAnon, "there is no swap"),
        ],
    }
}

/// Why the devices of a row do not agree with io.stat.
fn device_mismatch(row: &CgroupSample, before: &Shown, after: &Shown) -> Option<String> {
    let devices = row.io.as_ref().map(|io| io.devices.as_slice()).unwrap_or_default();
    let named = |name: &str| devices.iter().find(|it| format!("{}:{}", it.major, it.minor) == name);
    for (name, keys) in &after.devices {
        let none = IoDeviceSample::default();
        let device = named(name).unwrap_or(&none);
        let words = [
            ("rbytes", device.rbytes),
            ("wbytes", device.wbytes),
            ("dbytes", device.dbytes),
            ("rios", device.rios),
            ("wios", device.wios),
            ("dios", device.dios),
        ];
        for (key, word) in words {
            let most = keys.get(key).copied().unwrap_or_default();
            let least = before.devices.get(name).and_then(|keys| keys.get(key).copied()).unwrap_or_default();
            if !(least..=most).contains(&word) {
                return Some(format!("device {name} {key}: {word} is not in {least}..={most}"));
            }
        }
    }
    let is_shown = |it: &IoDeviceSample| after.devices.contains_key(&format!("{}:{}", it.major, it.minor));
    devices.iter().find(|it| !is_shown(it)).map(|it| format!("io.stat does not show device {it:?}"))
}
