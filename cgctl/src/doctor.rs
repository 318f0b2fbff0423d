//! `cgctl doctor`: what one host can do, from where each metric comes, and its collectors, as its agent says.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use cgfleet_proto::v1::{GetCapabilitiesRequest, GetCapabilitiesResponse, Privileges};
use serde::Serialize;

use crate::{
    collectors::{Shown, columns},
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
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<String>,
    has_cgroup_namespace: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    privileges: Option<Held<'a>>,
    engines: Vec<Engine<'a>>,
    orders: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_interval: Option<String>,
    /// What removed cgroups are told of with, if they are seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_values: Option<String>,
    limits: BTreeMap<&'a str, u64>,
    hierarchies: Vec<Mounted<'a>>,
    metrics: Vec<Metric<'a>>,
    collectors: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Held<'a> {
    uid: u32,
    gid: u32,
    capabilities: &'a [String],
    no_new_privs: bool,
}

#[derive(Serialize)]
struct Engine<'a> {
    name: String,
    available: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
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
    #[serde(skip_serializing_if = "str::is_empty")]
    hierarchy: &'a str,
    reason: &'a str,
}

impl<'a> From<&'a GetCapabilitiesResponse> for Capabilities<'a> {
    fn from(answer: &'a GetCapabilitiesResponse) -> Self {
        let hierarchies = answer.hierarchies.iter().map(|hierarchy| Mounted {
            hierarchy_id: hierarchy.hierarchy_id,
            name: &hierarchy.name,
            mount_point: &hierarchy.mount_point,
        });
        let engines = answer.engines.iter().filter_map(|found| {
            let name = words::walk_engine(found.engine)?;
            Some(Engine { name, available: found.available, reason: &found.reason })
        });
        let metrics = answer.metrics.iter().map(|capability| Metric {
            name: &capability.metric,
            source: words::source(capability.source),
            hierarchy: &capability.hierarchy,
            reason: &capability.reason,
        });
        let interval =
            answer.sample_interval.and_then(|interval| std::time::Duration::try_from(interval).ok());
        Self {
            host_id: &answer.host_id,
            hostname: &answer.hostname,
            kernel_release: &answer.kernel_release,
            agent_version: &answer.agent_version,
            layout: words::cgroup_layout(answer.layout),
            has_cgroup_namespace: answer.has_cgroup_namespace,
            privileges: answer.privileges.as_ref().map(Held::from),
            engines: engines.collect(),
            orders: answer.orders.iter().filter_map(|order| words::order(*order)).collect(),
            sample_interval: interval.map(|interval| humantime::format_duration(interval).to_string()),
            removed_values: words::removed_values(answer.removed_values),
            limits: answer.limits.iter().map(|limit| (limit.key.as_str(), limit.value)).collect(),
            hierarchies: hierarchies.collect(),
            metrics: metrics.collect(),
            collectors: answer.collectors.iter().map(Shown::from).collect(),
        }
    }
}

impl<'a> From<&'a Privileges> for Held<'a> {
    fn from(Privileges { uid, gid, capabilities, no_new_privs }: &'a Privileges) -> Self {
        Self { uid: *uid, gid: *gid, capabilities, no_new_privs: *no_new_privs }
    }
}

