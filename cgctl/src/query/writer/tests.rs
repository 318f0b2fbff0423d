//! The shapes of a query's output, on an answer of two hosts of which one fails.

use cgfleet_model::MetricSet;
use cgfleet_proto::v1::{CpuSample, ErrorReason, HostError, Source, WalkEnd, WalkEngine, Workload};
use expect_test::{Expect, expect};

use super::*;
use crate::exit::{Exit, HostOutcome};

fn sample(
    cgroup_id: u64,
    path: &str,
    source: Source,
    usage_usec: u64,
    user_usec: Option<u64>,
) -> CgroupSample {
    CgroupSample {
        cgroup_id,
        parent_id: cgroup_id - 1,
        level: u32::from(path != "/"),
        path: path.into(),
        cpu: Some(CpuSample {
            source: source.into(),
            usage_usec: Some(usage_usec),
            user_usec,
            ..CpuSample::default()
        }),
        ..CgroupSample::default()
    }
}

fn complete(host: &str, rows: u64) -> HostResult {
    let summary = WalkSummary {
        engine: WalkEngine::Locked.into(),
        end: WalkEnd::Complete.into(),
        cgroups_visited: rows,
        flushed_cgroup_id: 2,
        flushed_at: Some(prost_types::Timestamp { seconds: 1_795_420_800, nanos: 0 }),
        flush_ns: 5,
        walk_ns: 6,
        cgroup_mutex_held_ns_max: 11,
        unbroken_ns_max: None,
        truncated_by: String::new(),
        files_ns: 0,
        ..WalkSummary::default()
    };
    let outcome = Some(host_result::Outcome::Summary(summary));
    HostResult { host_id: format!("id-{host}"), hostname: host.into(), rows, outcome }
}

fn down(host: &str) -> HostResult {
    let reason = ErrorReason::HostUnreachable.into();
    let outcome = Some(host_result::Outcome::Error(HostError {
        code: 14,
        reason,
        message: "connection refused".into(),
        retry_after: None,
    }));
    HostResult { host_id: format!("id-{host}"), hostname: host.into(), rows: 0, outcome }
}

fn rows(host: &str) -> HostSamples {
    let mut unmeasured = sample(9, "/b", Source::Bpf, 0, None);
    unmeasured.cpu = None;
    let samples = vec![
        sample(1, "/", Source::File, 12_345_678, Some(345_678)),
        sample(2, "/a", Source::Bpf, 1_500_000, None),
        unmeasured,
    ];
    HostSamples { host_id: format!("id-{host}"), samples }
}

/// What is printed when `web-1` answers, and after it `others`, sorted before it by name.
fn check(format: Format, others: &[HostResult], expect: &Expect) {
    let mut out = Vec::new();
    let hostnames = HashMap::from([("id-web-1".to_owned(), "web-1".to_owned())]);
    let mut writer = Writer::new(
        &mut out,
        format,
        Columns::of(MetricSet::from_paths(["cpu.usage_usec", "cpu.user_usec", "cpu.system_usec"]).unwrap()),
        hostnames,
    );
    let mut tally = Tally::default();
    writer.rows(rows("web-1")).unwrap();
    writer.host(complete("web-1", 3)).unwrap();
    tally.add(HostOutcome::Whole);
    for other in others {
        writer.host(other.clone()).unwrap();
        tally.add(HostOutcome::Failed(Exit::Unreachable));
    }
    writer.finish(&tally).unwrap();
    let text = String::from_utf8(out).unwrap();
    expect.assert_eq(&anstream::adapter::strip_str(&text).to_string());
}

