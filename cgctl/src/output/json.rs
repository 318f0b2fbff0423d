//! JSON shapes that several commands share; `docs/cli.md` promises them. An absent field is left
//! out, never zero or null.

use std::{
    io::{self, Write},
    time::Duration,
};

use cgfleet_model::{Limit, Metric, MetricGroup, MetricKind};
use cgfleet_proto::v1::{CgroupSample, ErrorReason, HostError, IoDeviceSample, Workload};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{exit::Tally, moment, output::table::nanoseconds, words};

/// Writes one value and a line end.
pub(crate) fn write_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// A value of one host.
#[derive(Serialize)]
pub(crate) struct OfHost<'a, T> {
    pub(crate) host_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) value: T,
}

/// One row of a query.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    cgroup_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<u64>,
    hierarchy_id: u32,
    level: u32,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<Map<String, Value>>,
    #[serde(flatten)]
    groups: Map<String, Value>,
}

impl<'a> From<&'a CgroupSample> for Row<'a> {
    fn from(sample: &'a CgroupSample) -> Self {
        Self {
            cgroup_id: sample.cgroup_id,
            parent_id: Some(sample.parent_id).filter(|id| *id != 0),
            hierarchy_id: sample.hierarchy_id,
            level: sample.level,
            path: &sample.path,
            workload: sample.workload.as_deref().map(workload),
            groups: groups(sample),
        }
    }
}

/// What runs in the cgroup, as far as that is known.
pub(crate) fn workload(workload: &Workload) -> Map<String, Value> {
    let Workload {
        pod_namespace,
        pod_name,
        pod_uid,
        container_name,
        container_id,
        runtime,
        systemd_unit,
        systemd_slice,
    } = workload;
    let fields = [
        ("pod_namespace", pod_namespace),
        ("pod_name", pod_name),
        ("pod_uid", pod_uid),
        ("container_name", container_name),
        ("container_id", container_id),
        ("runtime", runtime),
        ("systemd_unit", systemd_unit),
        ("systemd_slice", systemd_slice),
    ];
    let known = fields.into_iter().filter(|(_, text)| !text.is_empty());
    known.map(|(name, text)| (name.to_owned(), text.as_str().into())).collect()
}

/// What was measured, by the catalogue's names: `{"cpu":{"source":"bpf","usage_usec":1}}`. A limit may be
/// `"max"`.
pub(crate) fn groups(sample: &CgroupSample) -> Map<String, Value> {
    let mut groups = Map::new();
    for group in MetricGroup::ALL {
        let Some(source) = sample.source(*group) else { continue };
        // A stored sample does not say where it was read.
        let source = words::source(source.into());
        let mut fields: Map<String, Value> =
            source.map(|source| ("source".to_owned(), source.into())).into_iter().collect();
        for metric in group.metrics() {
            let Some(value) = sample.metric(metric) else { continue };
            let field = metric.name().split('.').next_back().unwrap_or_default();
            fields.insert(field.to_owned(), json_value(metric, value));
        }
        if let (MetricGroup::Io, Some(io)) = (group, &sample.io) {
            fields.insert("devices".to_owned(), io.devices.iter().map(device).collect());
        }
        if sample.is_overflowed(*group) {
            fields.insert("overflowed".to_owned(), true.into());
        }
        let buckets = sample.buckets(*group);
        if !buckets.is_empty() {
            fields.insert("buckets".to_owned(), buckets.into());
        }
        groups.insert(group.name().to_owned(), fields.into());
    }
    groups
}

fn json_value(metric: Metric, value: u64) -> Value {
    match (metric.info().kind, Limit::from(value)) {
        (MetricKind::Limit, Limit::Max) => Limit::Max.to_string().into(),
        _ => value.into(),
    }
}

fn device(device: &IoDeviceSample) -> Value {
    let IoDeviceSample { major, minor, rbytes, wbytes, rios, wios, dbytes, dios } = device;
    json!({
        "device": format!("{major}:{minor}"), "rbytes": rbytes, "wbytes": wbytes, "rios": rios, "wios": wios,
        "dbytes": dbytes, "dios": dios,
    })
}

/// What went wrong on a host.
#[derive(Serialize)]
pub(crate) struct Failure<'a> {
    reason: &'static str,
    message: &'a str,
    code: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ns: Option<u64>,
}

