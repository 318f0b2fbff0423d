//! What is counted in a cgroup is in the sums of all above it, once.

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::{Metric, MetricGroup};
use cgfleet_proto::v1::{CgroupOrder, CgroupSample, CgroupTarget};
use integration_tests::{
    cgroups::TestTree,
    daemon::Daemon,
    load::{Load, Running, Stage},
    wait,
    walk::{spec, walk},
};

use crate::agent::{LEAVES, find, rows, start};

type Rows = HashMap<String, CgroupSample>;

fn value(rows: &Rows, path: &str, metric: Metric) -> Result<u64> {
    let row = rows.get(path).with_context(|| format!("no row {path}"))?;
    row.metric(metric).with_context(|| format!("no {} in {row:?}", metric.name()))
}

/// Every cgroup of the tree is the sum of its children, and so is its top.
fn check_sums(rows: &Rows, tree: &TestTree, metric: Metric) -> Result<()> {
    let at = |below: &str| value(rows, &tree.path(below), metric);
    for (parent, children) in
        [("child1", [LEAVES[0], LEAVES[1]]), ("child2", [LEAVES[2], LEAVES[3]]), ("", ["child1", "child2"])]
    {
        let sum = at(children[0])? + at(children[1])?;
        ensure!(
            at(parent)? == sum,
            "{}: {} at {parent:?}, {sum} in its children",
            metric.name(),
            at(parent)?
        );
    }
    Ok(())
}

fn grow() -> Result<TestTree> {
    let tree = TestTree::v2()?;
    LEAVES.iter().try_for_each(|leaf| tree.make(leaf).map(drop))?;
    Ok(tree)
}

pub(crate) async fn attached_tasks_add_up_to_the_root() -> Result<()> {
    let agent = start("attach").await?;
    let mut tree = grow()?;
    for leaf in LEAVES.iter().cycle().take(3 * LEAVES.len()) {
        tree.rest_in(leaf)?;
    }
    // A second flush without events changes nothing.
    for _ in 0..2 {
        let rows = rows(&agent, "/".to_owned(), MetricGroup::Attach).await?;
        for leaf in LEAVES {
            assert_eq!(value(&rows, &tree.path(leaf), Metric::AttachCount)?, 3, "{leaf}");
        }
        check_sums(&rows, &tree, Metric::AttachCount)?;
        assert_eq!(value(&rows, &tree.path(""), Metric::AttachCount)?, 12);
        assert!(value(&rows, "/", Metric::AttachCount)? >= 12);
    }
    Ok(())
}

pub(crate) async fn what_a_removed_cgroup_counted_stays() -> Result<()> {
    let agent = start("attach").await?;
    let mut tree = grow()?;
    LEAVES.iter().try_for_each(|leaf| tree.rest_in(leaf))?;
    let before = find(&agent, "attach").await?.cgroups;
    let removed = tree.directory(LEAVES[0]);
    tree.end_workers();
    let is_removed = async || Ok(fs::remove_dir(&removed).is_ok().then_some(()));
    wait::until("the cgroup to be empty", Duration::from_secs(10), is_removed).await?;
    // It is freed some time after, and has its places until then.
    let freed = async || {
        let rows = rows(&agent, tree.path(""), MetricGroup::Attach).await?;
        assert_eq!(value(&rows, &tree.path("child1"), Metric::AttachCount)?, 2);
        assert_eq!(value(&rows, &tree.path(""), Metric::AttachCount)?, 4);
        Ok((find(&agent, "attach").await?.cgroups < before).then_some(()))
    };
    wait::until("the cgroup to be freed", Duration::from_secs(30), freed).await?;
    let rows = rows(&agent, tree.path(""), MetricGroup::Attach).await?;
    check_sum_of_removed(&rows, &tree)
}

fn check_sum_of_removed(rows: &Rows, tree: &TestTree) -> Result<()> {
    assert_eq!(value(rows, &tree.path("child1"), Metric::AttachCount)?, 2, "with the removed one's");
    assert_eq!(value(rows, &tree.path(LEAVES[1]), Metric::AttachCount)?, 1);
    assert_eq!(value(rows, &tree.path(""), Metric::AttachCount)?, 4);
    Ok(())
}

/// cgroups of this tree, and beside them on v1, in which memory is limited.
fn limited(tree: &TestTree, beside: Option<&TestTree>, leaf: &str) -> Result<Vec<PathBuf>> {
    let (limit, directory) = match beside {
        Some(v1) => {
            v1.make(leaf)?;
            ("memory.limit_in_bytes", v1.directory(leaf))
        }
        None => ("memory.max", tree.directory(leaf)),
    };
    fs::write(directory.join(limit), "12582912").with_context(|| format!("limit {}", directory.display()))?;
    let mut cgroups = vec![tree.directory(leaf)];
    cgroups.extend(beside.map(|v1| v1.directory(leaf)));
    Ok(cgroups)
}

