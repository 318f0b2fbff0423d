//! Walks of a real agent, checked and timed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::Metric;
use cgfleet_proto::v1::{
    CgroupOrder, CgroupSample, WalkEnd, WalkEngine, WalkRequest, WalkSpec, WalkSummary,
    agent_service_client::AgentServiceClient, walk_response::Event,
};
use cgfleet_rpc::channel::Channel;
use prost_types::FieldMask;

use crate::walk::{by_path, spec};

/// The group that every cgroup of a benchmark has.
pub(super) const CPU: &str = "cpu";

/// The record groups that the catalogue knows: the first words of its metrics' names.
pub(super) fn groups() -> Vec<&'static str> {
    let mut groups = Vec::new();
    for group in Metric::ALL.iter().map(|metric| group_of(*metric)) {
        // Metrics are numbered as they were added, so those of a group need not be neighbours.
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

fn group_of(metric: Metric) -> &'static str {
    let name = metric.name();
    name.split_once('.').map_or(name, |(group, _)| group)
}

/// Whether anything of the group was measured.
fn has_group(sample: &CgroupSample, group: &str) -> bool {
    let of_group = Metric::ALL.iter().copied().filter(|metric| group_of(*metric) == group);
    of_group.into_iter().any(|metric| sample.metric(metric).is_some())
}

/// Asks for the same walk again and again, on a connection that stays open.
#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: AgentServiceClient<Channel>,
    spec: WalkSpec,
    cgroups: u32,
}

/// A walk that was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) summary: WalkSummary,
    /// From the request to the end of the answer, every row decoded.
    pub(super) round_trip: Duration,
}

impl Client {
    /// Walks of `cgroups` cgroups in pre-order, from `path`, by this engine, for these groups.
    pub(super) fn new(
        agent: AgentServiceClient<Channel>,
        path: String,
        cgroups: u32,
        engine: WalkEngine,
        groups: &[&str],
    ) -> Self {
        let spec = WalkSpec {
            read_mask: Some(FieldMask { paths: groups.iter().map(|group| (*group).to_owned()).collect() }),
            engine: engine.into(),
            ..spec(by_path(path), CgroupOrder::DescendantsPre)
        };
        Self { agent, spec, cgroups }
    }

    /// Walks once. An answer that is not the whole walk is an error.
    pub(super) async fn walk(&mut self) -> Result<Answer> {
        let started = Instant::now();
        let (summary, rows_with_cpu) = self.each_row(|sample| sample.cpu.is_some()).await?;
        let round_trip = started.elapsed();
        ensure!(
            summary.end() == WalkEnd::Complete
                && summary.engine() == self.spec.engine()
                && summary.flushed_cgroup_id != 0
                && rows_with_cpu == self.cgroups,
            "not the whole walk of {} cgroups: {rows_with_cpu} rows with cpu, {summary:?}",
            self.cgroups
        );
        Ok(Answer { summary, round_trip })
    }

    /// How many rows have anything of this group.
    pub(super) async fn rows_with(&mut self, group: &str) -> Result<u32> {
        Ok(self.each_row(|sample| has_group(sample, group)).await?.1)
    }

    /// Walks, and counts the rows for which that holds.
    async fn each_row(&mut self, holds: impl Fn(&CgroupSample) -> bool) -> Result<(WalkSummary, u32)> {
        let request = WalkRequest { spec: Some(self.spec.clone()) };
        let mut stream = self.agent.walk(request).await?.into_inner();
        let (mut count, mut summary) = (0, None);
        while let Some(response) = stream.message().await? {
            match response.event.context("an empty part")? {
                Event::Header(_) => {}
                Event::Batch(batch) => count += batch.samples.iter().filter(|sample| holds(sample)).count(),
                Event::Summary(part) => summary = Some(part),
            }
        }
        Ok((summary.context("no summary")?, u32::try_from(count)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_of_one_of_the_groups() {
        let groups = groups();
        assert!(groups.contains(&CPU));
        assert!(Metric::ALL.iter().all(|metric| groups.contains(&group_of(*metric))));
    }
}
