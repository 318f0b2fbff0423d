//! `cgctl hosts`: the hosts that ever registered.

use std::time::SystemTime;

use cgfleet_proto::v1::{Host, HostStatus};
use serde::Serialize;

use crate::{
    error::Error,
    exit::Exit,
    output::{
        Format,
        json::rfc3339,
        stdout,
        table::{Column, Table, age_cell},
        write_list,
    },
    remote::Server,
    words,
};

pub(crate) async fn run(format: Format, server: &Server) -> Result<Exit, Error> {
    let hosts = server.hosts().await?;
    let lines: Vec<Line> = hosts.iter().filter_map(Line::of).collect();
    write_list(&mut stdout(format), format, "hosts", &lines, || table(&hosts, SystemTime::now()))?;
    Ok(Exit::Complete)
}

/// A host as JSON.
#[derive(Serialize)]
struct Line<'a> {
    host_id: &'a str,
    hostname: &'a str,
    state: Option<String>,
    address: &'a str,
    kernel_release: &'a str,
    agent_version: &'a str,
    heartbeat_at: Option<String>,
    last_tick_at: Option<String>,
}

impl<'a> Line<'a> {
    fn of(status: &'a HostStatus) -> Option<Self> {
        let host = status.host.as_ref()?;
        Some(Self {
            host_id: &host.host_id,
            hostname: &host.hostname,
            state: words::host_state(status.state),
            address: &host.address,
            kernel_release: &host.kernel_release,
            agent_version: &host.agent_version,
            heartbeat_at: rfc3339(status.heartbeat_at.as_ref()),
            last_tick_at: rfc3339(status.last_tick_at.as_ref()),
        })
    }
}

fn table(hosts: &[HostStatus], now: SystemTime) -> Table {
    let titles = ["HOST", "STATE", "ADDRESS", "KERNEL", "AGENT", "HEARTBEAT", "LAST_TICK", "HOST_ID"];
    let mut table = Table::new(titles.map(Column::text));
    for status in hosts {
        let Some(Host { host_id, hostname, address, kernel_release, agent_version, .. }) =
            status.host.clone()
        else {
            continue;
        };
        table.row([
            Some(hostname),
            words::host_state(status.state),
            Some(address),
            Some(kernel_release),
            Some(agent_version),
            status.heartbeat_at.as_ref().and_then(|moment| age_cell(moment, now)),
            status.last_tick_at.as_ref().and_then(|moment| age_cell(moment, now)),
            Some(host_id),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cgfleet_proto::v1::HostState;
    use expect_test::{Expect, expect};

    use super::*;

    fn check(format: Format, expect: &Expect) {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let hosts =
            [(HostState::Up, at(1_795_420_800)), (HostState::Lost, None)].map(|(state, heartbeat_at)| {
                let host = Host {
                    host_id: format!("id-{}", state as i32),
                    hostname: "web".into(),
                    address: "10.0.0.1:7401".into(),
                    kernel_release: "6.12.0".into(),
                    agent_version: "0.1.0".into(),
                    ..Host::default()
                };
                HostStatus { host: Some(host), state: state.into(), heartbeat_at, last_tick_at: heartbeat_at }
            });
        let lines: Vec<Line> = hosts.iter().filter_map(Line::of).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_420_803);
        let mut out = Vec::new();
        write_list(&mut out, format, "hosts", &lines, || table(&hosts, now)).unwrap();
        expect.assert_eq(&anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string());
    }

    #[test]
    fn a_host_without_heartbeat_shows_none() {
        check(
            Format::Table,
            &expect![[r#"
            HOST  STATE  ADDRESS        KERNEL  AGENT  HEARTBEAT  LAST_TICK  HOST_ID
            web   up     10.0.0.1:7401  6.12.0  0.1.0  3s ago     3s ago     id-1
            web   lost   10.0.0.1:7401  6.12.0  0.1.0  -          -          id-2
        "#]],
        );
        check(
            Format::Json,
            &expect![[r#"
            {"hosts":[{"host_id":"id-1","hostname":"web","state":"up","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":"2026-11-23T08:00:00Z","last_tick_at":"2026-11-23T08:00:00Z"},{"host_id":"id-2","hostname":"web","state":"lost","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":null,"last_tick_at":null}]}
        "#]],
        );
        check(
            Format::Ndjson,
            &expect![[r#"
            {"host_id":"id-1","hostname":"web","state":"up","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":"2026-11-23T08:00:00Z","last_tick_at":"2026-11-23T08:00:00Z"}
            {"host_id":"id-2","hostname":"web","state":"lost","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":null,"last_tick_at":null}
        "#]],
        );
    }
}
