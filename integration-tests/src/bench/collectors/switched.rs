//! A collector of an agent, switched and read.

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::Collector;
use cgfleet_proto::v1::{
    AgentServiceSetCollectorRequest, CgroupOrder, CgroupTarget, CollectorState, WalkSpec, WalkSummary,
    agent_service_client::AgentServiceClient,
};
use cgfleet_rpc::channel::Channel;
use prost_types::FieldMask;

use crate::{
    bench::Bench,
    daemon::Daemon,
    walk::{Walked, spec, walk_through},
};

pub(super) struct Switched<'a> {
    bench: &'a Bench,
    agent: AgentServiceClient<Channel>,
    collector: Collector,
}

impl<'a> Switched<'a> {
    pub(super) fn new(bench: &'a Bench, agent: &Daemon, collector: Collector) -> Result<Self> {
        Ok(Self { bench, agent: bench.block_on(async { agent.agent() })?, collector })
    }

    pub(super) fn set(&mut self, is_on: bool) -> Result<()> {
        let state = if is_on { CollectorState::On } else { CollectorState::Off };
        let name = self.collector.name().to_owned();
        let request = AgentServiceSetCollectorRequest { name, state: state.into() };
        let answer = self.bench.block_on(self.agent.set_collector(request))?.into_inner();
        let collector = answer.collector.context("an answer without the collector")?;
        ensure!(collector.state() == state, "it was not switched: {collector:?}");
        Ok(())
    }

    /// Events in a cgroup and all below it so far. Of one with none there may be nothing to say.
    pub(super) fn count(&mut self, target: &CgroupTarget) -> Result<u64> {
        let walked = self.walk(target, &[self.collector.name()])?;
        let count = self.collector.group().metrics().next().context("a collector has a metric")?;
        let [sample] = &walked.samples[..] else { anyhow::bail!("not one cgroup: {walked:?}") };
        ensure!(!sample.is_overflowed(self.collector.group()), "no room for {sample:?}");
        Ok(sample.metric(count).unwrap_or_default())
    }

    /// Reads one cgroup's groups.
    pub(super) fn read(&mut self, target: &CgroupTarget, groups: &[&str]) -> Result<WalkSummary> {
        Ok(self.walk(target, groups)?.summary)
    }

    fn walk(&mut self, target: &CgroupTarget, groups: &[&str]) -> Result<Walked> {
        let paths = groups.iter().map(|group| (*group).to_owned()).collect();
        let spec =
            WalkSpec { read_mask: Some(FieldMask { paths }), ..spec(target.clone(), CgroupOrder::SelfOnly) };
        self.bench.block_on(walk_through(&mut self.agent, spec))
    }
}
