//! Series as they are printed, drawn and written to files.

use cgfleet_proto::v1::{
    CgroupSample, CpuSample, GapReason, HistoryAggregation, HistoryGap, HistoryPoint, HistoryPoints,
    HistorySeries, HistoryValue, HistoryValues, Workload,
};
use expect_test::{Expect, expect};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::RowAccessor as _,
};

use super::{series::Report, *};

fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: 1_795_420_800 + seconds, nanos: 0 }
}

fn begin(series: u32, metric: &str, unit: &str, aggregation: HistoryAggregation, path: &str) -> Event {
    Event::Series(HistorySeries {
        series,
        metric: metric.into(),
        aggregation: aggregation.into(),
        unit: unit.into(),
        host_id: "11111111-1111-4111-8111-111111111111".into(),
        hostname: "web-1".into(),
        cgroup_id: 7,
        path: path.into(),
        workload: Some(Workload { systemd_unit: "a.service".into(), ..Workload::default() }),
        cgroups: 1,
        total: Some(1.5),
    })
}

fn values(series: u32, values: &[(i64, f64)]) -> Event {
    let value = |(nth, (from, value)): (usize, &(i64, f64))| HistoryValue {
        from: Some(at(*from)),
        value: *value,
        reset: nth == 1,
        gap: nth == 2,
    };
    Event::Values(HistoryValues { series, values: values.iter().enumerate().map(value).collect() })
}

fn answer() -> Vec<Event> {
    vec![
        Event::Gap(HistoryGap {
            after: Some(at(100)),
            before: Some(at(130)),
            reason: GapReason::NotReceived.into(),
            host_id: String::new(),
            hostname: "web-1".into(),
        }),
        begin(1, "cpu.usage_usec", "usec/s", HistoryAggregation::Rate, "/a,b"),
        values(1, &[(0, 250_000.0), (60, 1_500_000.0), (120, 0.0)]),
        begin(2, "memory.max_bytes", "bytes", HistoryAggregation::Max, "/a,b"),
        values(2, &[(0, 1_048_576.0), (60, f64::INFINITY)]),
        begin(3, "cpu.usage_usec", "usec/s", HistoryAggregation::Rate, "/c"),
        values(3, &[(60, 1_000_000.0)]),
    ]
}

fn check(format: HistoryFormat, expect: &Expect) {
    let mut out = Vec::new();
    let mut report = Report::new(&mut out, format, TimeZone::UTC);
    for event in answer() {
        report.take(event).unwrap();
    }
    report.finish().unwrap();
    assert_eq!(report.counts(), "values 6, gaps 1, series 3");
    let text = String::from_utf8(out).unwrap();
    expect.assert_eq(&anstream::adapter::strip_str(&text).to_string());
}

