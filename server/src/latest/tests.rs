//! What is read of a last tick is what its samples said, whichever way they came.

use cgfleet_model::Metric;
use cgfleet_proto::v1::CpuSample;

use super::*;

fn sample(cgroup_id: u64, path: &str, usage_usec: u64) -> CgroupSample {
    let cpu = CpuSample { usage_usec: Some(usage_usec), nr_periods: Some(1), ..CpuSample::default() };
    let level = u32::try_from(path.matches('/').count()).unwrap();
    CgroupSample { cgroup_id, path: path.to_owned(), level, cpu: Some(cpu), ..CgroupSample::default() }
}

fn moment(sequence: u64) -> TickMoment {
    let at = SystemTime::UNIX_EPOCH;
    TickMoment { agent_epoch: Uuid::nil(), sequence, boot_id: Uuid::nil(), tick_at: at, sampled_at: at }
}

fn key(cgroup_id: u64) -> CgroupKey {
    CgroupKey { hierarchy_id: 0, cgroup_id }
}

fn tick() -> LatestTick {
    let samples = [
        sample(9, "/a", 1),
        sample(1, "/", 2),
        sample(3, "/a-b", 3),
        sample(4, "/a/c", 4),
        sample(5, "/a/c/d", 5),
    ];
    LatestTick::of_stored(moment(1), &samples).unwrap()
}

#[test]
fn rows_are_of_a_subtree_each_behind_its_parent() {
    let tick = tick();
    let check = |target: LatestTarget, max_depth, expect: &[&str]| {
        let rows = tick.rows(&target, max_depth, MetricSet::all());
        assert_eq!(rows.iter().map(|row| row.path.as_str()).collect::<Vec<_>>(), expect, "{target:?}");
    };
    let path = |path: &str| LatestTarget::Path(path.to_owned());
    check(path("/"), None, &["/", "/a", "/a/c", "/a/c/d", "/a-b"]);
    check(path("/"), Some(1), &["/", "/a", "/a-b"]);
    check(path("/a"), None, &["/a", "/a/c", "/a/c/d"]);
    check(path("/a"), Some(0), &["/a"]);
    check(path("/none"), None, &[]);
    check(LatestTarget::Id(4), None, &["/a/c", "/a/c/d"]);
    check(LatestTarget::Id(7), None, &[]);
    let cpu = MetricSet::from_iter([Metric::CpuUsage]);
    assert_eq!(tick.rows(&path("/a"), Some(0), cpu)[0].cpu.as_ref().unwrap().nr_periods, None);
}

#[test]
fn changes_come_and_go_and_names_come_late() {
    let mut tick = tick();
    let named = |sample: CgroupSample| {
        let workload = Workload { pod_name: "web-0".into(), ..Workload::default() };
        CgroupSample { workload: Some(Box::new(workload)), ..sample }
    };
    let changed = [named(sample(4, "/a/c", 4)), sample(6, "/new", 6), sample(7, "/brief", 7)];
    let rows = TickRows::Changes { changed: &changed, removed: &[key(3), key(5)] };
    tick.advance(moment(2), rows, vec![key(7)], Frame::Delta).unwrap();
    let all = tick.rows(&LatestTarget::Path("/".into()), None, MetricSet::all());
    let expect = [sample(1, "/", 2), sample(9, "/a", 1), named(sample(4, "/a/c", 4)), sample(6, "/new", 6)];
    assert_eq!(all, expect, "what was removed before the tick is not there");
    assert_eq!((tick.moment(), tick.departed()), (Some(moment(2)), &[key(7)][..]));
    tick.forget();
    assert_eq!(
        (tick.moment(), tick.is_known(), tick.rows(&LatestTarget::Id(1), None, MetricSet::all())),
        (None, false, vec![])
    );
}
