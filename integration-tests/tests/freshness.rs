//! How fresh an answer is: what a request allows, what it is told, and what requests share.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    AgentServiceFlushRequest, CgroupOrder, CgroupTarget, ErrorReason, FlushMode, FlushOutcome,
    SubscribeRequest, WalkEnd, WalkEngine, WalkSpec, WalkSummary, subscribe_response::Event,
};
use cgfleet_rpc::wire_error::{reason_of, retry_after_of};
use futures::future::{join_all, try_join_all};
use integration_tests::{
    cgroups::TestTree,
    cli,
    daemon::Start,
    effort::repetitions,
    wait,
    walk::{Walked, by_id, by_path, spec, walk, walk_through},
};
use prost_types::{FieldMask, Timestamp};
use serde_json::Value;
use tonic::Status;

/// The longest that is allowed.
const LONG: Duration = Duration::from_hours(1);

fn fresh(spec: WalkSpec, max_staleness: Duration, flush: FlushMode) -> WalkSpec {
    WalkSpec { max_staleness: max_staleness.try_into().ok(), flush: flush.into(), ..spec }
}

fn reading(spec: WalkSpec, group: &str) -> WalkSpec {
    WalkSpec { read_mask: Some(FieldMask { paths: vec![group.to_owned()] }), ..spec }
}

fn at(moment: Option<Timestamp>) -> Option<(i64, i32)> {
    moment.map(|moment| (moment.seconds, moment.nanos))
}

/// The reason and the time to wait of a walk that was refused.
fn refusal(answer: Result<Walked>) -> Result<(ErrorReason, Option<Duration>)> {
    let error = answer.err().context("it was answered")?;
    let status = error.downcast_ref::<Status>().context("no status")?;
    Ok((reason_of(status), retry_after_of(status)))
}

/// Shows 5: what a crowd asks for is walked as often as its staleness needs, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_equal_walks_are_one_in_each_time_that_they_may_be_stale() -> Result<()> {
    const CLIENTS: usize = 1000;
    const STALE: Duration = Duration::from_millis(250);
    let walks = repetitions(3);
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    (0..30).try_for_each(|number| tree.make(&format!("c{number}")).map(drop))?;
    let spec = spec(by_path(tree.path("")), CgroupOrder::DescendantsPre);
    let spec = reading(fresh(spec, STALE, FlushMode::IfStale), "cpu");
    let channels = (0..20).map(|_| agent.agent()).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let answers = try_join_all((0..CLIENTS).map(|number| {
        let (mut client, spec) = (channels[number % channels.len()].clone(), spec.clone());
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..walks {
                let asked_at = SystemTime::now();
                answers.push((asked_at, walk_through(&mut client, spec.clone()).await?));
            }
            anyhow::Ok(answers)
        })
    }))
    .await?;
    let took = began.elapsed();
    let answers: Vec<_> = answers.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    assert_eq!(answers.len(), CLIENTS * walks as usize);
    for (asked_at, Walked { samples, summary, .. }) in &answers {
        assert_eq!((samples.len(), summary.end()), (31, WalkEnd::Complete));
        for moment in [summary.read_at, summary.flushed_at] {
            let moment = SystemTime::try_from(moment.context("a moment is missing")?)?;
            assert!(moment + STALE >= *asked_at, "{summary:?} for a request at {asked_at:?}");
        }
        assert!(summary.request_ns > 0 && summary.request_ns <= took.as_nanos().try_into()?, "{summary:?}");
    }
    let most = 1 + took.as_nanos().div_ceil(STALE.as_nanos());
    let read: BTreeSet<_> = answers.iter().filter_map(|(_, walked)| at(walked.summary.read_at)).collect();
    let made = answers.iter().filter(|(_, walked)| !walked.summary.shared).count();
    println!("{} answers in {took:?}: {made} walks, of at most {most}", answers.len());
    assert_eq!(read.len(), made, "each walk was made for one request");
    assert!(made as u128 <= most, "{made} walks in {took:?}");
    Ok(())
}

