//! The places of memory.stat come from the kernel's tables where /proc/kallsyms shows them, and by calibration
//! where it does not: and are the same.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::{Metric, MetricGroup, MetricSet};
use cgfleet_proto::v1::{GetCapabilitiesRequest, MetricCapability, Source, WalkEngine};
use integration_tests::daemon::{Daemon, Start};

use super::{
    forest::{Forest, Tree},
    pass::rows,
};

/// What GetCapabilities says of a place that the kernel told, and of one that was calibrated.
const TOLD: &str = "told by the kernel";
const CALIBRATED: &str = "found by calibration";

/// Symbols of the kernel's tables (mm/memcontrol.c).
const STATES: &str = "mem_cgroup_stats_index";
const EVENTS: &str = "mem_cgroup_events_index";

pub(crate) fn test(forest: &Forest) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(compare_agents(forest))
}

async fn compare_agents(forest: &Forest) -> Result<()> {
    let privileged = Start::agent()?.flushing_freely().start().await?;
    let without_syslog = ["setpriv", "--bounding-set=-syslog", "--inh-caps=-syslog"];
    let calibrated = Start::agent()?.flushing_freely().under(&without_syslog).start().await?;
    let (told, found) = (places(&privileged).await?, places(&calibrated).await?);
    println!("memory.stat: {} keys with kallsyms, {} without it", told.len(), found.len());
    let kallsyms = Kallsyms::read()?;
    for (who, agent, places, sees_symbols) in
        [("privileged", &privileged, &told, true), ("calibrated", &calibrated, &found, false)]
    {
        ensure!(!places.is_empty(), "the {who} agent knows no place:\n{}", agent.log());
        for (metric, reason) in places {
            let expect = kallsyms.expect(*metric, sees_symbols);
            ensure!(reason.contains(expect), "{who}, {}: {reason:?} is not {expect:?}", metric.name());
        }
    }
    let both: MetricSet = told.keys().filter(|metric| found.contains_key(metric)).copied().collect();
    ensure!(!both.is_empty(), "the two know no place in common");
    forest.stop().await?;
    let tree = tree_of_memory(forest)?;
    let same = compare(&privileged, &calibrated, tree, both).await;
    forest.go_on().await?;
    same
}

/// Compares the rows of two agents, again if some differ: the kernel finishes writes after all is stopped.
async fn compare(one: &Daemon, other: &Daemon, tree: &Tree, metrics: MetricSet) -> Result<()> {
    let mut differs = Vec::new();
    for _ in 0..4 {
        let of_one = rows(one, tree, WalkEngine::Unlocked, metrics).await?;
        let of_other = rows(other, tree, WalkEngine::Unlocked, metrics).await?;
        differs.clear();
        for (id, row) in &of_one {
            let same = of_other.get(id).with_context(|| format!("{} has no row", row.path))?;
            ensure!(row.source(MetricGroup::MemoryStat) == Some(Source::Bpf), "{}: not by BPF", row.path);
            ensure!(same.source(MetricGroup::MemoryStat) == Some(Source::Bpf), "{}: not by BPF", row.path);
            for metric in metrics.iter().filter(|metric| row.metric(*metric) != same.metric(*metric)) {
                let (row, same) = (row.metric(metric), same.metric(metric));
                differs.push(format!("{id} {}: {row:?} and {same:?}", metric.name()));
            }
        }
        if differs.is_empty() {
            println!("{} metrics of {} cgroups are the same", metrics.len(), of_one.len());
            return Ok(());
        }
    }
    anyhow::bail!("the agents differ: {differs:#?}")
}

/// The tree in the hierarchy that has the memory controller.
fn tree_of_memory(forest: &Forest) -> Result<&Tree> {
    let has_memory = |tree: &&Tree| tree.directory().join("memory.stat").exists();
    forest.trees.iter().find(has_memory).context("no hierarchy has the memory controller")
}

/// The metrics of memory.stat that an agent reads by BPF, and why it knows where they are.
async fn places(agent: &Daemon) -> Result<HashMap<Metric, String>> {
    let said = agent.agent()?.get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
    let place = |it: MetricCapability| {
        let metric = Metric::from_name(&it.metric)?;
        let is_place = metric.info().group == MetricGroup::MemoryStat && it.source() == Source::Bpf;
        is_place.then_some((metric, it.reason))
    };
    Ok(said.metrics.into_iter().filter_map(place).collect())
}

/// What the kernel shows to root.
struct Kallsyms {
    /// Whether data are among the symbols: CONFIG_KALLSYMS_ALL.
    has_data: bool,
    has_states: bool,
    has_events: bool,
}

impl Kallsyms {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/kallsyms")?;
        let has = |name: &str| text.lines().any(|line| line.split_whitespace().nth(2) == Some(name));
        Ok(Self {
            has_data: has("init_task") && has("jiffies"),
            has_states: has(STATES),
            has_events: has(EVENTS),
        })
    }

    /// How an agent comes to know a place. An array without a table has its items at their numbers, which
    /// nobody has to see symbols for.
    fn expect(&self, metric: Metric, sees_symbols: bool) -> &'static str {
        let is_event = metric.info().unit == "1" && !metric.name().contains("workingset");
        let has_table = if is_event { self.has_events } else { self.has_states };
        if self.has_data && (!has_table || sees_symbols) { TOLD } else { CALIBRATED }
    }
}
