//! Walks over cgroup v1 hierarchies.

use std::collections::HashSet;

use anyhow::Result;
use cgfleet_proto::v1::{CgroupOrder, CgroupSample, CgroupTarget, Source, WalkEnd, WalkEngine};
use integration_tests::{
    cgroups::{NamedV1, TestTree},
    daemon::Start,
    walk::{spec, walk},
};

fn paths(samples: &[CgroupSample]) -> Vec<&str> {
    samples.iter().map(|sample| sample.path.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_controller_walks_by_path_and_never_says_zero_for_unknown() -> Result<()> {
    let agent = Start::agent()?.flushing_freely().start().await?;
    for (controller, has_cpu) in [("memory", false), ("cpuacct", true)] {
        // A host of cgroup v2 alone has none. What v1 walks need of no controller is tested below, everywhere.
        let Some(mut tree) = TestTree::v1(controller)? else { continue };
        tree.make("P/C1")?;
        tree.work_in("P/C1")?;
        let target = CgroupTarget {
            path: tree.path("P"),
            hierarchy: controller.to_owned(),
            ..CgroupTarget::default()
        };
        let walked = walk(&agent, spec(target, CgroupOrder::DescendantsPost)).await?;
        assert_eq!(paths(&walked.samples), [tree.path("P/C1"), tree.path("P")], "{controller}");
        for sample in &walked.samples {
            assert_ne!(sample.hierarchy_id, 0);
            let source = sample.cpu.as_ref().map(|cpu| (cpu.source(), cpu.usage_usec.is_some()));
            assert_eq!(source, has_cpu.then_some((Source::File, true)), "{controller}");
        }
    }
    Ok(())
}

/// Ids are of cgroup v2 only, so the slices of a v1 walk go on by directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_v1_walk_goes_on_from_slice_to_slice() -> Result<()> {
    let v1 = NamedV1::mount()?;
    let agent = Start::agent()?.flushing_freely().flag("--slice-time-max", "10us").start().await?;
    let mut made = HashSet::from([v1.tree().id("")?]);
    for group in 0..20 {
        made.insert(v1.tree().make(&format!("{group}"))?);
        for leaf in 0..50 {
            made.insert(v1.tree().make(&format!("{group}/{leaf}"))?);
        }
    }
    let target =
        CgroupTarget { path: v1.tree().path(""), hierarchy: v1.hierarchy(), ..CgroupTarget::default() };
    for engine in [WalkEngine::Unlocked, WalkEngine::Locked] {
        for order in [CgroupOrder::DescendantsPre, CgroupOrder::DescendantsPost] {
            let mut spec = spec(target.clone(), order);
            spec.set_engine(engine);
            let walked = walk(&agent, spec).await?;
            assert_eq!(
                (walked.summary.end(), walked.samples.len()),
                (WalkEnd::Complete, 1021),
                "{order:?} {engine:?}"
            );
            let ids: HashSet<u64> = walked.samples.iter().map(|sample| sample.cgroup_id).collect();
            assert_eq!(ids, made, "{order:?} {engine:?}");
            assert!(walked.samples.iter().all(|sample| sample.hierarchy_id != 0 && sample.cpu.is_none()));
        }
    }
    Ok(())
}