#[test]
fn a_table_has_a_row_a_step_and_a_column_a_metric() {
    check(
        HistoryFormat::Table,
        &expect![[r#"
        FROM                           HOST   CPU_USAGE(cores)  max MEMORY_MAX(MiB)  NOTE   PATH
        2026-11-23T08:00:00.000+00:00  web-1             0.250                  1.0  -      /a,b
        2026-11-23T08:01:00.000+00:00  web-1             1.500                  max  reset  /a,b
        2026-11-23T08:02:00.000+00:00  web-1             0.000                    -  gap    /a,b
        2026-11-23T08:01:00.000+00:00  web-1             1.000                    -  -      /c
    "#]],
    );
}

#[test]
fn programs_get_each_series_and_its_values() {
    check(
        HistoryFormat::Ndjson,
        &expect![[r#"
        {"gap":{"hostname":"web-1","after":"2026-11-23T08:01:40Z","before":"2026-11-23T08:02:10Z","reason":"not_received"}}
        {"series":1,"metric":"cpu.usage_usec","aggregation":"rate","unit":"usec/s","host_id":"11111111-1111-4111-8111-111111111111","hostname":"web-1","cgroup_id":7,"path":"/a,b","workload":{"systemd_unit":"a.service"},"cgroups":1,"total":1.5}
        {"series":1,"from":"2026-11-23T08:00:00Z","value":250000.0}
        {"series":1,"from":"2026-11-23T08:01:00Z","value":1500000.0,"reset":true}
        {"series":1,"from":"2026-11-23T08:02:00Z","value":0.0,"gap":true}
        {"series":2,"metric":"memory.max_bytes","aggregation":"max","unit":"bytes","host_id":"11111111-1111-4111-8111-111111111111","hostname":"web-1","cgroup_id":7,"path":"/a,b","workload":{"systemd_unit":"a.service"},"cgroups":1,"total":1.5}
        {"series":2,"from":"2026-11-23T08:00:00Z","value":1048576.0}
        {"series":2,"from":"2026-11-23T08:01:00Z","value":"max","reset":true}
        {"series":3,"metric":"cpu.usage_usec","aggregation":"rate","unit":"usec/s","host_id":"11111111-1111-4111-8111-111111111111","hostname":"web-1","cgroup_id":7,"path":"/c","workload":{"systemd_unit":"a.service"},"cgroups":1,"total":1.5}
        {"series":3,"from":"2026-11-23T08:01:00Z","value":1000000.0}
    "#]],
    );
    check(
        HistoryFormat::Json,
        &expect![[r#"
        {"series":[{"series":1,"metric":"cpu.usage_usec","aggregation":"rate","unit":"usec/s","host_id":"11111111-1111-4111-8111-111111111111","hostname":"web-1","cgroup_id":7,"path":"/a,b","workload":{"systemd_unit":"a.service"},"cgroups":1,"total":1.5,"values":[{"from":"2026-11-23T08:00:00Z","value":250000.0},{"from":"2026-11-23T08:01:00Z","value":1500000.0,"reset":true},{"from":"2026-11-23T08:02:00Z","value":0.0,"gap":true}]},{"series":2,"metric":"memory.max_bytes","aggregation":"max","unit":"bytes","host_id":"11111111-1111-4111-8111-111111111111","hostname":"web-1","cgroup_id":7,"path":"/a,b","workload":{"systemd_unit":"a.service"},"cgroups":1,"total":1.5,"values":[{"from":"2026-11-23T08:00:00Z","value":1048576.0},{"from":"2026-11-23T08:01:00Z","value":"max","reset":true}]},{"series":3,"metric":"cpu.usage_usec","aggregation":"rate","unit":"usec/s","host_id":"11111111-1111-4111-8111-111111111111","hostname":"web-1","cgroup_id":7,"path":"/c","workload":{"systemd_unit":"a.service"},"cgroups":1,"total":1.5,"values":[{"from":"2026-11-23T08:01:00Z","value":1000000.0}]}],"gaps":[{"hostname":"web-1","after":"2026-11-23T08:01:40Z","before":"2026-11-23T08:02:10Z","reason":"not_received"}]}
    "#]],
    );
    check(
        HistoryFormat::Csv,
        &expect![[r#"
        from,host_id,hostname,cgroup_id,path,pod_namespace,pod_name,pod_uid,container_name,container_id,systemd_unit,systemd_slice,metric,aggregation,unit,value,note
        2026-11-23T08:00:00Z,11111111-1111-4111-8111-111111111111,web-1,7,"/a,b",,,,,,a.service,,cpu.usage_usec,rate,usec/s,250000,
        2026-11-23T08:01:00Z,11111111-1111-4111-8111-111111111111,web-1,7,"/a,b",,,,,,a.service,,cpu.usage_usec,rate,usec/s,1500000,reset
        2026-11-23T08:02:00Z,11111111-1111-4111-8111-111111111111,web-1,7,"/a,b",,,,,,a.service,,cpu.usage_usec,rate,usec/s,0,gap
        2026-11-23T08:00:00Z,11111111-1111-4111-8111-111111111111,web-1,7,"/a,b",,,,,,a.service,,memory.max_bytes,max,bytes,1048576,
        2026-11-23T08:01:00Z,11111111-1111-4111-8111-111111111111,web-1,7,"/a,b",,,,,,a.service,,memory.max_bytes,max,bytes,max,reset
        2026-11-23T08:01:00Z,11111111-1111-4111-8111-111111111111,web-1,7,/c,,,,,,a.service,,cpu.usage_usec,rate,usec/s,1000000,
    "#]],
    );
}

#[test]
fn a_drawing_shows_units_times_gaps_and_resets() {
    let mut out = Vec::new();
    let mut plot = plot::Plot::new(&mut out, TimeZone::UTC);
    plot.take(begin(1, "cpu.usage_usec", "usec/s", HistoryAggregation::Rate, "/a")).unwrap();
    let wave = |step: i32| (f64::from(step) / 8.0).sin().mul_add(400_000.0, 500_000.0);
    let steps: Vec<(i64, f64)> = (0..60)
        .filter(|step| !(20..28).contains(step))
        .map(|step| (i64::from(step) * 60, wave(step)))
        .collect();
    plot.take(values(1, &steps)).unwrap();
    plot.finish().unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    expect![[r#"
        CPU_USAGE(cores)  web-1 /a  last 0.855
                0.899 ┤       ⢀⡠⠔⠒⠊⠉⠉⠉⠉⠒⠒⠤⣀                                         ⣀⠤⠤
                      ┤    ⣀⠔⠉⠁            ⠁                                     ⢀⠤⠊
                      ┤ ⢀⠤⠊                                                   ⢀⡠⠒⠁
                      ┤⠔⠁                                                   ⡠⠔⠁
                0.450 ┤                              ⣀                   ⢀⡠⠊
                      ┤                               ⠑⠤⣀             ⣀⠤⠔⠁
                      ┤                                  ⠉⠑⠢⢄⣀⡀ ⢀⣀⣀⠤⠤⠊
                0.000 ┤                                       ⠈⠉⠁
                      └─r─┄──────────────────╌╌╌╌╌╌╌╌──────────────────────────────────
                       08:00:00                    08:29:30                    08:59:00
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_step_fills_a_drawing() {
    let check = |seconds, expect| {
        assert_eq!(plot::step_for(Duration::from_secs(seconds)), Duration::from_secs(expect), "{seconds}");
    };
    check(300, 10);
    check(3_600, 30);
    check(86_400, 900);
    check(7 * 86_400, 7_200);
    check(10_000 * 86_400, 604_800);
}

fn reader(file: std::fs::File) -> SerializedFileReader<std::fs::File> {
    SerializedFileReader::new(file).unwrap()
}

#[test]
fn a_parquet_file_has_what_was_told() {
    let file = tempfile::tempfile().unwrap();
    let mut export = export::parquet::Export::of_series(file.try_clone().unwrap()).unwrap();
    for event in answer() {
        export.take(event).unwrap();
    }
    export.finish().unwrap();
    let reader = reader(file);
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[1].get_timestamp_micros(0).unwrap(), 1_795_420_860_000_000);
    assert_eq!(rows[1].get_string(4).unwrap(), "/a,b");
    assert_eq!(rows[1].get_string(12).unwrap(), "cpu.usage_usec");
    assert!(rows[1].get_bool(16).unwrap() && !rows[0].get_bool(16).unwrap());
    assert!(rows[4].get_double(15).unwrap().is_infinite());
    assert!(rows[0].get_string(5).is_err(), "no pod: null");
}

#[test]
fn a_parquet_file_of_ticks_has_row_groups_and_nulls() {
    let file = tempfile::tempfile().unwrap();
    let metrics = vec![cgfleet_model::Metric::CpuUsage, cgfleet_model::Metric::CpuUser];
    let mut export = export::parquet::Export::of_points(file.try_clone().unwrap(), metrics).unwrap();
    let point = |tick: i64| {
        let usage_usec = (tick % 2 == 0).then_some(u64::MAX - tick.unsigned_abs());
        let cpu = Some(CpuSample { usage_usec, ..CpuSample::default() });
        let sample = CgroupSample { cgroup_id: 7, path: "/a".into(), cpu, ..CgroupSample::default() };
        HistoryPoint { tick_at: Some(at(tick)), sample: Some(sample) }
    };
    for page in 0..100 {
        let points = (page * 1_000..(page + 1) * 1_000).map(point).collect();
        let points = HistoryPoints { points, host_id: "h".into(), hostname: "web-1".into() };
        export.take(Event::Points(points)).unwrap();
    }
    export.finish().unwrap();
    let reader = reader(file);
    assert_eq!(reader.metadata().num_row_groups(), 2);
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 100_000);
    assert_eq!(rows[90_002].get_ulong(5).unwrap(), u64::MAX - 90_002);
    assert!(rows[90_001].get_ulong(5).is_err() && rows[90_002].get_ulong(6).is_err());
}
