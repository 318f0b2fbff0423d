//! Walks over trees that are more than a slice, or more than one hold of cgroup_mutex.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, bail};
use cgfleet_proto::v1::{CgroupOrder, CgroupTarget, WalkEnd, WalkEngine, WalkSpec};
use integration_tests::{
    cgroups::{NamedV1, TestTree},
    daemon::{Daemon, Start},
    effort::repetitions,
    walk::{by_id, by_path, spec, walk},
};

/// An agent of the smallest slices and holds that can be configured.
async fn agent_of_small_bounds() -> Result<Daemon> {
    let bounds = [
        ("--slice-rows-max", "256"),
        ("--slice-names-max", "256"),
        ("--slice-time-max", "10us"),
        ("--locked-rows-max", "256"),
    ];
    bounds
        .into_iter()
        .fold(Start::agent()?.flushing_freely(), |start, (flag, value)| start.flag(flag, value))
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_cgroups_come_once_each_before_their_children() -> Result<()> {
    let cgroups = repetitions(20_000) as usize;
    let agent = Start::agent()?.flushing_freely().start().await?;
    let tree = TestTree::v2()?;
    let mut made = HashMap::from([(tree.id("")?, 0)]);
    for group in 0..cgroups / 100 {
        let parent = tree.make(&format!("{group}"))?;
        made.insert(parent, tree.id("")?);
        for leaf in 0..99 {
            made.insert(tree.make(&format!("{group}/{leaf}"))?, parent);
        }
    }
    let walked = walk(&agent, spec(by_path(tree.path("")), CgroupOrder::DescendantsPre)).await?;
    assert_eq!(walked.summary.end(), WalkEnd::Complete);
    assert_eq!(walked.samples.len(), cgroups + 1);
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

/// A tree with more than 256 children in one place, more than 256 below one child, and few elsewhere.
struct Uneven {
    tree: TestTree,
    target: CgroupTarget,
    /// What there is below the tree's root, with its level below it.
    made: HashMap<String, usize>,
}

impl Uneven {
    fn below(tree: TestTree, target: CgroupTarget) -> Result<Self> {
        let wide = (0..300).map(|leaf| format!("wide/{leaf}"));
        let tall = (0..40).flat_map(|group| (0..10).map(move |leaf| format!("tall/{group}/{leaf}")));
        let small = (0..20).map(|leaf| format!("small/{leaf}"));
        let mut made = HashMap::from([(String::new(), 0)]);
        for below in wide.chain(tall).chain(small).chain(["a".to_owned(), "z".to_owned()]) {
            tree.make(&below)?;
            for (end, _) in below.match_indices('/').chain([(below.len(), "")]) {
                made.insert(below[..end].to_owned(), below[..end].split('/').count());
            }
        }
        Ok(Self { tree, target, made })
    }

    fn spec(&self, order: CgroupOrder) -> WalkSpec {
        spec(self.target.clone(), order)
    }

    /// The paths that a walk of this depth without the root, or with it, has to give.
    fn expect(&self, order: CgroupOrder, max_depth: Option<u32>) -> HashSet<String> {
        let (from, to) = match (order, max_depth) {
            (CgroupOrder::Children, _) => (1, 1),
            (_, depth) => (0, depth.map_or(usize::MAX, |depth| depth as usize)),
        };
        let wanted = self.made.iter().filter(|(_, level)| (from..=to).contains(*level));
        wanted.map(|(below, _)| self.tree.path(below)).collect()
    }

    /// Walks it in this order: all that is wanted comes once, and a parent on the right side of its
    /// children.
    async fn check(&self, agent: &Daemon, spec: WalkSpec) -> Result<Vec<String>> {
        let (order, max_depth) = (spec.order(), spec.max_depth);
        let what = format!("{order:?} {max_depth:?} {:?}", spec.engine());
        let walked = walk(agent, spec).await.with_context(|| what.clone())?;
        assert_eq!(walked.summary.end(), WalkEnd::Complete, "{what}");
        let paths: Vec<String> = walked.samples.into_iter().map(|sample| sample.path).collect();
        let found: HashSet<String> = paths.iter().cloned().collect();
        assert_eq!((found.len(), &found), (paths.len(), &self.expect(order, max_depth)), "{what}");
        let at: HashMap<&str, usize> =
            paths.iter().enumerate().map(|(position, path)| (path.as_str(), position)).collect();
        for (path, position) in &at {
            let parent = path.rsplit_once('/').and_then(|(parent, _)| at.get(parent));
            let is_before = parent.is_none_or(|parent| parent < position);
            assert_eq!(
                is_before,
                order != CgroupOrder::DescendantsPost || parent.is_none(),
                "{what}: {path}"
            );
        }
        Ok(paths)
    }
}

/// Every order and depth, by both engines, gives the same rows in the same sequence.
async fn check_in_pieces(agent: &Daemon, uneven: &Uneven) -> Result<()> {
    use CgroupOrder::{Children, DescendantsPost, DescendantsPre};
    for (order, max_depth) in [
        (DescendantsPost, None),
        (DescendantsPre, None),
        (DescendantsPost, Some(1)),
        (DescendantsPost, Some(2)),
        (DescendantsPre, Some(1)),
        (DescendantsPre, Some(2)),
        (Children, None),
    ] {
        let spec = WalkSpec { max_depth, ..uneven.spec(order) };
        let locked = WalkSpec { engine: WalkEngine::Locked.into(), ..spec.clone() };
        let locked = uneven.check(agent, locked).await?;
        assert_eq!(
            uneven.check(agent, spec).await?,
            locked,
            "{order:?} {max_depth:?}: the order of siblings"
        );
    }
    Ok(())
}

/// Limit and stop_at hold over all of the pieces.
async fn check_ends(agent: &Daemon, uneven: &Uneven) -> Result<()> {
    for order in [CgroupOrder::DescendantsPre, CgroupOrder::DescendantsPost] {
        let whole = WalkSpec { engine: WalkEngine::Locked.into(), ..uneven.spec(order) };
        let paths = uneven.check(agent, whole.clone()).await?;
        for last in [0, 299, 300, paths.len() - 1] {
            let limit = u32::try_from(last + 1)?;
            let stop_at = CgroupTarget { path: paths[last].clone(), ..uneven.target.clone() };
            for (ended, end) in [
                (WalkSpec { limit, ..whole.clone() }, WalkEnd::Limit),
                (WalkSpec { stop_at: Some(stop_at), ..whole.clone() }, WalkEnd::StopAt),
            ] {
                let walked = walk(agent, ended).await?;
                let found: Vec<&String> = walked.samples.iter().map(|sample| &sample.path).collect();
                assert_eq!(walked.summary.end(), end, "{order:?} {last}");
                assert_eq!(found, paths[..=last].iter().collect::<Vec<_>>(), "{order:?} {last}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_walk_of_more_than_one_hold_is_done_in_pieces() -> Result<()> {
    let agent = agent_of_small_bounds().await?;
    let tree = TestTree::v2()?;
    let target = by_path(tree.path(""));
    let mut uneven = Uneven::below(tree, target)?;
    check_in_pieces(&agent, &uneven).await?;
    check_ends(&agent, &uneven).await?;
    uneven.target = by_id(uneven.tree.id("")?);
    check_in_pieces(&agent, &uneven).await
}

/// The v1 hierarchy is new, so that the first post-order walk of slices has no name of what it comes to
/// last, by whose directories it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_v1_walk_in_slices_or_pieces_is_whole_the_first_time() -> Result<()> {
    let v1 = NamedV1::mount()?;
    for engine in [WalkEngine::Unlocked, WalkEngine::Locked] {
        let agent = agent_of_small_bounds().await?;
        let tree = TestTree::on(v1.mount_point())?;
        let target = CgroupTarget { hierarchy: v1.hierarchy(), ..by_path(tree.path("")) };
        let uneven = Uneven::below(tree, target)?;
        let first = WalkSpec { engine: engine.into(), ..uneven.spec(CgroupOrder::DescendantsPost) };
        uneven.check(&agent, first).await?;
        if engine == WalkEngine::Locked {
            check_in_pieces(&agent, &uneven).await?;
        }
    }
    Ok(())
}

/// One hold of cgroup_mutex is bounded, however large the tree is. The hold of a walk that is cut is some
/// fraction of the hold of one that is not, in the same run.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_walk_in_pieces_holds_cgroup_mutex_for_less() -> Result<()> {
    const CGROUPS: u64 = 5_000;
    // A hierarchy of which nothing is flushed: 6.1 does that under cgroup_mutex, too.
    let v1 = NamedV1::mount()?;
    let whole = Start::agent()?.flushing_freely().flag("--locked-rows-max", "65536").start().await?;
    let pieces = Start::agent()?.flushing_freely().flag("--locked-rows-max", "256").start().await?;
    let tree = v1.tree();
    for group in 0..CGROUPS / 100 {
        for leaf in 0..99 {
            tree.make(&format!("{group}/{leaf}"))?;
        }
    }
    let target = CgroupTarget { hierarchy: v1.hierarchy(), ..by_path(tree.path("")) };
    let mut spec = spec(target, CgroupOrder::DescendantsPre);
    spec.set_engine(WalkEngine::Locked);
    let held_ns = async |agent: &Daemon| {
        let walked = walk(agent, spec.clone()).await?;
        assert_eq!((walked.summary.end(), walked.samples.len() as u64), (WalkEnd::Complete, CGROUPS + 1));
        Ok::<_, anyhow::Error>(walked.summary.cgroup_mutex_held_ns_max)
    };
    // The first walk names all, and a busy machine may take the CPU away in any hold of any other.
    let (mut least_whole, mut least_of_pieces) = (u64::MAX, u64::MAX);
    for _ in 0..50 {
        least_whole = least_whole.min(held_ns(&whole).await?);
        least_of_pieces = least_of_pieces.min(held_ns(&pieces).await?);
        if least_of_pieces < least_whole / 4 {
            println!("cgroup_mutex held: {least_whole} ns in one session, {least_of_pieces} ns in pieces");
            assert!(least_of_pieces > 0);
            return Ok(());
        }
    }
    bail!("{least_of_pieces} ns in pieces, {least_whole} ns in one session");
}

/// The newest cgroup is walked first, so that those before it are named by no walk until they are met.
#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_that_was_never_named_is_not_taken_for_a_removed_one() -> Result<()> {
    let agent = Start::agent()?.flushing_freely().flag("--slice-time-max", "10us").start().await?;
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
