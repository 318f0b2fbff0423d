//! An agent's walks over real cgroups of this host's kernel, through gRPC.

use std::time::Duration;

use anyhow::{Context as _, Result};
use cgfleet_proto::v1::{
    AgentServiceFlushRequest, CgroupOrder, CgroupTarget, Source, SubscribeRequest, WalkEnd, WalkSpec,
    subscribe_response::Event,
};
use integration_tests::{
    cgroups::TestTree,
    daemon::Start,
    walk::{by_path, spec, walk},
};

/// A flush goes downward only, and the root is not flushed for an answer that does not go down from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_flushes_the_topmost_cgroup_below_the_root() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    tree.make("P/C1")?;
    let flushed = async |target: CgroupTarget, order| {
        Ok::<_, anyhow::Error>(walk(&agent, spec(target, order)).await?.summary.flushed_cgroup_id)
    };
    assert_eq!(flushed(by_path(tree.path("P/C1")), CgroupOrder::AncestorsUp).await?, tree.id("")?, "level 1");
    assert_eq!(flushed(by_path(tree.path("P")), CgroupOrder::DescendantsPost).await?, tree.id("P")?);
    assert_eq!(flushed(by_path("/"), CgroupOrder::SelfOnly).await?, 0);
    assert_eq!(flushed(by_path("/"), CgroupOrder::AncestorsUp).await?, 0);
    assert_eq!(flushed(by_path("/"), CgroupOrder::DescendantsPre).await?, 1, "the root, whose id is 1");
    assert_eq!(flushed(by_path("/"), CgroupOrder::Children).await?, 1, "its children are in the answer");
    Ok(())
}

/// A walk that ends before it comes to the cgroups above those it recorded has to name them all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rows_have_paths_though_the_walk_ended_below_their_parents() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    let made = ["a/x", "a", "b/y"].map(|below| (tree.make(below), tree.path(below)));
    let top = by_path(tree.path(""));
    let limited = WalkSpec { limit: 3, ..spec(top, CgroupOrder::DescendantsPost) };
    let walked = walk(&agent, limited).await?;
    assert_eq!(walked.summary.end(), WalkEnd::Limit);
    let found: Vec<_> = walked.samples.iter().map(|sample| (sample.cgroup_id, sample.path.clone())).collect();
    let expect: Vec<_> = made.into_iter().map(|(id, path)| Ok((id?, path))).collect::<Result<_>>()?;
    assert_eq!(found, expect);
    assert_eq!(walked.samples[2].parent_id, tree.id("b")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_cpu_stats_and_the_root_says_it_is_from_its_file() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let mut tree = TestTree::v2()?;
    tree.make("busy/leaf")?;
    tree.work_in("busy/leaf")?;
    let levels = ["busy/leaf", "busy", ""];
    for _ in 0..20 {
        let before: Vec<u64> =
            levels.iter().map(|below| tree.cpu_stat_usage_usec(below)).collect::<Result<_>>()?;
        let walked = walk(&agent, spec(by_path(tree.path("busy/leaf")), CgroupOrder::AncestorsUp)).await?;
        let after: Vec<u64> =
            levels.iter().map(|below| tree.cpu_stat_usage_usec(below)).collect::<Result<_>>()?;
        let (root, below) = walked.samples.split_last().context("no rows")?;
        for ((sample, before), after) in below.iter().zip(before).zip(after) {
            let cpu = sample.cpu.context("cpu is kept for v2 cgroups")?;
            assert_eq!(cpu.source(), Source::Bpf);
            assert!((before..=after).contains(&cpu.usage_usec()), "{before} {cpu:?} {after} {}", sample.path);
            assert_eq!((cpu.user_usec, cpu.system_usec), (None, None), "not measured, so not zero");
        }
        let cpu = root.cpu.context("the root has a cpu.stat")?;
        assert_eq!((root.path.as_str(), cpu.source()), ("/", Source::File));
        assert!(cpu.usage_usec() > 0 && cpu.user_usec.is_some());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_names_what_it_flushed() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    let target = Some(by_path(tree.path("")));
    let flushed =
        agent.agent()?.flush(AgentServiceFlushRequest { target, ..Default::default() }).await?.into_inner();
    assert_eq!((flushed.cgroup_id, flushed.path), (tree.id("")?, tree.path("")));
    assert!(flushed.flush_ns > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_brings_whole_snapshots_in_sequence() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    let mut ticks = agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner();
    let (mut sequences, mut rows, mut boottime_ns) = (Vec::new(), 0, 0);
    while sequences.len() < 4 {
        let message =
            tokio::time::timeout(Duration::from_secs(20), ticks.message()).await.context("no tick")??;
        match message.context("the stream ended")?.event.context("an empty part")? {
            Event::Header(header) => {
                assert!(header.boottime_ns > boottime_ns);
                boottime_ns = header.boottime_ns;
                sequences.push(header.sequence);
                rows = 0;
            }
            Event::Batch(batch) => {
                rows += batch.samples.iter().filter(|sample| sample.path == tree.path("")).count();
            }
            Event::Summary(summary) => {
                assert_eq!(summary.end(), WalkEnd::Complete);
                assert_eq!(rows, 1, "the test cgroup is in every snapshot once");
            }
            Event::Change(change) => panic!("a change in a stream of whole ticks: {change:?}"),
        }
    }
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    Ok(())
}
