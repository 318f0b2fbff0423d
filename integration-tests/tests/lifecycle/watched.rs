//! What the walker reports while removals are watched.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    path::Path,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use cgfleet_agent::walker::{Removals, Removed, RemovedValues, Walker};
use cgfleet_model::{MetricGroup, escape_path};
use cgfleet_proto::v1::Source;
use integration_tests::{cgroups::TestTree, effort::repetitions, wait};
use tokio::time::{MissedTickBehavior, interval};

use crate::{ALONE, SLOTS, dying_below, holds, walker};

/// The default of removed_cgroups_max.
pub(crate) const KEPT_MAX: u32 = 32_768;

/// Of the removals, those of this tree by path.
async fn removed(walker: &Walker, tree: &TestTree) -> Result<HashMap<String, Removed>> {
    let Removals { removed, lost } = walker.removals().await?;
    assert_eq!(lost, 0);
    let above = tree.path("");
    let of_tree = removed.into_iter().filter(|removed| removed.sample.path.starts_with(&above));
    Ok(of_tree.map(|removed| (removed.sample.path.clone(), removed)).collect())
}

#[tokio::test]
async fn a_cgroup_that_lived_between_two_looks_is_reported_once() -> Result<()> {
    let _alone = ALONE.lock().await;
    let walker = walker(SLOTS, KEPT_MAX)?;
    let tree = TestTree::v2()?;
    tree.make("before")?;
    assert!(walker.watch_removals(true).await?);
    assert!(removed(&walker, &tree).await?.is_empty());
    let begun = SystemTime::now();
    let (id, parent_id) = (tree.make("made")?, tree.id("")?);
    fs::remove_dir(tree.directory("made"))?;
    fs::remove_dir(tree.directory("before"))?;
    let reported = removed(&walker, &tree).await?;
    let ended = SystemTime::now();
    assert_eq!(reported.len(), 2, "{:?}", reported.keys());

    let Removed { sample, values, created_at, removed_at } = &reported[&tree.path("made")];
    let removed_at = removed_at.context("no time of its removal")?;
    assert_eq!((sample.cgroup_id, sample.parent_id, sample.hierarchy_id), (id, parent_id, 0));
    let depth = sample.path.split('/').filter(|name| !name.is_empty()).count();
    assert_eq!(sample.level as usize, depth, "the tests run at the real root");
    let expect = if holds()? { RemovedValues::Final } else { RemovedValues::LastKnown };
    assert_eq!(*values, expect);
    let created_at = created_at.context("it was seen being made")?;
    // The two clocks are not read at one instant.
    let slack = Duration::from_millis(10);
    ensure!(
        begun - slack <= created_at && created_at <= removed_at && removed_at <= ended + slack,
        "{created_at:?}, {removed_at:?}"
    );
    assert_eq!(reported[&tree.path("before")].created_at, None);
    assert!(removed(&walker, &tree).await?.is_empty(), "each is reported once");
    Ok(())
}

#[tokio::test]
async fn a_removed_cgroup_has_the_groups_of_its_controllers() -> Result<()> {
    let _alone = ALONE.lock().await;
    let walker = walker(SLOTS, KEPT_MAX)?;
    let mut tree = TestTree::v2()?;
    tree.enable_controllers("")?;
    tree.make("leaf")?;
    tree.make("rest")?;
    let controllers = fs::read_to_string(tree.directory("leaf").join("cgroup.controllers"))?;
    let has_pressure = fs::read_to_string(tree.directory("leaf").join("cpu.pressure")).is_ok();
    tree.visit(["leaf", "rest"].map(str::to_owned))?;
    walker.watch_removals(true).await?;
    fs::remove_dir(tree.directory("leaf"))?;
    let reported = removed(&walker, &tree).await?;
    let sample = &reported[&tree.path("leaf")].sample;
    let has = |controller: &str| controllers.split_whitespace().any(|it| it == controller);
    for (group, expect) in [
        (MetricGroup::Cpu, true),
        (MetricGroup::Structure, true),
        (MetricGroup::Pressure, has_pressure),
        (MetricGroup::Memory, has("memory")),
        (MetricGroup::MemoryEvents, has("memory")),
        (MetricGroup::MemoryEventsLocal, has("memory")),
        (MetricGroup::Pids, has("pids")),
        (MetricGroup::MemoryStat, false),
        (MetricGroup::Io, false),
    ] {
        assert_eq!(sample.source(group), expect.then_some(Source::Bpf), "{}", group.name());
    }
    let cpu = sample.cpu.as_ref().context("it was visited")?;
    ensure!(cpu.usage_usec.is_some_and(|usage| usage < 10_000_000), "{cpu:?}");
    assert_eq!(cpu.nr_periods.is_some(), has("cpu"));
    assert_eq!(sample.structure.as_ref().and_then(|it| it.populated), Some(0));
    Ok(())
}

