//! Agents that cannot load BPF, for three reasons: they answer the same from cgroup files, and say so.

mod values;

use std::{process::Command as Shell, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::{Metric, MetricGroup};
use cgfleet_proto::v1::{
    AgentServiceFlushRequest, CgroupOrder, CgroupSample, CgroupTarget, Comparison, Condition, ErrorReason,
    GetCapabilitiesRequest, HierarchyJoin, RemovedValues, Source, SubscribeRequest, WalkEngine, WalkSpec,
    subscribe_response::Event,
};
use cgfleet_rpc::wire_error::reason_of;
use integration_tests::{
    cgroups::{NamedV1, TestTree},
    cli,
    daemon::{Daemon, Start},
    lacking::Lacking,
    walk::{Walked, by_id, by_path, spec, walk},
};
use tonic::{Code, Status};

const ORDERS: [CgroupOrder; 5] = [
    CgroupOrder::SelfOnly,
    CgroupOrder::DescendantsPre,
    CgroupOrder::DescendantsPost,
    CgroupOrder::AncestorsUp,
    CgroupOrder::Children,
];
/// The v1 hierarchies that tests make cgroups in, where the host has them.
const V1_CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];
const BY_BPF: [WalkEngine; 2] = [WalkEngine::Unlocked, WalkEngine::Locked];
/// No answer takes a tenth of this, in a guest either.
const PATIENCE: Duration = Duration::from_mins(1);

/// One agent for each reason not to have BPF.
async fn agents() -> Result<Vec<(Lacking, Daemon)>> {
    let mut agents = Vec::new();
    for lacking in Lacking::ALL {
        let agent = Start::agent()?.lacking(lacking).start().await;
        agents.push((lacking, agent.with_context(|| format!("{lacking:?}"))?));
    }
    Ok(agents)
}

async fn ask(agent: &Daemon, spec: WalkSpec) -> Result<Walked> {
    tokio::time::timeout(PATIENCE, walk(agent, spec)).await.context("no answer")?
}

/// Trees of one path on cgroup v2 and, where there are any, on v1 hierarchies.
fn trees() -> Result<Vec<(&'static str, TestTree)>> {
    let v2 = TestTree::v2()?;
    let mut v1 = Vec::new();
    for controller in V1_CONTROLLERS {
        v1.extend(v2.beside_on_v1(controller)?.map(|tree| (controller, tree)));
    }
    Ok(std::iter::once(("", v2)).chain(v1).collect())
}

fn on(hierarchy: &str, path: String) -> CgroupTarget {
    CgroupTarget { hierarchy: hierarchy.to_owned(), ..by_path(path) }
}

fn condition(metric: Metric, comparison: Comparison, value: u64) -> Condition {
    Condition { metric: metric.name().to_owned(), comparison: comparison.into(), value }
}

/// Every way to ask for T with P, its children C1 and C2, and what is below C1.
fn requests(target: &dyn Fn(&str) -> CgroupTarget) -> Vec<WalkSpec> {
    let of = |below: &str, order| spec(target(below), order);
    let mut requests: Vec<WalkSpec> = ORDERS.map(|order| of("P", order)).into();
    for order in ORDERS {
        requests.extend([1, 2, 3, 4, 100].map(|limit| WalkSpec { limit, ..of("P", order) }));
        requests.push(WalkSpec { stop_at: Some(target("P/C1")), ..of("P", order) });
    }
    requests.push(WalkSpec { stop_at: Some(target("")), ..of("P/C1/below", CgroupOrder::AncestorsUp) });
    for order in [CgroupOrder::DescendantsPre, CgroupOrder::DescendantsPost, CgroupOrder::Children] {
        requests.extend([0, 1, 2].map(|depth| WalkSpec { max_depth: Some(depth), ..of("P", order) }));
    }
    requests
}

/// What has to be the same whoever reads.
fn places(walked: &Walked) -> Vec<(u64, u64, u32, u32, &str)> {
    let place =
        |sample: &'_ CgroupSample| (sample.cgroup_id, sample.parent_id, sample.hierarchy_id, sample.level);
    let places = walked.samples.iter().map(|sample| (place(sample), sample.path.as_str()));
    places.map(|((id, parent, hierarchy, level), path)| (id, parent, hierarchy, level, path)).collect()
}

fn check_sources(walked: &Walked) {
    for sample in &walked.samples {
        for group in MetricGroup::ALL {
            let source = sample.source(*group);
            assert!(source.is_none_or(|source| source == Source::File), "{group:?} {source:?} of {sample:?}");
        }
    }
}

