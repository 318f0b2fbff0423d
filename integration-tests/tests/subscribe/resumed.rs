//! Streams that break and go on.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use cgfleet_proto::v1::ErrorReason;
use cgfleet_rpc::wire_error::reason_of;
use integration_tests::{cgroups::TestTree, churn::churn, daemon::Start, effort::repetitions, mirror::watch};
use tonic::Code;

use super::{agent, below};

/// Cgroups come and go below the tree until it is told to end; the ids of all of them.
fn churn_until(ends: Arc<AtomicBool>, tree: Arc<TestTree>) -> JoinHandle<Result<BTreeSet<u64>>> {
    thread::spawn(move || {
        let mut made = BTreeSet::new();
        for round in 0.. {
            if ends.load(Ordering::Relaxed) {
                break;
            }
            made.append(&mut churn(
                &tree,
                &format!("round-{round}"),
                "rest",
                100,
                Duration::from_millis(50),
            )?);
        }
        Ok(made)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_goes_on_without_a_gap_and_without_a_duplicate() -> Result<()> {
    let agent = Start::agent()?.flag("--sample-interval", "100ms").start().await?;
    let tree = Arc::new(TestTree::v2()?);
    let mut watching = watch(&agent, below(&tree)).await?;
    watching.tick().await?;
    tree.make("rest")?;
    let ends = Arc::new(AtomicBool::new(false));
    let churned = churn_until(Arc::clone(&ends), Arc::clone(&tree));
    for round in 0..repetitions(100) {
        // Within a tick or between two.
        for _ in 0..fastrand::usize(0..8) {
            watching.part().await?;
        }
        watching.reconnect(&agent).await.with_context(|| format!("reconnect {round}"))?;
    }
    ends.store(true, Ordering::Relaxed);
    let made = churned.join().map_err(|_| anyhow!("the churn panicked"))??;
    assert!(made.len() > 100, "{} cgroups came", made.len());

    let mut fresh = watch(&agent, below(&tree)).await?;
    let common = fresh.tick().await?.sequence().max(watching.tick().await?.sequence()) + 1;
    fresh.until_sequence(common).await?;
    watching.until_sequence(common).await?;
    assert_eq!((fresh.mirror.sequence(), watching.mirror.sequence()), (common, common));
    assert!(fresh.mirror.rows == watching.mirror.rows, "the state that was told differs from a new snapshot");
    assert_eq!(watching.mirror.lost, 0);
    let removed: BTreeSet<u64> = watching
        .mirror
        .removed
        .iter()
        .filter_map(|removed| removed.sample.as_ref().map(|sample| sample.cgroup_id))
        .collect();
    let alive: BTreeSet<u64> = watching.mirror.rows.keys().copied().collect();
    let told: BTreeSet<u64> = removed.union(&alive).copied().collect();
    assert!(made.is_subset(&told), "{} cgroups were never told of", made.difference(&told).count());
    assert!(removed.is_disjoint(&alive));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_agent_process_or_of_long_ago_is_refused() -> Result<()> {
    let mut agent = agent().await?;
    let tree = TestTree::v2()?;
    let mut watching = watch(&agent, below(&tree)).await?;
    watching.tick().await?;
    agent.kill_9()?;
    agent.start_again().await?;
    let refused = watching.reconnect(&agent).await.map(drop).unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::OutOfRange, ErrorReason::ResumeExpired));
    assert!(refused.message().contains("started anew"), "{refused}");

    // One that keeps nothing but the newest.
    let agent = Start::agent()?.flag("--history-bytes-max", "0").start().await?;
    let mut watching = watch(&agent, below(&tree)).await?;
    watching.tick().await?;
    let mut later = watch(&agent, below(&tree)).await?;
    later.until_sequence(watching.mirror.sequence() + 2).await?;
    let refused = watching.reconnect(&agent).await.map(drop).unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::OutOfRange, ErrorReason::ResumeExpired));
    assert!(refused.message().contains("history_bytes_max"), "{refused}");
    Ok(())
}
