//! Removed cgroups, as a stream tells of them: also those that lived and died between two ticks.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use cgfleet_model::Metric;
use cgfleet_proto::v1::{RemovedValues, SubscribeSpec};
use integration_tests::{
    cgroups::TestTree,
    churn::churn,
    daemon::Start,
    effort::is_emulated,
    mirror::{Mirror, watch},
};

use super::{below, reading};

/// None lives from one tick to the next.
const LIFETIME: Duration = Duration::from_millis(50);
const INTERVAL_SECONDS: i64 = 1;

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
    let read_mask = Some(reading(&["cpu", "pids", "structure"]));
    let mut watching = watch(&agent, SubscribeSpec { interval, read_mask, ..below(&tree) }).await?;
    watching.tick().await?;

    let before = tree.cpu_stat_usage_usec("brief")?;
    let (tree, made) = tokio::task::spawn_blocking(move || {
        let made = churn(&tree, "brief", "rest", count, LIFETIME)?;
        anyhow::Ok((tree, made))
    })
    .await??;
    let used = tree.cpu_stat_usage_usec("brief")? - before;

    let told = |mirror: &Mirror| {
        mirror
            .removed
            .iter()
            .filter_map(|removed| Some(removed.sample.as_ref()?.cgroup_id))
            .collect::<BTreeSet<_>>()
    };
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