#[test]
fn a_table_of_one_host_has_no_host_column() {
    check(
        Format::Table,
        &[],
        &expect![[r#"
        CGROUP_ID  CPU_USAGE(s)  CPU_USER(s)  CPU_SYSTEM(s)  SOURCE  PATH
                1        12.346        0.346              -  file    /
                2         1.500            -              -  bpf     /a
                9             -            -              -  -       /b
    "#]],
    );
}

#[test]
fn a_table_of_many_hosts_names_them() {
    check(
        Format::Table,
        &[down("db-1")],
        &expect![[r#"
        HOST   CGROUP_ID  CPU_USAGE(s)  CPU_USER(s)  CPU_SYSTEM(s)  SOURCE  PATH
        web-1          1        12.346        0.346              -  file    /
        web-1          2         1.500            -              -  bpf     /a
        web-1          9             -            -              -  -       /b
    "#]],
    );
}

#[test]
fn a_table_names_workloads_where_there_are_any() {
    let mut out = Vec::new();
    let columns = Columns::of(MetricSet::from_paths(["cpu.usage_usec"]).unwrap());
    let mut writer = Writer::new(&mut out, Format::Table, columns, HashMap::new());
    let mut samples = rows("web-1");
    samples.samples[1].workload =
        Some(Workload { systemd_unit: "ssh.service".into(), ..Workload::default() }.into());
    writer.rows(samples).unwrap();
    writer.finish(&Tally::default()).unwrap();
    let text = String::from_utf8(out).unwrap();
    expect![[r#"
        CGROUP_ID  CPU_USAGE(s)  SOURCE  NAME         PATH
                1        12.346  file    -            /
                2         1.500  bpf     ssh.service  /a
                9             -  -       -            /b
    "#]]
    .assert_eq(&anstream::adapter::strip_str(&text).to_string());
}

#[test]
fn ndjson_ends_each_host_with_its_result_or_error() {
    check(
        Format::Ndjson,
        &[down("db-1")],
        &expect![[r#"
            {"host_id":"id-web-1","hostname":"web-1","cgroup_id":1,"hierarchy_id":0,"level":0,"path":"/","cpu":{"source":"file","usage_usec":12345678,"user_usec":345678}}
            {"host_id":"id-web-1","hostname":"web-1","cgroup_id":2,"parent_id":1,"hierarchy_id":0,"level":1,"path":"/a","cpu":{"source":"bpf","usage_usec":1500000}}
            {"host_id":"id-web-1","hostname":"web-1","cgroup_id":9,"parent_id":8,"hierarchy_id":0,"level":1,"path":"/b"}
            {"host_id":"id-web-1","hostname":"web-1","result":{"end":"complete","rows":3,"engine":"locked","cgroups_visited":3,"flushed_cgroup_id":2,"flushed_at":"2026-11-23T08:00:00Z","flush_ns":5,"walk_ns":6,"cgroup_mutex_held_ns_max":11,"files_ns":0,"request_ns":0,"shared":false}}
            {"host_id":"id-db-1","hostname":"db-1","error":{"reason":"HOST_UNREACHABLE","message":"connection refused","code":14}}
        "#]],
    );
}

#[test]
fn json_groups_rows_by_host() {
    check(
        Format::Json,
        &[down("db-1")],
        &expect![[r#"
            {"hosts":[{"host_id":"id-db-1","hostname":"db-1","rows":[],"error":{"reason":"HOST_UNREACHABLE","message":"connection refused","code":14}},{"host_id":"id-web-1","hostname":"web-1","rows":[{"cgroup_id":1,"hierarchy_id":0,"level":0,"path":"/","cpu":{"source":"file","usage_usec":12345678,"user_usec":345678}},{"cgroup_id":2,"parent_id":1,"hierarchy_id":0,"level":1,"path":"/a","cpu":{"source":"bpf","usage_usec":1500000}},{"cgroup_id":9,"parent_id":8,"hierarchy_id":0,"level":1,"path":"/b"}],"result":{"end":"complete","rows":3,"engine":"locked","cgroups_visited":3,"flushed_cgroup_id":2,"flushed_at":"2026-11-23T08:00:00Z","flush_ns":5,"walk_ns":6,"cgroup_mutex_held_ns_max":11,"files_ns":0,"request_ns":0,"shared":false}}],"summary":{"hosts":2,"hosts_complete":1,"hosts_truncated":0,"hosts_failed":1}}
        "#]],
    );
}

#[test]
fn what_cannot_be_collected_is_refused() {
    let batch = || HostSamples { host_id: "id".into(), samples: vec![CgroupSample::default(); 100_000] };
    let mut writer = Writer::new(
        Vec::new(),
        Format::Json,
        Columns::of(MetricSet::from_paths(["cpu.usage_usec", "cpu.user_usec", "cpu.system_usec"]).unwrap()),
        HashMap::new(),
    );
    assert!(writer.rows(batch()).is_ok() && writer.rows(batch()).is_ok());
    let refused = writer.rows(batch()).unwrap_err().to_string();
    assert!(refused.contains("200000 rows") && refused.contains("-o ndjson"), "{refused}");
}
