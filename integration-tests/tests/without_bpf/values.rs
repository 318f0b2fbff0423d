//! What agents without BPF read, compared with what one with BPF reads before and after.

use anyhow::Result;
use cgfleet_model::{Agreement, Metric, MetricKind, MetricSet};
use cgfleet_proto::v1::{CgroupOrder, CgroupSample};
use integration_tests::{cgroups::TestTree, daemon::Start, wait, walk::spec};
use prost_types::FieldMask;

use super::{PATIENCE, agents, ask, check_sources, on, trees};

/// Whether a value of a file agrees with what BPF gave before and after, as the catalogue wants it. What
/// moves is compared as far as it cannot have moved back.
fn agrees(metric: Metric, before: u64, found: u64, after: u64) -> bool {
    let info = metric.info();
    let slack = match (info.agreement(), info.unit) {
        (Agreement::Between, _) => 0,
        (Agreement::FlushThreshold, unit) => {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
            64 * cpus * if unit == "bytes" { rustix::param::page_size() as u64 } else { 1 }
        }
    };
    let (least, most) = (before.min(after).saturating_sub(slack), before.max(after).saturating_add(slack));
    (least..=most).contains(&found)
}

/// Of what has a file.
fn measured(sample: &CgroupSample) -> MetricSet {
    let with_file = Metric::ALL.iter().copied().filter(|metric| metric.info().v2().is_some());
    with_file.filter(|metric| sample.metric(*metric).is_some()).collect()
}

/// Compares one row; gives how many of its values are not 0.
fn check_values(before: &CgroupSample, found: &CgroupSample, after: &CgroupSample) -> usize {
    let never_by_bpf = MetricSet::from_iter([Metric::CpuUser, Metric::CpuSystem]);
    let (of_bpf, of_files) = (measured(before), measured(found));
    if found.hierarchy_id == 0 {
        let names = |set: MetricSet| set.iter().map(Metric::name).collect::<Vec<_>>();
        assert_eq!(names(of_bpf.without(of_files)), [""; 0], "only BPF has these of {}", found.path);
        let more = of_files.without(of_bpf).without(never_by_bpf);
        assert_eq!(names(more), [""; 0], "only files have these of {}", found.path);
    }
    let both = of_bpf.intersection(of_files);
    for metric in both.iter() {
        let value = |sample: &CgroupSample| sample.metric(metric).unwrap_or_default();
        let (before, found_value, after) = (value(before), value(found), value(after));
        assert!(
            agrees(metric, before, found_value, after),
            "{} of {}: {before}, {found_value} by file, {after}",
            metric.name(),
            found.path
        );
    }
    if let Some(cpu) = found.cpu.filter(|_| found.hierarchy_id == 0) {
        // Scaled to add up to the usage, and rounded (kernel/sched/cputime.c, cputime_adjust).
        let parts = cpu.user_usec.unwrap_or_default() + cpu.system_usec.unwrap_or_default();
        assert!(parts.abs_diff(cpu.usage_usec()) <= 2, "{cpu:?}");
    }
    both.iter().filter(|metric| found.metric(*metric) != Some(0)).count()
}

/// Limits the CPU time of a cgroup with work in it, and waits until the kernel has counted a period.
async fn throttle(tree: &TestTree, below: &str) -> Result<()> {
    let directory = tree.directory(below);
    for (file, limit) in [("cpu.max", "5000 100000"), ("cpu.cfs_quota_us", "5000")] {
        if directory.join(file).exists() {
            std::fs::write(directory.join(file), limit)?;
            let counted = || async {
                let stat = std::fs::read_to_string(directory.join("cpu.stat"))?;
                let periods = stat.lines().find_map(|line| line.strip_prefix("nr_periods "));
                Ok(periods.is_some_and(|periods| periods != "0").then_some(()))
            };
            wait::until("a period of the bandwidth limit", PATIENCE, counted).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_those_that_bpf_gives() -> Result<()> {
    let mut trees = trees()?;
    for (_, tree) in &mut trees {
        tree.enable_controllers("")?;
        tree.make("still")?;
        tree.rest_in("still")?;
        tree.make("busy")?;
        tree.work_in("busy")?;
        throttle(tree, "busy").await?;
    }
    let (with, without) = (Start::agent()?.flushing_freely().start().await?, agents().await?);
    for (hierarchy, tree) in &trees {
        for (lacking, agent) in &without {
            let mut seen = 0;
            // Of what works all the time, only that is compared which cannot go back.
            for (below, kinds) in [
                ("still", &[MetricKind::Counter, MetricKind::Gauge, MetricKind::Limit][..]),
                ("busy", &[MetricKind::Counter, MetricKind::Limit]),
            ] {
                let of_kinds = Metric::ALL.iter().filter(|metric| kinds.contains(&metric.info().kind));
                let paths = of_kinds.map(|metric| metric.name().to_owned()).collect();
                let mut spec = spec(on(hierarchy, tree.path(below)), CgroupOrder::SelfOnly);
                spec.read_mask = Some(FieldMask { paths });
                let before = ask(&with, spec.clone()).await?;
                let found = ask(agent, spec.clone()).await?;
                let after = ask(&with, spec.clone()).await?;
                check_sources(&found);
                let rows = [&before, &found, &after].map(|walked| walked.samples.first());
                let [Some(before), Some(found), Some(after)] = rows else { panic!("{rows:?}") };
                seen += check_values(before, found, after);
            }
            assert!(seen > 0, "{lacking:?}: nothing but zeros to compare in {hierarchy:?}");
        }
    }
    Ok(())
}