pub(crate) async fn reclaim_adds_up() -> Result<()> {
    let agent = start("reclaim").await?;
    let stage = Stage::make()?;
    let tree = grow()?;
    let beside = tree.beside_on_v1("memory")?;
    for parent in ["", "child1", "child2"] {
        tree.enable_controllers(parent)?;
    }
    for leaf in [LEAVES[0], LEAVES[2]] {
        let cgroups = limited(&tree, beside.as_ref(), leaf)?;
        let mut load = Running::start(Load::Refault, &stage.place(cgroups))?;
        load.worked()?;
        let reclaims = async || {
            let rows = rows(&agent, tree.path(""), MetricGroup::Reclaim).await?;
            let at = tree.path(leaf);
            let (count, ns) =
                (value(&rows, &at, Metric::ReclaimCount)?, value(&rows, &at, Metric::ReclaimTotal)?);
            Ok((count > 0 && ns > 0).then_some(()))
        };
        wait::until("memory to be reclaimed", Duration::from_secs(30), reclaims).await?;
    }
    let rows = rows(&agent, tree.path(""), MetricGroup::Reclaim).await?;
    check_sums(&rows, &tree, Metric::ReclaimCount)?;
    check_sums(&rows, &tree, Metric::ReclaimTotal)?;
    assert_eq!(value(&rows, &tree.path(LEAVES[1]), Metric::ReclaimCount)?, 0, "nothing is reclaimed there");
    Ok(())
}

pub(crate) async fn waits_for_a_cpu_add_up() -> Result<()> {
    let agent = start("runqueue").await?;
    let mut tree = grow()?;
    LEAVES.iter().try_for_each(|leaf| tree.work_in(leaf))?;
    let waited = async || {
        let rows = rows(&agent, tree.path(""), MetricGroup::Runqueue).await?;
        let enough =
            LEAVES.iter().map(|leaf| Ok(value(&rows, &tree.path(leaf), Metric::RunqueueCount)? > 20));
        let enough: Result<Vec<bool>> = enough.collect();
        Ok(enough?.into_iter().all(|it| it).then_some(()))
    };
    wait::until("tasks to have waited", Duration::from_secs(30), waited).await?;
    // Nothing may run while it is added up.
    drop_workers(&tree).await?;
    let rows = rows(&agent, tree.path(""), MetricGroup::Runqueue).await?;
    check_sums(&rows, &tree, Metric::RunqueueCount)?;
    check_sums(&rows, &tree, Metric::RunqueueTotal)?;
    let mut largest = 0;
    for leaf in LEAVES {
        let row = &rows[&tree.path(leaf)];
        let runqueue = row.runqueue.as_ref().context("it was counted")?;
        let (count, total, max) = (runqueue.count(), runqueue.total_ns(), runqueue.max_ns());
        ensure!(max > 0 && max <= total && total <= max * count, "{runqueue:?}");
        ensure!(runqueue.buckets.iter().sum::<u64>() == count, "every wait is in a bucket: {runqueue:?}");
        let last = runqueue.buckets.iter().rposition(|count| *count > 0).context("a bucket")?;
        ensure!(
            max >> last == 1 || last == 31 || (last == 0 && max < 2),
            "{max} is in bucket {last}: {runqueue:?}"
        );
        largest = largest.max(max);
    }
    assert_eq!(value(&rows, &tree.path(""), Metric::RunqueueMax)?, largest);
    Ok(())
}

/// Ends all that runs below, and waits until it has.
async fn drop_workers(tree: &TestTree) -> Result<()> {
    fs::write(tree.directory("").join("cgroup.kill"), "1")?;
    let events = tree.directory("").join("cgroup.events");
    let is_empty = async || Ok(fs::read_to_string(&events)?.contains("populated 0").then_some(()));
    wait::until("the workers to end", Duration::from_secs(10), is_empty).await
}

pub(crate) async fn block_requests_are_timed() -> Result<()> {
    let agent = start("block_io").await?;
    let stage = Stage::make()?;
    let tree = grow()?;
    tree.enable_controllers("")?;
    let beside = tree.beside_on_v1("blkio")?;
    let mut cgroups = vec![tree.directory("child1/1_1")];
    if let Some(v1) = &beside {
        v1.make("child1")?;
        cgroups = vec![v1.directory("child1")];
    } else {
        tree.enable_controllers("child1")?;
    }
    let mut load = Running::start(Load::Direct, &stage.place(cgroups))?;
    load.worked()?;
    if let Some(v1) = &beside {
        return check_v1_block_io(&agent, v1).await;
    }
    let counted = async || {
        let rows = rows(&agent, tree.path(""), MetricGroup::BlockIo).await?;
        let leaf = rows.get(&tree.path("child1/1_1")).and_then(|row| row.block_io.clone());
        Ok(leaf.filter(|leaf| leaf.count() > 0 && leaf.total_ns() >= leaf.max_ns() && leaf.max_ns() > 0))
    };
    let leaf = wait::until("requests to be complete", Duration::from_secs(30), counted).await?;
    ensure!(leaf.buckets.iter().sum::<u64>() == leaf.count(), "every request is in a bucket: {leaf:?}");
    Ok(())
}

/// A v1 hierarchy has rows of its own.
async fn check_v1_block_io(agent: &Daemon, v1: &TestTree) -> Result<()> {
    let counted = async || {
        let target = CgroupTarget {
            path: v1.path("child1"),
            hierarchy: "blkio".to_owned(),
            ..CgroupTarget::default()
        };
        let walked = walk(agent, spec(target, CgroupOrder::SelfOnly)).await?;
        Ok(walked.samples.first().and_then(|row| row.block_io.clone()).filter(|io| io.count() > 0))
    };
    let io = wait::until("requests to be complete", Duration::from_secs(30), counted).await?;
    ensure!(io.max_ns() > 0 && io.total_ns() >= io.max_ns(), "{io:?}");
    ensure!(io.buckets.iter().sum::<u64>() == io.count(), "every request is in a bucket: {io:?}");
    Ok(())
}