impl Held<'_> {
    /// In one line.
    fn to_text(&self) -> String {
        let capabilities = if self.capabilities.is_empty() {
            "no capability".to_owned()
        } else {
            self.capabilities.join(", ")
        };
        let more = if self.no_new_privs { "can gain none" } else { "can gain more" };
        format!("uid {}, gid {}, {capabilities}, {more}", self.uid, self.gid)
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
    let layout = host.layout.as_ref().map(|layout| {
        let namespace = if host.has_cgroup_namespace { ", in a cgroup namespace of its own" } else { "" };
        format!("{layout}{namespace}")
    });
    let mut facts = Table::new(["HOST", host.hostname].map(Column::text));
    for (name, value) in [
        ("host_id", Some(host.host_id.to_owned())),
        ("kernel_release", Some(host.kernel_release.to_owned())),
        ("agent_version", Some(host.agent_version.to_owned())),
        ("layout", layout),
        ("privileges", host.privileges.as_ref().map(Held::to_text)),
        ("orders", Some(host.orders.join(", "))),
        ("sample_interval", host.sample_interval.clone()),
        ("removed_values", Some(host.removed_values.clone().unwrap_or_else(|| "none".to_owned()))),
    ] {
        facts.row([Some(name.to_owned()), value.filter(|value| !value.is_empty())]);
    }
    for (key, value) in &host.limits {
        facts.row([Some((*key).to_owned()), Some(value.to_string())]);
    }
    facts.write(out)?;
    writeln!(out)?;
    let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut engines = Table::new(["ENGINE", "AVAILABLE", "REASON"].map(Column::text));
    for engine in &host.engines {
        let available = if engine.available { "yes" } else { "no" };
        engines.row([said(&engine.name), said(available), said(engine.reason)]);
    }
    engines.write(out)?;
    writeln!(out)?;
    let mut hierarchies = Table::new(["HIERARCHY_ID", "NAME", "MOUNT_POINT"].map(Column::text));
    for hierarchy in &host.hierarchies {
        let id = hierarchy.hierarchy_id.to_string();
        hierarchies.row([Some(id), said(hierarchy.name), said(hierarchy.mount_point)]);
    }
    hierarchies.write(out)?;
    writeln!(out)?;
    let mut metrics = Table::new(["METRIC", "SOURCE", "HIERARCHY", "REASON"].map(Column::text));
    for metric in &host.metrics {
        let source = Some(metric.source.clone().unwrap_or_else(|| "none".to_owned()));
        metrics.row([said(metric.name), source, said(metric.hierarchy), said(metric.reason)]);
    }
    metrics.write(out)?;
    // Agents before collectors name none.
    if !host.collectors.is_empty() {
        writeln!(out)?;
        let mut collectors = Table::new(columns());
        for collector in &host.collectors {
            collectors.row(collector.cells());
        }
        collectors.write(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{
        self, AgentLimit, CgroupLayout, CgroupOrder, CollectorFolding, CollectorState, EngineCapability,
        MetricCapability, RemovedValues, Source, WalkEngine,
    };
    use expect_test::{Expect, expect};

    use super::*;

    fn check(format: Format, expect: &Expect) {
        let metric = |metric: &str, source: Source, hierarchy: &str, reason: &str| MetricCapability {
            metric: metric.into(),
            source: source.into(),
            reason: reason.into(),
            hierarchy: hierarchy.into(),
        };
        let engine = |engine: WalkEngine, available, reason: &str| EngineCapability {
            engine: engine.into(),
            available,
            reason: reason.into(),
        };
        let answer = GetCapabilitiesResponse {
            host_id: "id-1".into(),
            hostname: "web-1".into(),
            kernel_release: "6.12.0".into(),
            agent_version: "0.1.0".into(),
            layout: CgroupLayout::Hybrid.into(),
            has_cgroup_namespace: true,
            privileges: Some(Privileges {
                uid: 65_534,
                gid: 65_534,
                capabilities: vec![],
                no_new_privs: true,
            }),
            engines: vec![engine(WalkEngine::Locked, false, "no BTF"), engine(WalkEngine::Files, true, "")],
            orders: vec![CgroupOrder::SelfOnly.into(), CgroupOrder::AncestorsUp.into()],
            hierarchies: vec![
                v1::Hierarchy { hierarchy_id: 0, name: String::new(), mount_point: "/sys/fs/cgroup".into() },
                v1::Hierarchy { hierarchy_id: 4, name: "memory".into(), mount_point: "/mnt/memory".into() },
            ],
            metrics: vec![
                metric("cpu.usage_usec", Source::Bpf, "", "rstat"),
                metric("cpu.user_usec", Source::Unspecified, "", "scaled on reading"),
                metric("memory.current_bytes", Source::File, "memory", "no BPF"),
            ],
            limits: vec![AgentLimit { key: "walk_rows_max".into(), value: 100_000 }],
            sample_interval: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
            removed_values: RemovedValues::LastKnown.into(),
            collectors: vec![v1::Collector {
                name: "attach".into(),
                state: CollectorState::Off.into(),
                folding: CollectorFolding::Agent.into(),
                folding_reason: "no fentry".into(),
                cgroups: 1,
                cgroups_peak: 100,
                cgroups_max: 100,
                dropped_events: 7,
                lost_events: 4,
                bytes_per_cgroup: 96,
                bytes_per_cgroup_and_cpu: 64,
                ..v1::Collector::default()
            }],
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
                layout           hybrid, in a cgroup namespace of its own
                privileges       uid 65534, gid 65534, no capability, can gain none
                orders           self, ancestors
                sample_interval  10s
                removed_values   last_known
                walk_rows_max    100000

                ENGINE  AVAILABLE  REASON
                locked  no         no BTF
                files   yes        -

                HIERARCHY_ID  NAME    MOUNT_POINT
                0             -       /sys/fs/cgroup
                4             memory  /mnt/memory

                METRIC                SOURCE  HIERARCHY  REASON
                cpu.usage_usec        bpf     -          rstat
                cpu.user_usec         none    -          scaled on reading
                memory.current_bytes  file    memory     no BPF

                COLLECTOR  STATE  FOLDING  CGROUPS  PEAK  DROPPED  LOST  BYTES_PER_CGROUP  REASON
                attach     off    agent      1/100   100        7     4       96 + 64/CPU  no fentry
            "#]],
        );
        check(
            Format::Json,
            &expect![[r#"
                {"host_id":"id-1","hostname":"web-1","kernel_release":"6.12.0","agent_version":"0.1.0","layout":"hybrid","has_cgroup_namespace":true,"privileges":{"uid":65534,"gid":65534,"capabilities":[],"no_new_privs":true},"engines":[{"name":"locked","available":false,"reason":"no BTF"},{"name":"files","available":true}],"orders":["self","ancestors"],"sample_interval":"10s","removed_values":"last_known","limits":{"walk_rows_max":100000},"hierarchies":[{"hierarchy_id":0,"name":"","mount_point":"/sys/fs/cgroup"},{"hierarchy_id":4,"name":"memory","mount_point":"/mnt/memory"}],"metrics":[{"name":"cpu.usage_usec","source":"bpf","reason":"rstat"},{"name":"cpu.user_usec","reason":"scaled on reading"},{"name":"memory.current_bytes","source":"file","hierarchy":"memory","reason":"no BPF"}],"collectors":[{"name":"attach","state":"off","folding":"agent","folding_reason":"no fentry","cgroups":1,"cgroups_peak":100,"cgroups_max":100,"dropped_events":7,"lost_events":4,"bytes_per_cgroup":96,"bytes_per_cgroup_and_cpu":64,"description":""}]}
            "#]],
        );
    }
}