#[tokio::test]
async fn names_and_paths_are_whole() -> Result<()> {
    let _alone = ALONE.lock().await;
    let walker = walker(SLOTS, KEPT_MAX)?;
    let tree = TestTree::v2()?;
    walker.watch_removals(true).await?;
    // The tracepoint's own path ends after 1023 bytes.
    let long = ["a", "b", "c", "d", "e", "f"].map(|name| name.repeat(250)).join("/");
    for below in ["tab\tinside", "blank \\ backslash", long.as_str()] {
        tree.make(below)?;
        fs::remove_dir(tree.directory(below))?;
        let path = escape_path(tree.path(below).as_bytes());
        let reported = removed(&walker, &tree).await?;
        ensure!(reported.contains_key(&path), "{path} is not among {:?}", reported.keys());
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_held_for_nobody() -> Result<()> {
    let _alone = ALONE.lock().await;
    // So many that the walker does not look after them by itself, whatever else the host removes.
    let walker = walker(8 * SLOTS, KEPT_MAX)?;
    let tree = TestTree::v2()?;
    let make_and_remove = || -> Result<()> {
        for number in 0..20 {
            tree.make(&number.to_string())?;
            fs::remove_dir(tree.directory(&number.to_string()))?;
        }
        Ok(())
    };
    let freed = async || Ok((dying_below(&tree)? == 0).then_some(()));
    walker.watch_removals(true).await?;
    make_and_remove()?;
    if holds()? {
        assert_eq!(dying_below(&tree)?, 20, "they are held until somebody asks");
    }
    assert!(walker.watch_removals(false).await?);
    wait::until("the removed ones to be freed", Duration::from_secs(30), freed).await?;
    make_and_remove()?;
    wait::until("those to be freed, too", Duration::from_secs(30), freed).await?;
    assert!(removed(&walker, &tree).await?.is_empty(), "nobody watches");
    walker.watch_removals(true).await?;
    assert!(removed(&walker, &tree).await?.is_empty(), "what was removed before is not told");
    make_and_remove()?;
    assert_eq!(removed(&walker, &tree).await?.len(), 20);
    wait::until("these to be freed", Duration::from_secs(30), freed).await
}

#[tokio::test]
async fn what_nobody_asks_for_is_bounded_and_counted() -> Result<()> {
    let _alone = ALONE.lock().await;
    let walker = walker(16, 16)?;
    let tree = TestTree::v2()?;
    walker.watch_removals(true).await?;
    for number in 0..100 {
        tree.make(&number.to_string())?;
        fs::remove_dir(tree.directory(&number.to_string()))?;
    }
    let Removals { removed, lost } = walker.removals().await?;
    ensure!(removed.len() == 16 && lost >= 84, "{} removed, {lost} lost", removed.len());
    Ok(())
}

/// Makes and removes cgroups, so many being there at a time, and gives their ids.
pub(crate) fn come_and_go(tree: &Path, count: u32, at_a_time: usize) -> Result<HashSet<u64>> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut ids, mut there) = (HashSet::new(), VecDeque::new());
    for number in 0..count {
        let directory = tree.join(number.to_string());
        fs::create_dir(&directory)?;
        ids.insert(fs::metadata(&directory)?.ino());
        there.push_back(directory);
        if there.len() > at_a_time {
            there.pop_front().map(fs::remove_dir).transpose()?;
        }
    }
    there.iter().try_for_each(fs::remove_dir)?;
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_that_come_and_go_are_all_reported() -> Result<()> {
    let _alone = ALONE.lock().await;
    let walker = walker(SLOTS, KEPT_MAX)?;
    let tree = TestTree::v2()?;
    walker.watch_removals(true).await?;
    let (directory, above) = (tree.directory(""), tree.path(""));
    let storm = thread::spawn(move || come_and_go(&directory, repetitions(10_000), 500));
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut reported, mut last_known, mut calls) = (HashSet::new(), 0, 0);
    loop {
        second.tick().await;
        let is_over = storm.is_finished();
        let Removals { removed, lost } = walker.removals().await?;
        assert_eq!(lost, 0);
        calls += 1;
        for Removed { sample, values, created_at, removed_at } in removed {
            if !sample.path.starts_with(&above) {
                continue;
            }
            ensure!(created_at.is_some_and(|created_at| Some(created_at) <= removed_at), "{}", sample.path);
            ensure!(reported.insert(sample.cgroup_id), "{} is reported again", sample.path);
            last_known += u32::from(values == RemovedValues::LastKnown);
        }
        if is_over {
            break;
        }
    }
    let made = storm.join().map_err(|_| anyhow!("the storm panicked"))??;
    println!("{} removed, {calls} calls, {last_known} with last known values", made.len());
    assert!(reported == made, "{} of {} are reported", reported.len(), made.len());
    assert!(!holds()? || last_known == 0, "{last_known} were displaced");
    Ok(())
}