async fn check_same(with: &Daemon, without: &[(Lacking, Daemon)], spec: &WalkSpec) -> Result<Walked> {
    let expect = ask(with, spec.clone()).await.with_context(|| format!("with BPF: {spec:?}"))?;
    for (lacking, agent) in without {
        let found = ask(agent, spec.clone()).await.with_context(|| format!("{lacking:?}: {spec:?}"))?;
        assert_eq!(places(&found), places(&expect), "{lacking:?}: {spec:?}");
        assert_eq!(found.summary.end(), expect.summary.end(), "{lacking:?}: {spec:?}");
        assert_eq!(found.summary.engine(), WalkEngine::Files);
        assert!(found.summary.files_ns > 0);
        check_sources(&found);
    }
    Ok(expect)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_walk_has_the_rows_that_bpf_gives() -> Result<()> {
    let named = NamedV1::mount()?;
    let trees = trees()?;
    for tree in trees.iter().map(|(_, tree)| tree).chain([named.tree()]) {
        // Made in another order than that of their names.
        for below in ["P/C2", "P/C1/below", "P/A b\u{e9}"] {
            tree.make(below)?;
        }
    }
    let (with, without) = (Start::agent()?.flushing_freely().start().await?, agents().await?);
    let v2 = &trees[0].1;
    let by_name = named.hierarchy();
    let hierarchies = trees.iter().map(|(hierarchy, tree)| (*hierarchy, tree));
    for (hierarchy, tree) in hierarchies.chain([(by_name.as_str(), named.tree())]) {
        for spec in requests(&|below| on(hierarchy, tree.path(below))) {
            check_same(&with, &without, &spec).await?;
        }
        let directory = by_path(tree.directory("P").display().to_string());
        check_same(&with, &without, &spec(directory, CgroupOrder::DescendantsPre)).await?;
        check_same(&with, &without, &spec(on(hierarchy, "/".to_owned()), CgroupOrder::SelfOnly)).await?;
    }
    for spec in requests(&|below| by_id(v2.id(below).unwrap_or_default())) {
        let walked = check_same(&with, &without, &spec).await?;
        assert!(walked.samples.iter().all(|sample| sample.hierarchy_id == 0));
    }
    for order in ORDERS {
        let mut spec = spec(by_path(v2.path("P")), order);
        spec.set_join(HierarchyJoin::Path);
        check_same(&with, &without, &spec).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_ends_a_walk_where_bpf_ends_it() -> Result<()> {
    let mut trees = trees()?;
    for (_, tree) in &mut trees {
        tree.make("P/C1/below")?;
        tree.make("P/C2")?;
        for below in ["", "P", "P/C1"] {
            tree.enable_controllers(below)?;
        }
        tree.rest_in("P/C2")?;
        for (file, limit) in [("memory.max", "100000000"), ("memory.limit_in_bytes", "100000000")] {
            if tree.directory("P").join(file).exists() {
                std::fs::write(tree.directory("P").join(file), limit)?;
            }
        }
    }
    let (with, without) = (Start::agent()?.flushing_freely().start().await?, agents().await?);
    let conditions = [
        condition(Metric::StructurePopulated, Comparison::GreaterOrEqual, 1),
        condition(Metric::MemoryMax, Comparison::Less, u64::MAX),
        condition(Metric::MemoryMax, Comparison::GreaterOrEqual, u64::MAX),
        condition(Metric::PidsCurrent, Comparison::Greater, 0),
        condition(Metric::CpuUser, Comparison::Less, u64::MAX),
    ];
    for (hierarchy, tree) in &trees {
        for condition in &conditions {
            let metric = Metric::from_name(&condition.metric);
            // What only the kernel's own structures show of v1, and what only files show of v2.
            let differs = match metric {
                Some(Metric::StructurePopulated) => !hierarchy.is_empty(),
                Some(Metric::CpuUser) => hierarchy.is_empty(),
                _ => false,
            };
            if differs {
                continue;
            }
            for (below, order) in
                [("P/C1/below", CgroupOrder::AncestorsUp), ("P", CgroupOrder::DescendantsPre)]
            {
                let target = on(hierarchy, tree.path(below));
                let spec = WalkSpec { stop_when: Some(condition.clone()), ..spec(target, order) };
                check_same(&with, &without, &spec).await?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flushes_and_ticks_come_from_files_too() -> Result<()> {
    let trees = trees()?;
    for (lacking, agent) in agents().await? {
        for (hierarchy, tree) in &trees {
            let request =
                AgentServiceFlushRequest { target: Some(on(hierarchy, tree.path(""))), ..Default::default() };
            let flushed = agent.agent()?.flush(request).await?.into_inner();
            assert_eq!((flushed.cgroup_id, flushed.path), (tree.id("")?, tree.path("")), "{lacking:?}");
        }
        let tree = &trees[0].1;
        let request = AgentServiceFlushRequest { target: Some(by_id(tree.id("")?)), ..Default::default() };
        assert_eq!(agent.agent()?.flush(request).await?.into_inner().path, tree.path(""));

        let mut ticks = agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner();
        let mut rows = Vec::new();
        let summary = loop {
            let part = tokio::time::timeout(PATIENCE, ticks.message()).await.context("no tick")??;
            match part.and_then(|part| part.event).context("the stream ended")? {
                Event::Header(_) | Event::Change(_) => {}
                Event::Batch(batch) => rows.extend(batch.samples),
                Event::Summary(summary) => break summary,
            }
        };
        assert_eq!(summary.engine(), WalkEngine::Files, "{lacking:?}");
        let ours: Vec<_> = rows.iter().filter(|sample| sample.path == tree.path("")).collect();
        let [ours] = ours[..] else { panic!("{lacking:?}: {ours:?}") };
        assert_eq!(ours.cpu.as_ref().map(cgfleet_proto::v1::CpuSample::source), Some(Source::File));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_capabilities_and_doctor_say_so() -> Result<()> {
    for (lacking, agent) in agents().await? {
        let log = agent.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("no BPF here")).collect();
        assert!(matches!(lines[..], [line] if line.contains(lacking.reason())), "{lacking:?}: {log}");

        let answer = agent.agent()?.get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
        let engine = |wanted: WalkEngine| answer.engines.iter().find(|found| found.engine() == wanted);
        assert!(engine(WalkEngine::Files).is_some_and(|files| files.available), "{:?}", answer.engines);
        for by_bpf in BY_BPF {
            let engine = engine(by_bpf).context("an engine is not named")?;
            assert!(!engine.available && engine.reason.contains(lacking.reason()), "{engine:?}");
        }
        assert_eq!(answer.removed_values(), RemovedValues::Unspecified, "{lacking:?}");
        assert_eq!(answer.metrics.len(), Metric::ALL.len());
        for metric in &answer.metrics {
            let has_file = Metric::from_name(&metric.metric).is_some_and(|it| it.info().v2().is_some());
            let why = match metric.source() {
                Source::File => "without BPF, every value is read from its file",
                Source::Unspecified if has_file => "no hierarchy that is mounted has it",
                Source::Unspecified => lacking.reason(),
                Source::Bpf | Source::Rstat | Source::Fold => "no source but files",
            };
            assert!(metric.reason.contains(why), "{lacking:?}: {metric:?}");
        }
        let held = answer.privileges.clone().context("privileges")?;
        assert!(held.uid != 0 && held.capabilities.is_empty() && held.no_new_privs, "{held:?}");

        let address = agent.address().to_string();
        let doctor = cli::run("cgctl", &["doctor", "--agent", &address]).await?;
        assert_eq!(doctor.code, 0, "{}", doctor.stderr);
        let says = |words: &[&str]| {
            doctor.stdout.lines().any(|line| {
                let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                words.iter().all(|word| line.contains(word))
            })
        };
        assert!(says(&["files yes"]) && says(&["removed_values none"]), "{}", doctor.stdout);
        assert!(says(&["locked no", lacking.reason()]) && says(&["unlocked no", lacking.reason()]));
        for capability in &answer.metrics {
            let source = if capability.source() == Source::File { "file" } else { "none" };
            assert!(says(&[&format!("{} {source} ", capability.metric)]), "{}", doctor.stdout);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_bpf_removals_are_told_of_and_said_to_be() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let answer = agent.agent()?.get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
    // On 6.1 nothing can hold a removed cgroup until its CPU time is flushed.
    let is_oldest = answer.kernel_release.starts_with("6.1.");
    let expect = if is_oldest { RemovedValues::LastKnown } else { RemovedValues::Final };
    assert_eq!(answer.removed_values(), expect);
    let address = agent.address().to_string();
    let doctor = cli::run("cgctl", &["doctor", "--agent", &address, "-o", "json"]).await?;
    let shown: serde_json::Value = serde_json::from_str(&doctor.stdout)?;
    assert_eq!(shown["removed_values"], if is_oldest { "last_known" } else { "final" }, "{doctor:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_bpf_is_refused() -> Result<()> {
    for (lacking, agent) in agents().await? {
        for engine in BY_BPF {
            let mut spec = spec(by_path("/"), CgroupOrder::SelfOnly);
            spec.set_engine(engine);
            let refused = ask(&agent, spec).await.expect_err("there is no such engine here");
            let status = refused.downcast_ref::<Status>().context("no status")?;
            let expect = (Code::FailedPrecondition, ErrorReason::KernelUnsupported);
            assert_eq!((status.code(), reason_of(status)), expect, "{lacking:?}: {status}");
            for part in [engine.as_str_name(), lacking.reason(), "ask for files"] {
                assert!(status.message().contains(part), "{lacking:?}: {status}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_must_have_bpf_ends_with_one_line() -> Result<()> {
    for lacking in Lacking::ALL {
        let directory = integration_tests::daemon::state_dir()?;
        let state_dir = format!("--state-dir={}", directory.path().join("state").display());
        let binary = integration_tests::daemon::binary("cgfleet-agent")?.display().to_string();
        let words: Vec<&str> = lacking.wrapper().iter().copied().chain([binary.as_str()]).collect();
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut agent = Shell::new(program);
        agent.args(arguments);
        agent.args(["--bpf=require", "--listen-address=127.0.0.1:0", &state_dir]);
        if let Some(user) = lacking.user() {
            use std::os::unix::process::CommandExt as _;
            agent.uid(user).gid(user);
        }
        let ran = cli::run_command(&mut agent.into()).await?;
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{lacking:?}: {}", ran.stderr);
        ensure!(ran.stderr.trim_end().lines().count() == 1, "{lacking:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(lacking.reason()), "{lacking:?}: {}", ran.stderr);
    }
    Ok(())
}
