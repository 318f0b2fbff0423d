//! One look at one tree: the files, a walk, the files again.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use cgfleet_model::MetricSet;
use cgfleet_proto::v1::{CgroupOrder, CgroupSample, WalkEnd, WalkEngine};
use integration_tests::{
    daemon::Daemon,
    walk::{spec, walk},
};

use super::{
    forest::Tree,
    shown::{Shown, read_subtree},
};

#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) before: HashMap<u64, Shown>,
    pub(crate) rows: HashMap<u64, CgroupSample>,
    pub(crate) after: HashMap<u64, Shown>,
}

/// The rows of a tree, of these metrics.
pub(crate) async fn rows(
    agent: &Daemon,
    tree: &Tree,
    engine: WalkEngine,
    metrics: MetricSet,
) -> Result<HashMap<u64, CgroupSample>> {
    let mut spec = spec(tree.target(), CgroupOrder::DescendantsPre);
    spec.set_engine(engine);
    let paths = metrics.iter().map(|metric| metric.name().to_owned()).collect();
    spec.read_mask = Some(prost_types::FieldMask { paths });
    let walked = walk(agent, spec).await?;
    ensure!(
        (walked.summary.end(), walked.summary.engine()) == (WalkEnd::Complete, engine),
        "not the walk that was asked for: {:?}",
        walked.summary
    );
    Ok(walked.samples.into_iter().map(|sample| (sample.cgroup_id, sample)).collect())
}

impl Pass {
    pub(crate) async fn take(
        agent: &Daemon,
        tree: &Tree,
        engine: WalkEngine,
        metrics: MetricSet,
    ) -> Result<Self> {
        let before = read_subtree(&tree.directory(), tree.is_v2())?;
        let rows = rows(agent, tree, engine, metrics).await?;
        let after = read_subtree(&tree.directory(), tree.is_v2())?;
        Ok(Self { before, rows, after })
    }
}
