//! The agent gives up every privilege when it has loaded its programs, and answers as before.

use anyhow::{Context as _, Result};
use cgfleet_model::{Metric, MetricGroup};
use cgfleet_proto::v1::{
    AgentServiceFlushRequest, CgroupOrder, CgroupTarget, GetCapabilitiesRequest, Source, SubscribeRequest,
    WalkEnd, WalkEngine, subscribe_response::Event,
};
use integration_tests::{
    cgroups::TestTree,
    cli,
    daemon::{Daemon, Start},
    privileges::{check_closed_to_others, check_unprivileged},
    walk::{by_id, by_path, spec, walk},
};
use serde_json::json;

const ORDERS: [CgroupOrder; 5] = [
    CgroupOrder::SelfOnly,
    CgroupOrder::DescendantsPre,
    CgroupOrder::DescendantsPost,
    CgroupOrder::AncestorsUp,
    CgroupOrder::Children,
];

/// What the agent says that it reads of ordinary cgroups of a hierarchy.
async fn groups_of(agent: &Daemon, hierarchy: &str) -> Result<Vec<MetricGroup>> {
    let answer = agent.agent()?.get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
    let readable = answer.metrics.iter().filter(|capability| {
        let is_here = capability.hierarchy.split(',').any(|name| name == hierarchy);
        is_here && capability.source() != Source::Unspecified
    });
    let metrics = readable.filter_map(|capability| Metric::from_name(&capability.metric));
    let mut groups: Vec<_> = metrics.map(|metric| metric.info().group).collect();
    groups.dedup();
    Ok(groups)
}

/// Walks from a cgroup with one child by every engine in every order, and flushes it.
async fn check_answers(agent: &Daemon, target: CgroupTarget, path: &str) -> Result<()> {
    let mut groups = groups_of(agent, &target.hierarchy).await?;
    if groups.is_empty() {
        // Elsewhere too, and named there.
        assert_eq!(target.hierarchy, "cpuacct", "nothing is read of it");
        groups.push(MetricGroup::Cpu);
    }
    let child = format!("{path}/child");
    let child = child.as_str();
    for order in ORDERS {
        for engine in [WalkEngine::Unlocked, WalkEngine::Locked] {
            let mut spec = spec(target.clone(), order);
            spec.set_engine(engine);
            let walked = walk(agent, spec).await.with_context(|| format!("{path} {order:?} {engine:?}"))?;
            let found: Vec<&str> = walked.samples.iter().map(|sample| sample.path.as_str()).collect();
            let expect = match order {
                CgroupOrder::DescendantsPre => vec![path, child],
                CgroupOrder::DescendantsPost => vec![child, path],
                CgroupOrder::Children => vec![child],
                _ => vec![path],
            };
            assert_eq!(found[..expect.len()], expect, "{order:?} {engine:?}");
            for sample in walked.samples.iter().take(expect.len()) {
                let absent: Vec<_> = groups.iter().filter(|group| sample.source(**group).is_none()).collect();
                assert!(absent.is_empty(), "{order:?} {engine:?} of {} has no {absent:?}", sample.path);
            }
            assert_eq!((walked.summary.end(), walked.summary.engine()), (WalkEnd::Complete, engine));
        }
    }
    let request = AgentServiceFlushRequest { target: Some(target), ..Default::default() };
    let flushed = agent.agent()?.flush(request).await.with_context(|| format!("flush {path}"))?.into_inner();
    assert_eq!(flushed.path, path);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_privilege_walks_and_flushes_old_and_new_cgroups() -> Result<()> {
    // A host of cgroup v2 alone has no others.
    let mut trees = vec![("", TestTree::v2()?)];
    for controller in ["memory", "cpuacct"] {
        trees.extend(TestTree::v1(controller)?.map(|tree| (controller, tree)));
    }
    for (_, tree) in &trees {
        tree.make("old/child")?;
        tree.enable_controllers("")?;
        tree.enable_controllers("old")?;
    }
    let agent = Start::agent()?.start().await?;
    let user = check_unprivileged(agent.pid())?;
    check_closed_to_others(&agent.state(), user)?;

    for (hierarchy, tree) in &trees {
        tree.make("new/child")?;
        tree.enable_controllers("new")?;
        for below in ["old", "new"] {
            let target = CgroupTarget { hierarchy: (*hierarchy).to_owned(), ..by_path(tree.path(below)) };
            check_answers(&agent, target, &tree.path(below)).await?;
            if hierarchy.is_empty() {
                check_answers(&agent, by_id(tree.id(below)?), &tree.path(below)).await?;
            }
        }
    }
    check_unprivileged(agent.pid())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_shows_what_is_held() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let user = check_unprivileged(agent.pid())?;
    let address = agent.address().to_string();
    let ran = cli::run("cgctl", &["doctor", "--agent", &address]).await?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let line = ran.stdout.lines().find_map(|line| line.strip_prefix("privileges"));
    let line = line.with_context(|| format!("the doctor shows no privileges: {}", ran.stdout))?;
    println!("privileges {line}");
    assert!(line.contains(&format!("uid {user}, ")), "{line}");
    assert!(line.contains("no capability, can gain none"), "{line}");

    let ran = cli::run("cgctl", &["doctor", "--agent", &address, "-o", "json"]).await?;
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout)?;
    let held = &answer["privileges"];
    assert_eq!((&held["uid"], &held["capabilities"]), (&json!(user), &json!([])), "{held}");
    assert_eq!(held["no_new_privs"], true, "{held}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_privilege_sends_ticks_with_old_and_new_cgroups() -> Result<()> {
    let tree = TestTree::v2()?;
    tree.make("old")?;
    let agent = Start::agent()?.start().await?;
    check_unprivileged(agent.pid())?;
    tree.make("new")?;
    let mut ticks = agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner();
    let mut met = Vec::new();
    loop {
        match ticks.message().await?.context("the stream ended")?.event.context("an empty part")? {
            Event::Header(_) | Event::Change(_) => {}
            Event::Batch(batch) => met.extend(batch.samples.into_iter().map(|sample| sample.path)),
            Event::Summary(_) => break,
        }
    }
    for below in ["old", "new"] {
        assert!(met.contains(&tree.path(below)), "{below} is not in the tick");
    }
    Ok(())
}

/// The second start finds what the first left, which is no longer root's.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_privilege_keeps_its_identity() -> Result<()> {
    let mut agent = Start::agent()?.start().await?;
    let host_id = async |agent: &Daemon| {
        let walked = walk(agent, spec(by_path("/"), CgroupOrder::SelfOnly)).await?;
        Ok::<_, anyhow::Error>(walked.header.host_id)
    };
    let before = host_id(&agent).await?;
    assert_eq!(agent.stop().await?, Some(0));
    agent.start_again().await?;
    assert_eq!(host_id(&agent).await?, before);
    check_unprivileged(agent.pid())?;
    Ok(())
}
