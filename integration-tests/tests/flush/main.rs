//! Flushes that are asked for: what they make current, and how equal and too many ones are met.

mod fresh;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use cgfleet_proto::v1::{
    AgentServiceFlushRequest, AgentServiceFlushResponse, CgroupOrder, CgroupTarget, FlushMethod,
    FlushOutcome::{self, Coalesced, Performed, RateLimited, Skipped},
    FlushScope, FlushedSubsystem, WalkEngine, WalkSpec,
};
use futures::future::try_join_all;
use integration_tests::{
    cgroups::TestTree,
    cli,
    daemon::{Daemon, Start},
    wait,
    walk::{by_id, by_path, spec, walk},
};
use serde_json::Value;

/// No test takes so long.
const LONG: Duration = Duration::from_hours(1);

fn of(target: CgroupTarget) -> AgentServiceFlushRequest {
    AgentServiceFlushRequest { target: Some(target), ..AgentServiceFlushRequest::default() }
}

fn stale(max_staleness: Duration, target: CgroupTarget) -> AgentServiceFlushRequest {
    AgentServiceFlushRequest { max_staleness: max_staleness.try_into().ok(), ..of(target) }
}

fn upward(target: CgroupTarget) -> AgentServiceFlushRequest {
    AgentServiceFlushRequest { scope: FlushScope::Ancestors.into(), ..of(target) }
}

async fn flush(agent: &Daemon, request: AgentServiceFlushRequest) -> Result<AgentServiceFlushResponse> {
    Ok(agent.agent()?.flush(request).await?.into_inner())
}

/// When a flush ended, to tell flushes apart.
fn ended(flush: &AgentServiceFlushResponse) -> Option<(i64, i32)> {
    flush.flushed_at.map(|moment| (moment.seconds, moment.nanos))
}

fn method(flush: &AgentServiceFlushResponse, subsystem: &str) -> Option<FlushMethod> {
    let found = flush.subsystems.iter().find(|flushed| flushed.name == subsystem);
    found.map(FlushedSubsystem::method)
}

/// How this kernel lets a program flush each, by the functions that it has.
fn best_method(subsystem: &str) -> Result<FlushMethod> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").context("read /proc/kallsyms")?;
    let has = |name: &str| symbols.lines().any(|line| line.split_whitespace().nth(2) == Some(name));
    Ok(match subsystem {
        "memory" if has("css_rstat_flush") && !has("bpf_get_mem_cgroup") => FlushMethod::FilePastThreshold,
        "io" if has("css_rstat_flush") => FlushMethod::File,
        _ => FlushMethod::Rstat,
    })
}