/// Without a cache, and where nothing may be stale: those that come while the walker is busy share.
#[tokio::test(flavor = "multi_thread")]
async fn equal_walks_that_wait_share_one_that_began_after_they_came() -> Result<()> {
    let agent =
        Start::agent()?.flag("--walk-cache-rows-max", "0").flag("--walk-queue-max", "2").start().await?;
    let tree = TestTree::v2()?;
    (0..200).try_for_each(|number| tree.make(&format!("c{number}")).map(drop))?;
    let spec = spec(by_path(tree.path("")), CgroupOrder::DescendantsPre);
    let (spec, began) = (WalkSpec { engine: WalkEngine::Files.into(), ..spec }, SystemTime::now());
    let client = agent.agent()?;
    let answers = try_join_all((0..100).map(|_| {
        let (mut client, spec) = (client.clone(), spec.clone());
        async move { walk_through(&mut client, spec).await }
    }))
    .await?;
    let read: BTreeSet<_> = answers.iter().filter_map(|walked| at(walked.summary.read_at)).collect();
    let made = answers.iter().filter(|walked| !walked.summary.shared).count();
    assert_eq!(read.len(), made);
    assert!((1..=20).contains(&made), "{made} walks for 100 that asked at once");
    for Walked { summary, samples, .. } in &answers {
        assert_eq!((samples.len(), summary.flush_outcome()), (201, FlushOutcome::Unspecified));
        assert!(SystemTime::try_from(summary.read_at.context("no read_at")?)? >= began);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_used_again_for_the_same_request_that_allows_its_age() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    tree.make("P/C")?;
    let of = |below: &str, order| spec(by_path(tree.path(below)), order);
    let stale = |spec, flush| fresh(spec, LONG, flush);
    let pre = || of("P", CgroupOrder::DescendantsPre);
    let first = walk(&agent, stale(pre(), FlushMode::IfStale)).await?;
    assert!(!first.summary.shared, "there is none yet");
    tree.make("P/D")?;
    for (request, shared) in [
        (stale(pre(), FlushMode::IfStale), true),
        (stale(pre(), FlushMode::Unspecified), true),
        (fresh(pre(), LONG / 2, FlushMode::Never), true),
        (stale(of("P", CgroupOrder::DescendantsPost), FlushMode::IfStale), false),
        (stale(of("P/C", CgroupOrder::DescendantsPre), FlushMode::IfStale), false),
        (stale(reading(pre(), "cpu"), FlushMode::IfStale), false),
        (WalkSpec { limit: 1, ..stale(pre(), FlushMode::IfStale) }, false),
        (stale(spec(by_id(tree.id("P")?), CgroupOrder::DescendantsPre), FlushMode::IfStale), false),
        (fresh(pre(), Duration::from_nanos(1), FlushMode::IfStale), false),
        (stale(pre(), FlushMode::Always), false),
        (pre(), false),
    ] {
        let again = walk(&agent, request.clone()).await?;
        assert_eq!(again.summary.shared, shared, "{request:?}");
        if shared {
            assert_eq!(again.samples, first.samples, "{request:?}");
            let costs = WalkSummary { shared: false, request_ns: 0, ..again.summary };
            assert_eq!(costs, WalkSummary { request_ns: 0, ..first.summary.clone() });
        }
    }
    let off = Start::agent()?.flag("--walk-cache-rows-max", "2").start().await?;
    for _ in 0..2 {
        let walked = walk(&off, stale(pre(), FlushMode::IfStale)).await?;
        assert_eq!(
            (walked.samples.len(), walked.summary.shared),
            (3, false),
            "three rows are too many to keep"
        );
    }
    Ok(())
}

/// Flushes that are asked for, those of walks and those of ticks are in one ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_uses_a_flush_that_covers_it_as_a_flush_does() -> Result<()> {
    use FlushMode::{Always, IfStale, Never};
    use FlushOutcome::{Performed, Skipped, Unspecified};
    let agent = Start::agent()?.flag("--walk-cache-rows-max", "0").flag("--collectors", "").start().await?;
    let tree = TestTree::v2()?;
    ["P/C/D", "Q"].into_iter().try_for_each(|below| tree.make(below).map(drop))?;
    let within = |below: &str| by_path(tree.path(below));
    let pre = |below: &str| spec(within(below), CgroupOrder::DescendantsPre);
    let up = |below: &str| spec(within(below), CgroupOrder::AncestorsUp);
    let flush = async |target: CgroupTarget| {
        let max_staleness = LONG.try_into().ok();
        let request = AgentServiceFlushRequest {
            target: Some(target),
            max_staleness,
            ..AgentServiceFlushRequest::default()
        };
        anyhow::Ok(agent.agent()?.flush(request).await?.into_inner())
    };
    let check = async |spec: WalkSpec, outcome, flushed: u64| {
        let WalkSummary { flushed_at, flushed_cgroup_id, read_at, .. } = {
            let summary = walk(&agent, spec.clone()).await?.summary;
            assert_eq!(summary.flush_outcome(), outcome, "{spec:?}: {summary:?}");
            summary
        };
        assert_eq!((flushed_cgroup_id, flushed_at.is_some()), (flushed, flushed != 0), "{spec:?}");
        assert!(read_at.is_some());
        anyhow::Ok(flushed_at)
    };
    let (top, p, q) = (tree.id("")?, tree.id("P")?, tree.id("Q")?);
    check(fresh(pre("P"), LONG, Never), Unspecified, 0).await?;
    check(fresh(reading(pre("P"), "structure"), LONG, Always), Unspecified, 0).await?;
    check(spec(by_path("/"), CgroupOrder::SelfOnly), Unspecified, 0).await?;
    check(fresh(spec(by_path("/"), CgroupOrder::AncestorsUp), Duration::ZERO, Always), Unspecified, 0)
        .await?;
    let by_walk = check(fresh(pre("P"), LONG, IfStale), Performed, p).await?;
    // Where memory.stat is read from files, a walk does not flush it, and a Flush wants it flushed.
    let mounted = tree.directory("");
    let controllers = mounted.parent().context("a tree is below a mount")?.join("cgroup.controllers");
    if !fs::read_to_string(controllers)?.contains("memory") {
        let met = flush(within("P/C")).await?;
        assert_eq!(
            (met.outcome(), at(met.flushed_at)),
            (Skipped, at(by_walk)),
            "a walk's flush meets a Flush"
        );
        assert_eq!(met.path, tree.path("P"));
    }
    for below in ["P", "P/C", "P/C/D"] {
        assert_eq!(at(check(fresh(pre(below), LONG, IfStale), Skipped, p).await?), at(by_walk));
    }
    check(fresh(pre("P/C"), LONG, Always), Performed, tree.id("P/C")?).await?;
    check(pre("P"), Performed, p).await?;
    check(fresh(pre("Q"), LONG, IfStale), Performed, q).await?;
    check(WalkSpec { limit: 2, ..fresh(up("P/C/D"), LONG, IfStale) }, Skipped, p).await?;
    check(WalkSpec { stop_at: Some(within("P")), ..fresh(up("P/C/D"), LONG, IfStale) }, Skipped, p).await?;
    check(fresh(up("P/C/D"), LONG, IfStale), Performed, top).await?;
    check(fresh(up("Q"), LONG, IfStale), Skipped, top).await?;
    check(fresh(spec(by_path("/"), CgroupOrder::SelfOnly), LONG, IfStale), Unspecified, 0).await?;
    let asked_for = flush(by_path("/")).await?;
    assert_eq!(asked_for.outcome(), Performed);
    let by_flush = check(fresh(pre("Q"), LONG, IfStale), Skipped, asked_for.cgroup_id).await?;
    assert_eq!(at(by_flush), at(asked_for.flushed_at));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_flush_whatever_the_limit_and_others_may_use_that() -> Result<()> {
    let agent = Start::agent()?.flag("--flushes-per-second-max", "1").start().await?;
    let tree = TestTree::v2()?;
    tree.make("P")?;
    let mut ticks = agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner();
    let mut flushed = BTreeSet::new();
    while flushed.len() < 5 {
        if let Some(Event::Summary(summary)) = ticks.message().await?.context("the ticks ended")?.event {
            assert_eq!((summary.flush_outcome(), summary.flushed_cgroup_id), (FlushOutcome::Performed, 1));
            flushed.extend(at(summary.flushed_at));
        }
    }
    let stale = fresh(spec(by_path(tree.path("P")), CgroupOrder::SelfOnly), LONG, FlushMode::IfStale);
    let summary = walk(&agent, stale).await?.summary;
    assert_eq!((summary.flush_outcome(), summary.flushed_cgroup_id), (FlushOutcome::Skipped, 1));
    Ok(())
}

/// Shows 5: past the budget a flush is refused, with the time when it is not.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_that_always_want_a_flush_get_what_the_budget_allows() -> Result<()> {
    const PER_SECOND: u32 = 10;
    const ASKED_FOR: Duration = Duration::from_secs(2);
    let agent = Start::agent()?.flag("--flushes-per-second-max", &PER_SECOND.to_string()).start().await?;
    let tree = TestTree::v2()?;
    tree.make("P/C")?;
    let of = |flush| fresh(spec(by_path(tree.path("P")), CgroupOrder::DescendantsPre), Duration::ZERO, flush);
    let began = Instant::now();
    let clients = join_all((0..50).map(|_| async {
        let (mut client, mut flushed, mut refused) = (agent.agent()?, Vec::new(), 0_u32);
        while began.elapsed() < ASKED_FOR {
            let asked_at = SystemTime::now();
            match walk_through(&mut client, of(FlushMode::Always)).await {
                Ok(Walked { summary, samples, .. }) => {
                    ensure!(samples.len() == 2, "{} rows", samples.len());
                    let flushed_at = SystemTime::try_from(summary.flushed_at.context("no flush")?)?;
                    ensure!(flushed_at >= asked_at, "a flush from before the request: {summary:?}");
                    flushed.extend(at(summary.flushed_at));
                }
                refused_now => {
                    let (reason, retry_after) = refusal(refused_now)?;
                    let retry_after = retry_after.context("no RetryInfo")?;
                    ensure!(reason == ErrorReason::FlushRateLimited, "{reason:?}");
                    ensure!(
                        !retry_after.is_zero() && retry_after <= Duration::from_secs(1),
                        "{retry_after:?}"
                    );
                    refused += 1;
                }
            }
        }
        anyhow::Ok((flushed, refused))
    }));
    let clients = clients.await.into_iter().collect::<Result<Vec<_>>>()?;
    let took = began.elapsed();
    let refused: u32 = clients.iter().map(|(_, refused)| refused).sum();
    let answered: usize = clients.iter().map(|(flushed, _)| flushed.len()).sum();
    let flushes: BTreeSet<_> = clients.into_iter().flat_map(|(flushed, _)| flushed).collect();
    let most = f64::from(PER_SECOND) * (1.0 + took.as_secs_f64());
    println!("{answered} answers by {} flushes, {refused} refused, in {took:?}", flushes.len());
    assert!(refused > 0 && !flushes.is_empty());
    assert!(f64::from(u32::try_from(flushes.len())?) <= most, "{} flushes, of at most {most}", flushes.len());
    // Who wants less is answered all the same.
    walk(&agent, of(FlushMode::Never)).await?;
    let stale = fresh(of(FlushMode::IfStale), LONG, FlushMode::IfStale);
    assert_eq!(walk(&agent, stale).await?.summary.flush_outcome(), FlushOutcome::Skipped);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_cgroup_is_does_not_use_the_budget_up() -> Result<()> {
    let agent = Start::agent()?.flag("--flushes-per-second-max", "1").start().await?;
    let tree = TestTree::v2()?;
    for _ in 0..20 {
        let gone = walk(&agent, spec(by_id(u64::MAX), CgroupOrder::SelfOnly)).await;
        assert_eq!(refusal(gone)?.0, ErrorReason::CgroupNotFound);
        walk(&agent, spec(by_path("/"), CgroupOrder::SelfOnly)).await?;
    }
    let summary = walk(&agent, spec(by_path(tree.path("")), CgroupOrder::SelfOnly)).await?.summary;
    assert_eq!(summary.flush_outcome(), FlushOutcome::Performed);
    // Now it is used up, and what needs none is answered.
    walk(&agent, spec(by_path("/"), CgroupOrder::SelfOnly)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cgctl_says_how_fresh_it_is_or_when_to_try_again() -> Result<()> {
    let agent = Start::agent()?.flag("--flushes-per-second-max", "1").start().await?;
    let tree = TestTree::v2()?;
    let path = &tree.path("");
    let address = agent.address().to_string();
    let ran = async |options: &[&str]| {
        let arguments = ["query", "--agent", &address, path, "--order", "self", "-o", "ndjson"];
        cli::run("cgctl", &[&arguments, options].concat()).await
    };
    let limited = wait::until("a refusal", Duration::from_secs(20), || async {
        // Others than cgctl's are quick enough.
        drop(
            walk(
                &agent,
                fresh(spec(by_path(path), CgroupOrder::SelfOnly), Duration::ZERO, FlushMode::Always),
            )
            .await,
        );
        let ran = ran(&["--flush", "always"]).await?;
        Ok((ran.code != 0).then_some(ran))
    })
    .await?;
    assert_eq!(limited.code, 3, "{limited:?}");
    assert!(limited.stderr.contains("FLUSH_RATE_LIMITED: "), "{limited:?}");
    assert!(limited.stderr.contains("; try again in "), "{limited:?}");
    for (options, outcome) in
        [(&["--flush", "never"][..], None), (&["--max-staleness", "1h"], Some("skipped"))]
    {
        let answered = ran(options).await?;
        assert_eq!(answered.code, 0, "{answered:?}");
        assert!(answered.stderr.contains("; read 2"), "{answered:?}");
        let last: Value = serde_json::from_str(answered.stdout.lines().last().context("no line")?)?;
        let result = &last["result"];
        assert_eq!(result.get("flush_outcome").and_then(Value::as_str), outcome, "{result}");
        assert_eq!(result.get("flushed_at").is_some(), outcome.is_some(), "{result}");
        assert!(result["read_at"].is_string() && result["request_ns"].as_u64() > Some(0), "{result}");
        assert_eq!(result["shared"], false, "{result}");
    }
    Ok(())
}
