//! Agents with collectors, and what they answer.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::MetricGroup;
use cgfleet_proto::v1::{
    AgentServiceSetCollectorRequest, CgroupOrder, CgroupSample, Collector, CollectorFolding, CollectorState,
    ListCollectorsRequest, Source,
};
use integration_tests::{
    daemon::{Daemon, Start},
    walk::{by_path, spec, walk},
};
use prost_types::FieldMask;

pub(crate) const LEAVES: [&str; 4] = ["child1/1_1", "child1/1_2", "child2/2_1", "child2/2_2"];

/// An agent with these collectors on.
pub(crate) async fn start(collectors: &str) -> Result<Daemon> {
    let agent = Start::agent()?.flushing_freely().flag("--bpf", "require").flag("--collectors", collectors);
    let agent = agent.start().await?;
    for collector in collectors.split(',') {
        let found = find(&agent, collector).await?;
        ensure!(found.state() == CollectorState::On, "{found:?}");
    }
    Ok(agent)
}

/// A collector of an agent.
pub(crate) async fn find(agent: &Daemon, name: &str) -> Result<Collector> {
    let listed = agent.agent()?.list_collectors(ListCollectorsRequest {}).await?.into_inner();
    listed.collectors.into_iter().find(|collector| collector.name == name).context("no such collector")
}

pub(crate) fn set(name: &str, state: CollectorState) -> AgentServiceSetCollectorRequest {
    AgentServiceSetCollectorRequest { name: name.to_owned(), state: state.into() }
}

/// The rows of a subtree by path, with one group alone, which comes from where the collector says.
pub(crate) async fn rows(
    agent: &Daemon,
    top: String,
    group: MetricGroup,
) -> Result<HashMap<String, CgroupSample>> {
    let mut spec = spec(by_path(top), CgroupOrder::DescendantsPre);
    spec.read_mask = Some(FieldMask { paths: vec![group.name().to_owned()] });
    let walked = walk(agent, spec).await?;
    let collector = find(agent, group.name()).await?;
    let folding = collector.folding();
    let source = match folding {
        CollectorFolding::Rstat => Source::Rstat,
        CollectorFolding::Agent | CollectorFolding::Unspecified => Source::Fold,
    };
    // The guests' kernels let programs be attached to the flush of rstat; block_io has no cgroup to mark.
    let is_guest = std::env::var_os("CGFLEET_EMULATED").is_some();
    let folds = is_guest && group != MetricGroup::BlockIo;
    ensure!(!folds || folding == CollectorFolding::Rstat, "in a guest: {collector:?}");
    for sample in &walked.samples {
        let found = sample.source(group);
        ensure!(found.is_none_or(|found| found == source), "{source:?} expected: {sample:?}");
    }
    Ok(walked.samples.into_iter().map(|sample| (sample.path.clone(), sample)).collect())
}
