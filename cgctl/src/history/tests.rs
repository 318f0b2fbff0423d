//! The shapes of a history's output.

use cgfleet_model::{Metric, MetricSet};
use cgfleet_proto::v1::{CgroupSample, CpuSample, GapReason, HistoryGap, HistoryPoint};
use expect_test::{Expect, expect};

use super::{
    points::{Part, Report},
    *,
};
use crate::args::Columns;

fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: 1_795_420_800 + seconds, nanos: 0 }
}

fn point(seconds: i64, cgroup_id: u64, usage_usec: Option<u64>) -> Part {
    let cpu = usage_usec.map(|usage_usec| CpuSample { usage_usec: Some(usage_usec), ..CpuSample::default() });
    let sample = CgroupSample { cgroup_id, path: "/a".into(), cpu, ..CgroupSample::default() };
    let point = Box::new(HistoryPoint { tick_at: Some(at(seconds)), sample: Some(sample) });
    Part::Point { hostname: "web-1".into(), point }
}

fn gap(after: i64, before: i64) -> Part {
    Part::Gap(HistoryGap {
        after: Some(at(after)),
        before: Some(at(before)),
        reason: GapReason::AgentRestarted.into(),
        ..HistoryGap::default()
    })
}

fn check_table(parts: &[Part], expect: &Expect) {
    let metrics = MetricSet::from_iter([Metric::CpuUsage]);
    let mut out = Vec::new();
    table::of(parts, Columns::of(metrics), false, &TimeZone::UTC).write(&mut out).unwrap();
    expect.assert_eq(&anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string());
}

#[test]
fn a_rate_is_between_neighbours_and_restarts_at_a_reset() {
    let million = |usage: u64| Some(usage * 1_000_000);
    check_table(
        &[
            point(0, 7, million(10)),
            point(10, 7, million(15)),
            point(20, 7, million(1)),
            point(30, 7, million(2)),
            point(40, 7, None),
            point(50, 7, million(4)),
        ],
        &expect![[r#"
            TICK_AT                        CGROUP_ID  CPU_USAGE(s)  CPU_USAGE(cores)  PATH
            2026-11-23T08:00:00.000+00:00          7        10.000                 -  /a
            2026-11-23T08:00:10.000+00:00          7        15.000             0.500  /a
            2026-11-23T08:00:20.000+00:00          7         1.000                 -  /a
            2026-11-23T08:00:30.000+00:00          7         2.000             0.100  /a
            2026-11-23T08:00:40.000+00:00          7             -                 -  /a
            2026-11-23T08:00:50.000+00:00          7         4.000                 -  /a
        "#]],
    );
}

#[test]
fn another_cgroup_or_a_gap_starts_the_rate_anew() {
    check_table(
        &[
            point(0, 7, Some(1)),
            point(10, 8, Some(2)),
            gap(10, 60),
            point(60, 8, Some(3)),
            point(70, 8, Some(3)),
        ],
        &expect![[r#"
            TICK_AT                        CGROUP_ID  CPU_USAGE(s)  CPU_USAGE(cores)  PATH
            2026-11-23T08:00:00.000+00:00          7         0.000                 -  /a
            2026-11-23T08:00:10.000+00:00          8         0.000                 -  /a
            -                                      -             -                 -  (no ticks between 2026-11-23T08:00:10.000+00:00 and 2026-11-23T08:01:00.000+00:00: agent restarted)
            2026-11-23T08:01:00.000+00:00          8         0.000                 -  /a
            2026-11-23T08:01:10.000+00:00          8         0.000             0.000  /a
        "#]],
    );
}

fn check_json(format: HistoryFormat, expect: &Expect) {
    let mut out = Vec::new();
    let mut report = Report::new(&mut out, format, Columns::of(MetricSet::all()), false);
    report.add([point(0, 7, Some(5)), gap(0, 30), point(30, 7, None)]).unwrap();
    report.finish().unwrap();
    expect.assert_eq(&String::from_utf8(out).unwrap());
}

#[test]
fn points_and_gaps_have_shapes_of_their_own() {
    check_json(
        HistoryFormat::Ndjson,
        &expect![[r#"
        {"tick_at":"2026-11-23T08:00:00Z","path":"/a","cgroup_id":7,"cpu":{"usage_usec":5}}
        {"gap":{"after":"2026-11-23T08:00:00Z","before":"2026-11-23T08:00:30Z","reason":"agent_restarted"}}
        {"tick_at":"2026-11-23T08:00:30Z","path":"/a","cgroup_id":7}
    "#]],
    );
    check_json(
        HistoryFormat::Json,
        &expect![[r#"
        {"points":[{"tick_at":"2026-11-23T08:00:00Z","path":"/a","cgroup_id":7,"cpu":{"usage_usec":5}},{"tick_at":"2026-11-23T08:00:30Z","path":"/a","cgroup_id":7}],"gaps":[{"after":"2026-11-23T08:00:00Z","before":"2026-11-23T08:00:30Z","reason":"agent_restarted"}]}
    "#]],
    );
}
