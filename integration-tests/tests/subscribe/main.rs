//! Streams of changes, as an agent sends them: what they tell, to whom, and that nobody waits for another.

mod many;
mod resumed;

use std::time::Duration;

use anyhow::{Context as _, Result};
use cgfleet_model::Metric;
use cgfleet_proto::v1::{CgroupSample, CounterForm, SubscribeSpec};
use integration_tests::{
    cgroups::TestTree,
    daemon::{Daemon, Start},
    mirror::{Mirror, watch},
    walk::{by_id, by_path},
};
use prost_types::FieldMask;

/// An agent with a tick every 200 ms.
async fn agent() -> Result<Daemon> {
    Start::agent()?.start().await
}

fn reading(fields: &[&str]) -> FieldMask {
    FieldMask { paths: fields.iter().map(|field| (*field).to_owned()).collect() }
}

/// Of the tree alone, and what is cheap.
fn below(tree: &TestTree) -> SubscribeSpec {
    SubscribeSpec {
        target: Some(by_path(tree.path(""))),
        read_mask: Some(reading(&["cpu.usage_usec", "structure"])),
        ..SubscribeSpec::default()
    }
}

fn paths(mirror: &Mirror) -> Vec<&str> {
    let mut paths: Vec<_> = mirror.rows.values().map(|sample| sample.path.as_str()).collect();
    paths.sort_unstable();
    paths
}

fn usage(sample: &CgroupSample) -> Option<u64> {
    sample.metric(Metric::CpuUsage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_a_snapshot_and_then_what_changes() -> Result<()> {
    let agent = agent().await?;
    let mut tree = TestTree::v2()?;
    tree.make("busy")?;
    tree.make("idle")?;
    tree.work_in("busy")?;
    let mut watching = watch(&agent, below(&tree)).await?;
    let mirror = watching.tick().await?;
    assert_eq!(paths(mirror), [tree.path(""), tree.path("busy"), tree.path("idle")]);
    let first = mirror.at(&tree.path("busy")).and_then(usage).context("no usage")?;
    assert!(mirror.at(&tree.path("idle")).is_some_and(|idle| idle.structure.is_some()));

    let busy = tree.path("busy");
    let grows = |mirror: &Mirror| mirror.at(&busy).and_then(usage).is_some_and(|now| now > first);
    watching.until("that the worker works", grows).await?;
    let new = tree.path("new");
    tree.make("new")?;
    watching.until("a new cgroup", |mirror| mirror.at(&new).is_some()).await?;
    std::fs::remove_dir(tree.directory("new"))?;
    watching.until("a removal", |mirror| mirror.removal_of(&new).is_some()).await?;
    assert_eq!(paths(&watching.mirror), [tree.path(""), tree.path("busy"), tree.path("idle")]);
    Ok(())
}

/// A subscriber gets what it asked for, whatever others of the same interval ask for.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_of_the_subtree_the_depth_and_the_fields_that_were_asked_for() -> Result<()> {
    let agent = agent().await?;
    let tree = TestTree::v2()?;
    tree.make("a/b/c")?;
    let of = |below: &[&str]| below.iter().map(|below| tree.path(below)).collect::<Vec<_>>();
    for (target, max_depth, expect) in [
        (by_path(tree.path("")), None, of(&["", "a", "a/b", "a/b/c"])),
        (by_path(tree.path("a")), Some(1), of(&["a", "a/b"])),
        (by_path(format!("{}/", tree.path("a"))), Some(0), of(&["a"])),
        (by_id(tree.id("a/b")?), None, of(&["a/b", "a/b/c"])),
        (by_path(tree.path("not/yet")), None, of(&[])),
    ] {
        let spec = SubscribeSpec {
            target: Some(target.clone()),
            max_depth,
            read_mask: Some(reading(&["structure.populated"])),
            ..SubscribeSpec::default()
        };
        let mut watching = watch(&agent, spec).await?;
        let mut others = watch(&agent, SubscribeSpec::default()).await?;
        assert_eq!(paths(watching.tick().await?), expect, "{target:?}");
        others.tick().await?;
        for sample in watching.mirror.rows.values() {
            assert_eq!((&sample.cpu, &sample.pressure), (&None, &None), "{target:?}");
            let structure = sample.structure.as_ref().context("no structure")?;
            assert_eq!((structure.populated, structure.frozen), (Some(0), None), "{target:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_and_rates_are_of_the_time_between_ticks() -> Result<()> {
    let agent = agent().await?;
    let mut tree = TestTree::v2()?;
    tree.make("busy")?;
    tree.work_in("busy")?;
    let path = tree.path("busy");
    let spec = |form: CounterForm| SubscribeSpec { counters: form.into(), ..below(&tree) };
    let mut totals = watch(&agent, spec(CounterForm::Cumulative)).await?;
    let mut deltas = watch(&agent, spec(CounterForm::Delta)).await?;
    let mut rates = watch(&agent, spec(CounterForm::Rate)).await?;
    // All three from one tick on, each of which all of them see.
    let newest = totals.tick().await?.sequence().max(deltas.tick().await?.sequence());
    let newest = newest.max(rates.tick().await?.sequence());
    for watching in [&mut totals, &mut deltas, &mut rates] {
        watching.until_sequence(newest).await?;
    }
    for _ in 0..10 {
        let of = |mirror: &Mirror| {
            let bookmark = mirror.bookmark.clone().unwrap_or_default();
            (mirror.at(&path).and_then(usage).unwrap_or_default(), bookmark.boottime_ns, bookmark.sequence)
        };
        let before = of(&totals.mirror);
        let after = of(totals.tick().await?);
        let (delta, rate) = (of(deltas.tick().await?), of(rates.tick().await?));
        assert_eq!([delta.2, rate.2], [after.2, after.2]);
        let added = after.0 - before.0;
        if added > 0 {
            assert_eq!(delta.0, added);
        }
        let per_second = u128::from(added) * 1_000_000_000 / u128::from(after.1 - before.1);
        assert!(u128::from(rate.0).abs_diff(per_second) <= 1, "{} beside {per_second}", rate.0);
    }
    Ok(())
}

/// Two agents' subscribers of the same interval are served by one walk each tick.
#[tokio::test(flavor = "multi_thread")]
async fn one_walk_serves_all_who_share_an_interval() -> Result<()> {
    let agent = agent().await?;
    let tree = TestTree::v2()?;
    let interval = |ms: u64| Duration::from_millis(ms).try_into().ok();
    let mut watching = Vec::new();
    for _ in 0..8 {
        watching.push(watch(&agent, below(&tree)).await?);
    }
    let mut other = watch(&agent, SubscribeSpec { interval: interval(1000), ..below(&tree) }).await?;
    let newest = other.tick().await?.sequence();
    let mut read_at = Vec::new();
    for watching in &mut watching {
        watching.tick().await?;
    }
    let common = watching.iter().map(|watching| watching.mirror.sequence()).max().unwrap_or_default() + 3;
    for watching in &mut watching {
        let mirror = watching.until_sequence(common).await?;
        assert_eq!(mirror.sequence(), common, "a tick is missing");
        let summary = mirror.bookmark.as_ref().and_then(|bookmark| bookmark.summary.clone());
        read_at.push(summary.and_then(|summary| summary.read_at).context("no read_at")?);
    }
    read_at.dedup();
    assert_eq!(read_at.len(), 1, "{read_at:?}");
    // Its own interval, and its own numbers.
    let mirror = other.tick().await?;
    assert_eq!(mirror.sequence(), newest + 1);
    Ok(())
}
