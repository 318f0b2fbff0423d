//! An agent's walks over real cgroups of this host's kernel, through gRPC.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use cgfleet_proto::v1::{
    AgentServiceFlushRequest, CgroupOrder, CgroupSample, CgroupTarget, Source, SubscribeRequest, WalkEnd,
    WalkEngine, subscribe_response::Event,
};
use integration_tests::{
    cgroups::TestTree,
    daemon::Start,
    effort::repetitions,
    walk::{by_id, by_path, spec, walk},
};

/// Every engine, the preferred one first.
const ENGINES: [WalkEngine; 2] = [WalkEngine::Unlocked, WalkEngine::Locked];

fn paths(samples: &[CgroupSample]) -> Vec<&str> {
    samples.iter().map(|sample| sample.path.as_str()).collect()
}

/// The iterator cases of the kernel's own selftest, end to end: P with children C1 and C2, below T.
#[tokio::test(flavor = "multi_thread")]
async fn every_order_answers_as_the_kernel_does() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    let (c1, c2) = (tree.make("P/C1")?, tree.make("P/C2")?);
    let p = tree.id("P")?;
    let [top, path_p, path_c1, path_c2] = ["", "P", "P/C1", "P/C2"].map(|below| tree.path(below));

    for target in [by_path(&path_p), by_id(p), by_path(tree.directory("P").display().to_string())] {
        for (order, expect) in [
            (CgroupOrder::SelfOnly, vec![&path_p]),
            (CgroupOrder::DescendantsPre, vec![&path_p, &path_c1, &path_c2]),
            (CgroupOrder::DescendantsPost, vec![&path_c1, &path_c2, &path_p]),
            (CgroupOrder::AncestorsUp, vec![&path_p, &top, &"/".to_owned()]),
            (CgroupOrder::Children, vec![&path_c1, &path_c2]),
        ] {
            // The locked engine's iterator has this order from 7.0 on only.
            let engines = if order == CgroupOrder::Children { &ENGINES[..1] } else { &ENGINES[..] };
            for engine in engines {
                let mut spec = spec(target.clone(), order);
                spec.set_engine(*engine);
                let walked = walk(&agent, spec).await?;
                assert_eq!(paths(&walked.samples), expect, "{order:?} {engine:?}");
                assert_eq!(walked.summary.end(), WalkEnd::Complete);
                assert_eq!(walked.summary.engine(), *engine);
                assert_eq!(walked.summary.cgroups_visited, expect.len() as u64);
            }
        }
    }
    let ids: Vec<_> = walk(&agent, spec(by_path(&path_p), CgroupOrder::DescendantsPre)).await?.samples;
    let ids: Vec<_> = ids.iter().map(|sample| (sample.cgroup_id, sample.parent_id, sample.level)).collect();
    assert_eq!(ids, [(p, tree.id("")?, 2), (c1, p, 3), (c2, p, 3)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_ends_early_in_the_kernel() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    tree.make("P/C1")?;
    tree.make("P/C2")?;

    for engine in ENGINES {
        let mut limited = spec(by_path(tree.path("P")), CgroupOrder::DescendantsPre);
        (limited.limit, limited.engine) = (1, engine.into());
        let walked = walk(&agent, limited).await?;
        assert_eq!(paths(&walked.samples), [tree.path("P")]);
        assert_eq!((walked.summary.end(), walked.summary.cgroups_visited), (WalkEnd::Limit, 1));

        for stop_at in [by_path(tree.path("")), by_id(tree.id("")?)] {
            let mut stopped = spec(by_path(tree.path("P/C1")), CgroupOrder::AncestorsUp);
            (stopped.stop_at, stopped.engine) = (Some(stop_at), engine.into());
            let walked = walk(&agent, stopped).await?;
            assert_eq!(paths(&walked.samples), [tree.path("P/C1"), tree.path("P"), tree.path("")]);
            assert_eq!((walked.summary.end(), walked.summary.cgroups_visited), (WalkEnd::StopAt, 3));
            assert_eq!(walked.summary.flushed_cgroup_id, tree.id("")?, "the topmost of the answer");
        }
    }
    for (max_depth, expect) in [(0, vec!["P"]), (1, vec!["P", "P/C1", "P/C2"])] {
        let mut shallow = spec(by_path(tree.path("P")), CgroupOrder::DescendantsPre);
        shallow.max_depth = Some(max_depth);
        tree.make("P/C1/below")?;
        let walked = walk(&agent, shallow).await?;
        assert_eq!(paths(&walked.samples), expect.iter().map(|below| tree.path(below)).collect::<Vec<_>>());
    }
    Ok(())
}

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

/// Every byte but `/`, NUL and the newline, which the kernel refuses (kernel/cgroup/cgroup.c, `cgroup_mkdir`).
#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_bytes_come_back_and_can_be_asked_for() -> Result<()> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    for (name, text) in
        [(&b"a b"[..], "a b"), (b"a\tb", "a\\x09b"), (b"\xff\xfe", "\\xff\\xfe"), (b"b\\x", "b\\x5cx")]
    {
        std::fs::create_dir(tree.directory("").join(OsStr::from_bytes(name)))?;
        let path = format!("{}/{text}", tree.path(""));
        let walked = walk(&agent, spec(by_path(&path), CgroupOrder::SelfOnly)).await?;
        assert_eq!(paths(&walked.samples), [path.as_str()]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_cgroups_come_once_each_before_their_children() -> Result<()> {
    const CGROUPS: usize = 20_000;
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    let mut made = HashMap::from([(tree.id("")?, 0)]);
    for group in 0..CGROUPS / 100 {
        let parent = tree.make(&format!("{group}"))?;
        made.insert(parent, tree.id("")?);
        for leaf in 0..99 {
            made.insert(tree.make(&format!("{group}/{leaf}"))?, parent);
        }
    }
    let walked = walk(&agent, spec(by_path(tree.path("")), CgroupOrder::DescendantsPre)).await?;
    assert_eq!(walked.summary.end(), WalkEnd::Complete);
    assert_eq!(walked.samples.len(), CGROUPS + 1);
    let mut path_of: HashMap<u64, &str> = HashMap::new();
    for (index, sample) in walked.samples.iter().enumerate() {
        let parent = made.get(&sample.cgroup_id).context("a cgroup that was not made")?;
        assert!(path_of.insert(sample.cgroup_id, &sample.path).is_none(), "{} came twice", sample.path);
        if index > 0 {
            assert_eq!(sample.parent_id, *parent, "{}", sample.path);
            let above = path_of.get(parent).context("a child came before its parent")?;
            assert_eq!(sample.path.rsplit_once('/').map(|(above, _)| above), Some(*above));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_walk_past_the_agents_bound_says_so_and_an_unlocked_one_goes_on() -> Result<()> {
    let bounds = [("--slice-rows-max", "256"), ("--slice-names-max", "256"), ("--slice-time-max", "10us")];
    let agent = bounds
        .iter()
        .try_fold(Start::agent()?, |start, (flag, value)| Ok::<_, anyhow::Error>(start.flag(flag, value)));
    let agent = agent?.start().await?;
    let tree = TestTree::v2()?;
    for leaf in 0..1000 {
        tree.make(&format!("{leaf}"))?;
    }
    let mut locked = spec(by_path(tree.path("")), CgroupOrder::DescendantsPre);
    locked.set_engine(WalkEngine::Locked);
    let walked = walk(&agent, locked.clone()).await?;
    assert_eq!((walked.summary.end(), walked.samples.len()), (WalkEnd::Truncated, 256));
    assert_eq!(walked.summary.truncated_by, "slice_rows_max");
    for order in [CgroupOrder::DescendantsPre, CgroupOrder::DescendantsPost, CgroupOrder::Children] {
        let walked = walk(&agent, spec(by_path(tree.path("")), order)).await?;
        let expect = if order == CgroupOrder::Children { 1000 } else { 1001 };
        assert_eq!((walked.summary.end(), walked.samples.len()), (WalkEnd::Complete, expect), "{order:?}");
        let ids: HashSet<u64> = walked.samples.iter().map(|sample| sample.cgroup_id).collect();
        assert_eq!(ids.len(), expect, "{order:?}: each once");
    }
    Ok(())
}

/// The newest cgroup is walked first, so that those before it are named by no walk until they are met.
#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_that_was_never_named_is_not_taken_for_a_removed_one() -> Result<()> {
    let agent = Start::agent()?.flag("--slice-time-max", "10us").start().await?;
    let tree = TestTree::v2()?;
    for leaf in 0..2000 {
        tree.make(&format!("{}/{leaf}", leaf % 20))?;
    }
    tree.make("newest")?;
    let newest = walk(&agent, spec(by_path(tree.path("newest")), CgroupOrder::SelfOnly)).await?;
    assert_eq!(newest.samples.len(), 1);
    for order in [CgroupOrder::DescendantsPre, CgroupOrder::DescendantsPost] {
        let walked = walk(&agent, spec(by_path(tree.path("")), order)).await?;
        assert_eq!((walked.summary.end(), walked.samples.len()), (WalkEnd::Complete, 2022), "{order:?}");
    }
    Ok(())
}

/// Cgroups that come and go in each of ten groups, until this is dropped.
struct Storm {
    made: Arc<AtomicU32>,
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Storm {
    fn over(root: PathBuf) -> Self {
        let (made, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (Arc::clone(&made), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let passing: Vec<_> =
                    (0..10).map(|group| root.join(format!("{group}/passing-{number}"))).collect();
                passing.iter().try_for_each(std::fs::create_dir)?;
                passing.iter().try_for_each(std::fs::remove_dir)?;
            }
            Ok(())
        });
        Self { made, done, thread: Some(thread) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // Its tree can be removed only when nothing is made in it any more.
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Cgroups come and go while they are walked in the smallest of slices: what is there all the time is
/// there once, in order, and nothing else than what was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cgroups_leaves_no_duplicate_and_no_orphan() -> Result<()> {
    let agent = Start::agent()?.flag("--slice-time-max", "10us").start().await?;
    let tree = TestTree::v2()?;
    let mut steady: Vec<String> = Vec::new();
    for group in 0..10 {
        for leaf in 0..20 {
            tree.make(&format!("{group}/steady-{leaf:02}"))?;
            steady.push(tree.path(&format!("{group}/steady-{leaf:02}")));
        }
    }
    let storm = Storm::over(tree.directory(""));
    let (rounds, mut interrupted) = (repetitions(200), 0);
    for round in 0..rounds {
        let order = if round % 2 == 0 { CgroupOrder::DescendantsPre } else { CgroupOrder::DescendantsPost };
        let walked = walk(&agent, spec(by_path(tree.path("")), order)).await;
        let samples = match walked {
            Ok(walked) => walked.samples,
            // Said, and not hidden: the walk lost its place too often.
            Err(error) if error.to_string().contains("removed") => {
                interrupted += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut seen = HashSet::new();
        assert!(samples.iter().all(|sample| seen.insert(sample.cgroup_id)), "round {round}: a duplicate");
        assert!(
            samples
                .iter()
                .skip(1)
                .all(|sample| order == CgroupOrder::DescendantsPost || seen.contains(&sample.parent_id))
        );
        let known = |path: &str| {
            path.contains("/passing-") || path.contains("/steady-") || path.len() < tree.path("").len() + 4
        };
        assert!(samples.iter().all(|sample| known(&sample.path)));
        let found: Vec<&str> = paths(&samples).into_iter().filter(|path| path.contains("/steady-")).collect();
        assert_eq!(found, steady, "round {round}");
    }
    assert!(interrupted <= rounds / 10, "{interrupted} of {rounds} walks lost their place");
    let made = storm.made.load(Ordering::Relaxed);
    assert!(made > 10, "only {made} cgroups came and went");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_names_what_it_flushed() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    let target = Some(by_path(tree.path("")));
    let flushed = agent.agent()?.flush(AgentServiceFlushRequest { target }).await?.into_inner();
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
        }
    }
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    Ok(())
}