impl<'a> From<&'a HostError> for Failure<'a> {
    fn from(error: &'a HostError) -> Self {
        let retry_after_ns = retry_after(error).map(nanoseconds);
        Self { reason: reason(error), message: &error.message, code: error.code, retry_after_ns }
    }
}

/// A failed host's reason; `UNSPECIFIED` if it is newer than this version.
pub(crate) fn reason(error: &HostError) -> &'static str {
    ErrorReason::try_from(error.reason).unwrap_or(ErrorReason::Unspecified).as_wire()
}

/// When a failed host says to try again.
pub(crate) fn retry_after(error: &HostError) -> Option<Duration> {
    Duration::try_from(error.retry_after?).ok()
}

/// How many hosts answered how.
#[derive(Serialize)]
pub(crate) struct Summary {
    hosts: u32,
    hosts_complete: u32,
    hosts_truncated: u32,
    hosts_failed: u32,
}

impl From<&Tally> for Summary {
    fn from(tally: &Tally) -> Self {
        Self {
            hosts: tally.hosts(),
            hosts_complete: tally.complete,
            hosts_truncated: tally.truncated,
            hosts_failed: tally.failed,
        }
    }
}

/// A moment in RFC 3339, UTC.
pub(crate) fn rfc3339(moment: Option<&prost_types::Timestamp>) -> Option<String> {
    Some(moment::from_proto(moment?)?.to_string())
}

#[cfg(test)]
mod tests {
    use cgfleet_model::Collector;
    use cgfleet_proto::v1::{CpuSample, RunqueueSample, Source};
    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn a_row_leaves_out_what_is_absent() {
        let check = |sample: CgroupSample, expect: &Expect| {
            expect.assert_eq(&serde_json::to_string(&Row::from(&sample)).unwrap());
        };
        check(
            CgroupSample {
                cgroup_id: 7_000_000_000_000,
                parent_id: 1,
                level: 1,
                path: "/a".into(),
                cpu: Some(CpuSample {
                    source: Source::Bpf.into(),
                    usage_usec: Some(0),
                    ..CpuSample::default()
                }),
                ..CgroupSample::default()
            },
            &expect![[
                r#"{"cgroup_id":7000000000000,"parent_id":1,"hierarchy_id":0,"level":1,"path":"/a","cpu":{"source":"bpf","usage_usec":0}}"#
            ]],
        );
        check(
            CgroupSample { cgroup_id: 1, hierarchy_id: 4, path: "/".into(), ..CgroupSample::default() },
            &expect![[r#"{"cgroup_id":1,"hierarchy_id":4,"level":0,"path":"/"}"#]],
        );
    }

    #[test]
    fn a_row_says_what_is_known_of_its_workload() {
        let workload =
            Workload { runtime: "docker".into(), container_id: "8d7c".into(), ..Workload::default() };
        let sample = CgroupSample {
            cgroup_id: 2,
            path: "/docker/8d7c".into(),
            workload: Some(workload.into()),
            ..CgroupSample::default()
        };
        let expect = expect![[
            r#"{"cgroup_id":2,"hierarchy_id":0,"level":0,"path":"/docker/8d7c","workload":{"container_id":"8d7c","runtime":"docker"}}"#
        ]];
        expect.assert_eq(&serde_json::to_string(&Row::from(&sample)).unwrap());
    }

    #[test]
    fn what_collectors_count_comes_with_its_buckets_or_overflowed() {
        let mut sample = CgroupSample { cgroup_id: 2, path: "/a".into(), ..CgroupSample::default() };
        sample.set_overflowed(Collector::Attach, Source::Rstat);
        let runqueue = RunqueueSample {
            source: Source::Fold.into(),
            count: Some(2),
            max_ns: Some(5),
            buckets: vec![0, 1, 1],
            ..RunqueueSample::default()
        };
        sample.runqueue = Some(runqueue.into());
        let expect = expect![[
            r#"{"attach":{"overflowed":true,"source":"rstat"},"runqueue":{"buckets":[0,1,1],"count":2,"max_ns":5,"source":"fold"}}"#
        ]];
        expect.assert_eq(&serde_json::to_string(&groups(&sample)).unwrap());
    }
}