/// What a host says of each subsystem fits its files: all that are there are named, none that is not.
#[tokio::test(flavor = "multi_thread")]
async fn each_subsystem_that_the_cgroup_has_says_how_it_was_flushed() -> Result<()> {
    let tree = TestTree::v2()?;
    let has = |file: &str| tree.directory("").join(file).exists();
    let files = [("cpu", "cpu.stat"), ("memory", "memory.stat"), ("io", "io.stat")];
    let there: Vec<&str> = files.iter().filter(|(_, file)| has(file)).map(|(name, _)| *name).collect();
    for (bpf, by_program) in [("require", true), ("off", false)] {
        let agent = Start::agent()?.flag("--bpf", bpf).start().await?;
        for target in [by_path(tree.path("")), by_id(tree.id("")?)] {
            let flushed = flush(&agent, of(target)).await?;
            let names: Vec<&str> = flushed.subsystems.iter().map(|flushed| flushed.name.as_str()).collect();
            assert_eq!(names, there, "bpf = {bpf}");
            for subsystem in &flushed.subsystems {
                let is_rstat = subsystem.method() == FlushMethod::Rstat;
                assert_eq!(subsystem.reason.is_empty(), is_rstat, "{subsystem:?}");
                assert!(is_rstat || subsystem.reason.contains(&format!("{}.stat", subsystem.name)));
                let expect = match subsystem.name.as_str() {
                    name if by_program => best_method(name)?,
                    "memory" => FlushMethod::FilePastThreshold,
                    _ => FlushMethod::File,
                };
                assert_eq!(subsystem.method(), expect, "{subsystem:?}, bpf = {bpf}");
            }
            assert_eq!(flushed.flush_ns > 0, by_program);
            assert!(by_program || flushed.files_ns > 0);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_of_the_subtree_or_of_what_an_ancestors_walk_needs() -> Result<()> {
    let tree = TestTree::v2()?;
    tree.make("P/C")?;
    for bpf in ["require", "off"] {
        let agent = Start::agent()?.flag("--bpf", bpf).start().await?;
        for (request, below) in [
            (of(by_path(tree.path("P/C"))), "P/C"),
            (upward(by_path(tree.path("P/C"))), ""),
            (upward(by_id(tree.id("P")?)), ""),
            (upward(by_path(tree.path(""))), ""),
        ] {
            let flushed = flush(&agent, request).await?;
            assert_eq!((flushed.outcome(), flushed.cgroup_id), (Performed, tree.id(below)?), "bpf = {bpf}");
            assert_eq!(flushed.path, tree.path(below));
        }
        let root = flush(&agent, upward(by_path("/"))).await?;
        assert_eq!((root.outcome(), ended(&root), root.cgroup_id), (Skipped, None, 0), "bpf = {bpf}");
        let root = flush(&agent, of(by_path("/"))).await?;
        assert_eq!((root.outcome(), root.path.as_str()), (Performed, "/"), "bpf = {bpf}");
    }
    Ok(())
}

/// A program reaches what is above a container's own cgroup, and files do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_upward_leaves_a_container_where_a_program_can() -> Result<()> {
    let tree = TestTree::v2()?;
    tree.make("box/in")?;
    for (bpf, topmost, path) in [("require", "", "/.."), ("off", "box", "/")] {
        let agent = Start::agent()?.flag("--bpf", bpf).in_container(&tree.directory("box")).start().await?;
        let flushed = flush(&agent, upward(by_path("/in"))).await?;
        assert_eq!((flushed.cgroup_id, flushed.path.as_str()), (tree.id(topmost)?, path), "bpf = {bpf}");
        for subsystem in &flushed.subsystems {
            let not_flushed = subsystem.method() == FlushMethod::NotFlushed;
            assert!(!not_flushed || bpf == "require" && subsystem.name != "cpu", "{subsystem:?}");
            assert!(!not_flushed || subsystem.reason.contains("not to be seen here"), "{subsystem:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recent_flush_of_the_subtree_or_one_around_it_is_enough_where_that_is_allowed() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    for below in ["P/C/D", "Q"] {
        tree.make(below)?;
    }
    let first = flush(&agent, stale(LONG, by_path(tree.path("P")))).await?;
    assert_eq!(first.outcome(), Performed, "there is none yet");
    let within = |below: &str| by_path(tree.path(below));
    let upward_stale =
        AgentServiceFlushRequest { max_staleness: LONG.try_into().ok(), ..upward(within("P/C")) };
    for (request, expect) in [
        (stale(LONG, within("P")), Skipped),
        (stale(LONG, within("P/C/D")), Skipped),
        (stale(LONG, by_id(tree.id("P/C")?)), Skipped),
        (stale(LONG, within("Q")), Performed),
        (stale(LONG, within("Q")), Skipped),
        (upward_stale.clone(), Performed),
        (upward_stale, Skipped),
        (stale(Duration::from_nanos(1), within("P/C")), Performed),
        (of(within("P/C")), Performed),
        (stale(Duration::ZERO, within("P/C")), Performed),
    ] {
        let flushed = flush(&agent, request.clone()).await?;
        assert_eq!(flushed.outcome(), expect, "{request:?}: {flushed:?}");
        if request == stale(LONG, within("P/C/D")) {
            assert_eq!((ended(&flushed), &flushed.path), (ended(&first), &first.path), "what covers it");
            assert_eq!((flushed.flush_ns, &flushed.subsystems), (first.flush_ns, &first.subsystems));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_flushes_that_wait_share_one() -> Result<()> {
    // No more places in the queue than two walks and one flush need.
    let agent = Start::agent()?.flag("--walk-queue-max", "4").start().await?;
    let tree = TestTree::v2()?;
    for number in 0..300 {
        tree.make(&format!("P/{number}"))?;
    }
    let long = WalkSpec {
        engine: WalkEngine::Files.into(),
        ..spec(by_path(tree.path("P")), CgroupOrder::DescendantsPre)
    };
    // The walker is busy meanwhile.
    let walks = try_join_all([walk(&agent, long.clone()), walk(&agent, long)]);
    let client = agent.agent()?;
    let flushes = try_join_all((0..50).map(|_| {
        let (mut client, request) = (client.clone(), of(by_path(tree.path("P"))));
        async move { client.flush(request).await }
    }));
    let (walks, flushes) = tokio::join!(walks, flushes);
    walks?;
    let flushes: Vec<_> = flushes?.into_iter().map(tonic::Response::into_inner).collect();
    let of_outcome = |outcome: FlushOutcome| {
        let of_it: BTreeSet<_> =
            flushes.iter().filter(|flush| flush.outcome() == outcome).filter_map(ended).collect();
        (flushes.iter().filter(|flush| flush.outcome() == outcome).count(), of_it)
    };
    let (performed, ended_at) = of_outcome(Performed);
    let (coalesced, shared) = of_outcome(Coalesced);
    assert_eq!(performed, ended_at.len(), "each that was performed is one of its own");
    assert_eq!(performed + coalesced, 50);
    assert!(shared.is_subset(&ended_at), "{shared:?} of {ended_at:?}");
    assert!((1..=10).contains(&performed), "{performed} flushes for 50 that asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_flushes_are_told_when_to_come_back() -> Result<()> {
    let agent = Start::agent()?.flag("--flushes-per-second-max", "1").start().await?;
    let tree = TestTree::v2()?;
    for below in ["P/C", "Q"] {
        tree.make(below)?;
    }
    let at = |below: &str| by_path(tree.path(below));
    let limited = wait::until("a flush past the limit", Duration::from_secs(10), || async {
        let performed = flush(&agent, of(at("P"))).await?;
        let next = flush(&agent, of(at("Q"))).await?;
        // A slow machine may take a second for the two.
        Ok((performed.outcome() == Performed && next.outcome() == RateLimited).then_some(next))
    })
    .await?;
    assert_eq!((ended(&limited), limited.cgroup_id, limited.subsystems.len()), (None, 0, 0));
    let retry_after = Duration::try_from(limited.retry_after.context("no retry_after")?)?;
    assert!(!retry_after.is_zero() && retry_after <= Duration::from_secs(1), "{retry_after:?}");
    let met = flush(&agent, stale(LONG, at("P/C"))).await?;
    assert_eq!((met.outcome(), met.retry_after), (Skipped, None), "what was flushed is still of use");
    wait::until("a flush again", Duration::from_secs(10), || async {
        Ok((flush(&agent, of(at("Q"))).await?.outcome() == Performed).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cgctl_shows_the_outcome_and_ends_with_3_where_nothing_was_flushed() -> Result<()> {
    let agent = Start::agent()?.flag("--flushes-per-second-max", "1").start().await?;
    let tree = TestTree::v2()?;
    tree.make("P")?;
    let (address, path, below) = (agent.address().to_string(), tree.path(""), tree.path("P"));
    let ran = async |options: &[&str]| {
        let arguments = ["flush", "--agent", &address, "-o", "ndjson"];
        cli::run("cgctl", &[&arguments, options].concat()).await
    };
    let flush_of = |stdout: &str| {
        let line: Value = serde_json::from_str(stdout)?;
        Ok::<_, anyhow::Error>(line.get("flush").context("no flush")?.clone())
    };
    let performed = ran(&[&below, "--scope", "ancestors"]).await?;
    assert_eq!(performed.code, 0, "{performed:?}");
    let performed = flush_of(&performed.stdout)?;
    assert_eq!((&performed["outcome"], &performed["path"]), (&"performed".into(), &path.clone().into()));
    assert_eq!(performed["subsystems"][0], serde_json::json!({"name": "cpu", "method": "rstat"}));

    let skipped = ran(&[&below, "--max-staleness", "1h"]).await?;
    assert_eq!(skipped.code, 0, "{skipped:?}");
    let skipped = flush_of(&skipped.stdout)?;
    assert_eq!((&skipped["outcome"], &skipped["flushed_at"]), (&"skipped".into(), &performed["flushed_at"]));

    let limited = wait::until("a flush past the limit", Duration::from_secs(20), || async {
        // Others than cgctl's are quick enough.
        flush(&agent, of(by_path(&path))).await?;
        let ran = ran(&[&path]).await?;
        Ok((ran.code != 0).then_some(ran))
    })
    .await?;
    assert_eq!(limited.code, 3, "{limited:?}");
    assert!(
        limited.stderr.contains("rate_limited") && limited.stderr.contains("try again in"),
        "{limited:?}"
    );
    let limited = flush_of(&limited.stdout)?;
    assert_eq!((&limited["outcome"], limited.get("flushed_at")), (&"rate_limited".into(), None));
    assert!(limited["retry_after_ns"].as_u64().is_some_and(|ns| ns > 0), "{limited}");
    Ok(())
}
