//! Removed cgroups, as a stream tells of them: also those that lived and died between two ticks.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use cgfleet_model::Metric;
use cgfleet_proto::v1::{RemovedValues, SubscribeRequest, SubscribeSpec};
use integration_tests::{
    cgroups::TestTree,
    churn::churn,
    daemon::Start,
    effort::is_emulated,
    mirror::{Mirror, Watching, watch},
    walk::by_path,
};
use tonic::Status;

use prost_types::FieldMask;

/// None lives from one tick to the next.
const LIFETIME: Duration = Duration::from_millis(50);
const INTERVAL_SECONDS: i64 = 1;

/// Of the tree alone, and what is cheap.
fn below(tree: &TestTree) -> SubscribeSpec {
    SubscribeSpec {
        target: Some(by_path(tree.path(""))),
        read_mask: Some(FieldMask { paths: ["cpu", "pids", "structure"].map(str::to_owned).to_vec() }),
        ..SubscribeSpec::default()
    }
}

/// On 6.1 nothing can hold a removed cgroup until its CPU time is flushed.
fn is_final_here() -> Result<bool> {
    Ok(!std::fs::read_to_string("/proc/sys/kernel/osrelease")?.starts_with("6.1."))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lived_between_two_ticks_is_told_of_with_all_that_it_used() -> Result<()> {
    let count = if is_emulated() { 300 } else { 1000 };
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    tree.make("brief")?;
    tree.make("rest")?;
    let interval = Some(prost_types::Duration { seconds: INTERVAL_SECONDS, nanos: 0 });
    let mut watching = watch(&agent, SubscribeSpec { interval, ..below(&tree) }).await?;
    watching.tick().await?;

    let before = tree.cpu_stat_usage_usec("brief")?;
    let (tree, made) = tokio::task::spawn_blocking(move || {
        let made = churn(&tree, "brief", "rest", count, LIFETIME)?;
        anyhow::Ok((tree, made))
    })
    .await??;
    let used = tree.cpu_stat_usage_usec("brief")? - before;

    watching.until("all removals", |mirror| told(mirror).is_superset(&made)).await?;
    let mirror = &watching.mirror;
    assert_eq!((mirror.lost, told(mirror).len()), (0, made.len()));
    let mut sum = 0;
    for removed in &mirror.removed {
        let sample = removed.sample.as_ref().context("no sample")?;
        assert!(sample.path.starts_with(&tree.path("brief/")), "{}", sample.path);
        assert_eq!(
            (sample.level, sample.parent_id),
            (mirror.rows[&tree.id("brief")?].level + 1, tree.id("brief")?)
        );
        assert!(sample.memory_events.is_none() && sample.structure.is_some(), "{sample:?}");
        let (created_at, removed_at) =
            (removed.created_at.context("born unseen")?, removed.removed_at.context("no time")?);
        let (seconds, nanos) = (removed_at.seconds - created_at.seconds, removed_at.nanos - created_at.nanos);
        assert!(seconds * 1_000_000_000 + i64::from(nanos) > 0, "{created_at} to {removed_at}");
        let expect = if is_final_here()? { RemovedValues::Final } else { RemovedValues::LastKnown };
        assert_eq!(removed.values(), expect, "{}", sample.path);
        sum += sample.metric(Metric::CpuUsage).unwrap_or_default();
    }
    if is_final_here()? {
        assert!(sum.abs_diff(used) * 100 <= used, "{sum} us of {used} us are told of");
    }
    Ok(())
}

/// Who takes whole ticks, as a server does, does not hear of removals; others of the same interval do, and
/// those who were away for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn removals_are_told_beside_who_takes_whole_ticks() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    tree.make("rest")?;
    let mut ticks = agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner();
    // It has begun.
    ticks.message().await?.context("no tick")?;
    let server = tokio::spawn(async move {
        while ticks.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    let mut watching = watch(&agent, below(&tree)).await?;
    watching.tick().await?;
    let (tree, mut made) = churned(tree, "joined").await?;
    let told = |mirror: &Mirror, made: &BTreeSet<u64>| told(mirror).is_superset(made);
    watching.until("all removals", |mirror| told(mirror, &made)).await?;

    let mut away = watch(&agent, below(&tree)).await?;
    away.tick().await?;
    drop(watching);
    let away = away.mirror;
    let (tree, briefly) = churned(tree, "away").await?;
    made.extend(&briefly);
    let mut back = Watching::resumed(&agent, away, below(&tree)).await?;
    back.until("all removals", |mirror| told(mirror, &briefly)).await?;
    assert_eq!(back.mirror.lost, 0);
    server.abort();
    Ok(())
}

async fn churned(tree: TestTree, top: &'static str) -> Result<(TestTree, BTreeSet<u64>)> {
    let churned = tokio::task::spawn_blocking(move || {
        let made = churn(&tree, top, "rest", 50, LIFETIME)?;
        anyhow::Ok((tree, made))
    });
    churned.await?
}

fn told(mirror: &Mirror) -> BTreeSet<u64> {
    mirror.removed.iter().filter_map(|removed| Some(removed.sample.as_ref()?.cgroup_id)).collect()
}
