//! Many subscribers, of whom one does not take what it is sent.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use cgfleet_proto::v1::{SubscribeRequest, SubscribeSpec, agent_service_client::AgentServiceClient};
use integration_tests::{
    cgroups::TestTree,
    daemon::{Daemon, Start},
    mirror::{Watching, watch},
};
use tonic::transport::Endpoint;

use super::below;

const SUBSCRIBERS: usize = 100;
const TICKS: u64 = 20;
/// What a snapshot of these takes is far more than is on its way at a time.
const CGROUPS: usize = 2000;
const WINDOW_BYTES: u32 = 65_535;
/// What all of them may add to the agent's memory, with the 2000 cgroups that they are told of.
const ADDED_KIB_MAX: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_stalls_is_alone_with_it() -> Result<()> {
    let start = Start::agent()?.flag("--sample-interval", "500ms").flag("--subscribers-max", "128");
    let agent = start.start().await?;
    let before_kib = rss_kib(&agent)?;
    let tree = TestTree::v2()?;
    for number in 0..CGROUPS {
        tree.make(&number.to_string())?;
    }
    let stalled = Endpoint::from_shared(agent.url())?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let mut stalled = AgentServiceClient::new(stalled.connect().await?);
    let request = SubscribeRequest { interval: None, changes: Some(below(&tree)) };
    let mut stalled = Watching::over(stalled.subscribe(request).await?.into_inner(), below(&tree));
    let mut others = Vec::new();
    for _ in 1..SUBSCRIBERS {
        others.push(watch(&agent, below(&tree)).await?);
    }
    let mut watches = Vec::new();
    for mut watching in others {
        watches.push(tokio::spawn(async move {
            watching.tick().await?;
            for _ in 0..TICKS {
                let mirror = watching.tick().await?;
                anyhow::ensure!(mirror.merged == 0, "a tick came late");
            }
            Ok(watching)
        }));
    }
    for watching in watches {
        let watching = watching.await??;
        assert!(watching.mirror.rows.len() > CGROUPS, "{} rows", watching.mirror.rows.len());
    }
    let added_kib = rss_kib(&agent)?.saturating_sub(before_kib);
    assert!(added_kib < ADDED_KIB_MAX, "{added_kib} KiB for {SUBSCRIBERS} subscribers, on {before_kib} KiB");

    // It goes on with what there is then, and is told what it missed.
    let new = tree.path("new");
    tree.make("new")?;
    let mut newest = watch(&agent, below(&tree)).await?;
    newest.until("a new cgroup", |mirror| mirror.at(&new).is_some()).await?;
    let began = stalled.tick().await?.sequence();
    stalled.until("a new cgroup", |mirror| mirror.at(&new).is_some()).await?;
    let merged = stalled.mirror.merged;
    assert!(merged >= TICKS, "{merged} ticks merged, from {began} to {}", stalled.mirror.sequence());
    let common = stalled.mirror.sequence().max(newest.mirror.sequence());
    let (stalled, newest) = (stalled.until_sequence(common).await?, newest.until_sequence(common).await?);
    assert_eq!((stalled.sequence(), newest.sequence()), (common, common));
    assert!(stalled.rows == newest.rows, "the state that was told differs");
    Ok(())
}

fn rss_kib(agent: &Daemon) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|rss| rss.trim().strip_suffix(" kB")).context("no VmRSS")?;
    Ok(rss.trim().parse()?)
}

/// The interval's limit, and the number of intervals.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_intervals_are_walked_for_than_may_be() -> Result<()> {
    let agent = Start::agent()?.flag("--subscribe-intervals-max", "2").start().await?;
    let tree = TestTree::v2()?;
    let every =
        |seconds| SubscribeSpec { interval: Duration::from_secs(seconds).try_into().ok(), ..below(&tree) };
    let first = watch(&agent, every(5)).await?;
    let _second = watch(&agent, every(6)).await?;
    let _same = watch(&agent, every(6)).await?;
    let refused = watch(&agent, every(7)).await.map(drop).unwrap_err();
    let text = format!("{refused:#}");
    assert!(text.contains("subscribe_intervals_max") && text.contains("5s, 6s"), "{text}");
    // The place of one that was left is given away.
    drop(first);
    let patience = Duration::from_secs(20);
    integration_tests::wait::until("the interval that was left is given up", patience, || async {
        Ok(watch(&agent, every(7)).await.ok())
    })
    .await?;
    Ok(())
}
