//! `cgctl capabilities`: what one host can do, as its agent says.

use std::io::{self, Write};

use cgfleet_proto::v1::{GetCapabilitiesRequest, GetCapabilitiesResponse};
use serde::Serialize;

use crate::{
    error::Error,
    exit::Exit,
    output::{
        Format, json, stdout,
        table::{Column, Table},
    },
    remote::Agent,
    words,
};

pub(crate) async fn run(format: Format, agent: &Agent) -> Result<Exit, Error> {
    let answer = agent
        .call(GetCapabilitiesRequest {}, async |mut client, request| client.get_capabilities(request).await)
        .await?;
    write(&mut stdout(format), format, &Capabilities::from(&answer))?;
    Ok(Exit::Complete)
}

/// What a host can do, as JSON.
#[derive(Serialize)]
struct Capabilities<'a> {
    host_id: &'a str,
    hostname: &'a str,
    kernel_release: &'a str,
    agent_version: &'a str,
    engines: Vec<String>,
    orders: Vec<String>,
    hierarchies: Vec<Mounted<'a>>,
    metrics: Vec<Metric<'a>>,
    walk_rows_max: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_interval: Option<String>,
}

#[derive(Serialize)]
struct Mounted<'a> {
    hierarchy_id: u32,
    /// As TARGET takes it; empty for cgroup v2.
    name: &'a str,
    mount_point: &'a str,
}

#[derive(Serialize)]
struct Metric<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    reason: &'a str,
}

impl<'a> From<&'a GetCapabilitiesResponse> for Capabilities<'a> {
    fn from(answer: &'a GetCapabilitiesResponse) -> Self {
        let hierarchies = answer.hierarchies.iter().map(|hierarchy| Mounted {
            hierarchy_id: hierarchy.hierarchy_id,
            name: &hierarchy.name,
            mount_point: &hierarchy.mount_point,
        });
        let metrics = answer.metrics.iter().map(|capability| Metric {
            name: &capability.metric,
            source: words::source(capability.source),
            reason: &capability.reason,
        });
        let interval =
            answer.sample_interval.and_then(|interval| std::time::Duration::try_from(interval).ok());
        Self {
            host_id: &answer.host_id,
            hostname: &answer.hostname,
            kernel_release: &answer.kernel_release,
            agent_version: &answer.agent_version,
            engines: answer.engines.iter().filter_map(|engine| words::walk_engine(*engine)).collect(),
            orders: answer.orders.iter().filter_map(|order| words::order(*order)).collect(),
            hierarchies: hierarchies.collect(),
            metrics: metrics.collect(),
            walk_rows_max: answer.walk_rows_max,
            sample_interval: interval.map(|interval| humantime::format_duration(interval).to_string()),
        }
    }
}

fn write(out: &mut dyn Write, format: Format, host: &Capabilities) -> io::Result<()> {
    match format {
        Format::Table => write_tables(out, host)?,
        Format::Json | Format::Ndjson => json::write_line(out, host)?,
    }
    out.flush()
}

fn write_tables(out: &mut dyn Write, host: &Capabilities) -> io::Result<()> {
    let mut facts = Table::new(["HOST", host.hostname].map(Column::text));
    for (name, value) in [
        ("host_id", host.host_id.to_owned()),
        ("kernel_release", host.kernel_release.to_owned()),
        ("agent_version", host.agent_version.to_owned()),
        ("engines", host.engines.join(", ")),
        ("orders", host.orders.join(", ")),
        ("walk_rows_max", host.walk_rows_max.to_string()),
        ("sample_interval", host.sample_interval.clone().unwrap_or_default()),
    ] {
        facts.row([Some(name.to_owned()), Some(value).filter(|value| !value.is_empty())]);
    }
    facts.write(out)?;
    writeln!(out)?;
    let mut hierarchies = Table::new(["HIERARCHY_ID", "NAME", "MOUNT_POINT"].map(Column::text));
    for hierarchy in &host.hierarchies {
        let name = Some(hierarchy.name.to_owned()).filter(|name| !name.is_empty());
        let id = hierarchy.hierarchy_id.to_string();
        hierarchies.row([Some(id), name, Some(hierarchy.mount_point.to_owned())]);
    }
    hierarchies.write(out)?;
    writeln!(out)?;
    let mut metrics = Table::new(["METRIC", "SOURCE", "REASON"].map(Column::text));
    for metric in &host.metrics {
        metrics.row([Some(metric.name.to_owned()), metric.source.clone(), Some(metric.reason.to_owned())]);
    }
    metrics.write(out)
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{self, CgroupOrder, MetricCapability, Source, WalkEngine};
    use expect_test::{Expect, expect};

    use super::*;

    fn check(format: Format, expect: &Expect) {
        let metric = |metric: &str, source: Source, reason: &str| MetricCapability {
            metric: metric.into(),
            source: source.into(),
            reason: reason.into(),
        };
        let answer = GetCapabilitiesResponse {
            host_id: "id-1".into(),
            hostname: "web-1".into(),
            kernel_release: "6.12.0".into(),
            agent_version: "0.1.0".into(),
            engines: vec![WalkEngine::Locked.into()],
            orders: vec![CgroupOrder::SelfOnly.into(), CgroupOrder::AncestorsUp.into()],
            hierarchies: vec![
                v1::Hierarchy { hierarchy_id: 0, name: String::new(), mount_point: "/sys/fs/cgroup".into() },
                v1::Hierarchy { hierarchy_id: 4, name: "memory".into(), mount_point: "/mnt/memory".into() },
            ],
            metrics: vec![
                metric("cpu.usage_usec", Source::Bpf, "rstat"),
                metric("cpu.user_usec", Source::Unspecified, "scaled on reading"),
            ],
            walk_rows_max: 100_000,
            sample_interval: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        };
        let mut out = Vec::new();
        write(&mut out, format, &Capabilities::from(&answer)).unwrap();
        expect.assert_eq(&anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string());
    }

    #[test]
    fn what_a_host_can_do_is_shown() {
        check(
            Format::Table,
            &expect![[r#"
            HOST             web-1
            host_id          id-1
            kernel_release   6.12.0
            agent_version    0.1.0
            engines          locked
            orders           self, ancestors
            walk_rows_max    100000
            sample_interval  10s

            HIERARCHY_ID  NAME    MOUNT_POINT
            0             -       /sys/fs/cgroup
            4             memory  /mnt/memory

            METRIC          SOURCE  REASON
            cpu.usage_usec  bpf     rstat
            cpu.user_usec   -       scaled on reading
        "#]],
        );
        check(
            Format::Json,
            &expect![[r#"
                {"host_id":"id-1","hostname":"web-1","kernel_release":"6.12.0","agent_version":"0.1.0","engines":["locked"],"orders":["self","ancestors"],"hierarchies":[{"hierarchy_id":0,"name":"","mount_point":"/sys/fs/cgroup"},{"hierarchy_id":4,"name":"memory","mount_point":"/mnt/memory"}],"metrics":[{"name":"cpu.usage_usec","source":"bpf","reason":"rstat"},{"name":"cpu.user_usec","reason":"scaled on reading"}],"walk_rows_max":100000,"sample_interval":"10s"}
            "#]],
        );
    }
}
