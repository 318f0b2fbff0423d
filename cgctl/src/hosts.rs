//! `cgctl hosts`: the hosts that ever registered.

use std::{io, io::Write, time::SystemTime};

use cgfleet_proto::v1::{Backlog, HistoryGap, Host, HostStatus};
use serde::Serialize;

use crate::{
    error::{Error, one_line},
    exit::Exit,
    output::{
        Format,
        json::{rfc3339, write_line},
        stdout,
        table::{Column, Table, age_cell},
        write_list,
    },
    remote::Server,
    words,
};

pub(crate) async fn run(format: Format, server: &Server) -> Result<Exit, Error> {
    let (hosts, backlog) = server.hosts_and_backlog().await?;
    let backlog = backlog.unwrap_or_default();
    write(&mut stdout(format), format, &hosts, &backlog, SystemTime::now())?;
    if let (Format::Table, Some(text)) = (format, backlog_text(&backlog, SystemTime::now())) {
        eprintln!("{text}");
    }
    Ok(Exit::Complete)
}

fn write(
    out: &mut dyn Write,
    format: Format,
    hosts: &[HostStatus],
    backlog: &Backlog,
    now: SystemTime,
) -> io::Result<()> {
    let lines: Vec<Line> = hosts.iter().filter_map(Line::of).collect();
    if format == Format::Json {
        write_line(out, &Answer { hosts: lines, backlog: BacklogLine::of(backlog) })?;
        return out.flush();
    }
    write_list(out, format, "hosts", &lines, || table(hosts, now))
}

/// One line that says what waits; `None` if nothing does.
fn backlog_text(backlog: &Backlog, now: SystemTime) -> Option<String> {
    let age =
        |moment: &Option<_>| moment.as_ref().and_then(|moment| age_cell(moment, now)).unwrap_or_default();
    let mut parts = Vec::new();
    if backlog.failing_since.is_some() {
        let (since, error) = (age(&backlog.failing_since), one_line(&backlog.error));
        parts.push(format!("the server's Postgres takes no ticks (first seen {since}): {error}"));
    }
    if backlog.spooled_ticks > 0 {
        let Backlog { spooled_ticks, spool_bytes, spool_bytes_max, .. } = backlog;
        let oldest = age(&backlog.spooled_since);
        parts.push(format!(
            "{spooled_ticks} ticks in the spool (the oldest {oldest}), {spool_bytes} of {spool_bytes_max} bytes"
        ));
    }
    if backlog.dropped_ticks > 0 {
        parts
            .push(format!("{} spooled ticks were dropped: the server's log says why", backlog.dropped_ticks));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    hosts: Vec<Line<'a>>,
    backlog: BacklogLine<'a>,
}

/// What waits, as JSON.
#[derive(Serialize)]
struct BacklogLine<'a> {
    failing_since: Option<String>,
    error: Option<&'a str>,
    spooled_ticks: u64,
    spooled_since: Option<String>,
    spool_bytes: u64,
    spool_bytes_max: u64,
    dropped_ticks: u64,
}

impl<'a> BacklogLine<'a> {
    fn of(backlog: &'a Backlog) -> Self {
        Self {
            failing_since: rfc3339(backlog.failing_since.as_ref()),
            error: Some(backlog.error.as_str()).filter(|error| !error.is_empty()),
            spooled_ticks: backlog.spooled_ticks,
            spooled_since: rfc3339(backlog.spooled_since.as_ref()),
            spool_bytes: backlog.spool_bytes,
            spool_bytes_max: backlog.spool_bytes_max,
            dropped_ticks: backlog.dropped_ticks,
        }
    }
}

/// A gap as JSON.
#[derive(Serialize)]
struct GapLine {
    after: Option<String>,
    before: Option<String>,
    reason: Option<String>,
}

impl GapLine {
    fn of(gap: &HistoryGap) -> Self {
        Self {
            after: rfc3339(gap.after.as_ref()),
            before: rfc3339(gap.before.as_ref()),
            reason: words::gap_reason(gap.reason),
        }
    }
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
    ingest_lag_ms: Option<i64>,
    compaction_lag_ms: Option<i64>,
    spooled_ticks: u64,
    spooled_since: Option<String>,
    waiting_since: Option<String>,
    last_gap: Option<GapLine>,
}

impl<'a> Line<'a> {
    fn of(status: &'a HostStatus) -> Option<Self> {
        let host = status.host.as_ref()?;
        let backlog = status.backlog.as_ref();
        Some(Self {
            host_id: &host.host_id,
            hostname: &host.hostname,
            state: words::host_state(status.state),
            address: &host.address,
            kernel_release: &host.kernel_release,
            agent_version: &host.agent_version,
            heartbeat_at: rfc3339(status.heartbeat_at.as_ref()),
            last_tick_at: rfc3339(status.last_tick_at.as_ref()),
            ingest_lag_ms: status.ingest_lag.as_ref().map(milliseconds),
            compaction_lag_ms: status.compaction_lag.as_ref().map(milliseconds),
            spooled_ticks: backlog.map_or(0, |backlog| backlog.spooled_ticks),
            spooled_since: rfc3339(backlog.and_then(|backlog| backlog.spooled_since.as_ref())),
            waiting_since: rfc3339(backlog.and_then(|backlog| backlog.waiting_since.as_ref())),
            last_gap: backlog.and_then(|backlog| backlog.last_gap.as_ref()).map(GapLine::of),
        })
    }
}

fn table(hosts: &[HostStatus], now: SystemTime) -> Table {
    let titles = ["HOST", "STATE", "ADDRESS", "KERNEL", "AGENT", "HEARTBEAT", "LAST_TICK"].map(Column::text);
    let backlog = [
        Column::number("LAG_MS"),
        Column::number("SPOOLED"),
        Column::text("LAST_GAP"),
        Column::text("HOST_ID"),
    ];
    let mut table = Table::new(titles.into_iter().chain(backlog));
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
            status.ingest_lag.as_ref().map(|lag| milliseconds(lag).to_string()),
            status.backlog.as_ref().map(|backlog| backlog.spooled_ticks.to_string()),
            last_gap_cell(status, now),
            Some(host_id),
        ]);
    }
    table
}

fn milliseconds(duration: &prost_types::Duration) -> i64 {
    duration.seconds.saturating_mul(1000).saturating_add(i64::from(duration.nanos) / 1_000_000)
}

/// How long it has been over.
fn last_gap_cell(status: &HostStatus, now: SystemTime) -> Option<String> {
    let gap = status.backlog.as_ref()?.last_gap.as_ref()?;
    age_cell(gap.before.as_ref()?, now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cgfleet_proto::v1::{GapReason, HostBacklog, HostState};
    use expect_test::{Expect, expect};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_420_803)
    }

    fn check(format: Format, expect: &Expect) {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let hosts =
            [(HostState::Up, at(1_795_420_800)), (HostState::Lost, None)].map(|(state, heartbeat_at)| {
                let gap = HistoryGap {
                    after: at(1_795_420_700),
                    before: at(1_795_420_743),
                    reason: GapReason::NotReceived.into(),
                    ..HistoryGap::default()
                };
                let backlog = HostBacklog {
                    spooled_ticks: 12,
                    spooled_since: heartbeat_at,
                    last_gap: heartbeat_at.map(|_| gap),
                    ..HostBacklog::default()
                };
                let host = Host {
                    host_id: format!("id-{}", state as i32),
                    hostname: "web".into(),
                    address: "10.0.0.1:7401".into(),
                    kernel_release: "6.12.0".into(),
                    agent_version: "0.1.0".into(),
                    ..Host::default()
                };
                HostStatus {
                    host: Some(host),
                    state: state.into(),
                    heartbeat_at,
                    last_tick_at: heartbeat_at,
                    ingest_lag: heartbeat_at
                        .map(|_| prost_types::Duration { seconds: 1, nanos: 250_000_000 }),
                    backlog: heartbeat_at.map(|_| backlog),
                    compaction_lag: heartbeat_at.map(|_| prost_types::Duration { seconds: 900, nanos: 0 }),
                }
            });
        let mut out = Vec::new();
        write(&mut out, format, &hosts, &Backlog::default(), now()).unwrap();
        expect.assert_eq(&anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string());
    }

    #[test]
    fn a_host_without_heartbeat_shows_none() {
        check(
            Format::Table,
            &expect![[r#"
                HOST  STATE  ADDRESS        KERNEL  AGENT  HEARTBEAT  LAST_TICK  LAG_MS  SPOOLED  LAST_GAP  HOST_ID
                web   up     10.0.0.1:7401  6.12.0  0.1.0  3s ago     3s ago       1250       12  1m ago    id-1
                web   lost   10.0.0.1:7401  6.12.0  0.1.0  -          -               -        -  -         id-2
            "#]],
        );
        check(
            Format::Json,
            &expect![[r#"
                {"hosts":[{"host_id":"id-1","hostname":"web","state":"up","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":"2026-11-23T08:00:00Z","last_tick_at":"2026-11-23T08:00:00Z","ingest_lag_ms":1250,"compaction_lag_ms":900000,"spooled_ticks":12,"spooled_since":"2026-11-23T08:00:00Z","waiting_since":null,"last_gap":{"after":"2026-11-23T07:58:20Z","before":"2026-11-23T07:59:03Z","reason":"not_received"}},{"host_id":"id-2","hostname":"web","state":"lost","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":null,"last_tick_at":null,"ingest_lag_ms":null,"compaction_lag_ms":null,"spooled_ticks":0,"spooled_since":null,"waiting_since":null,"last_gap":null}],"backlog":{"failing_since":null,"error":null,"spooled_ticks":0,"spooled_since":null,"spool_bytes":0,"spool_bytes_max":0,"dropped_ticks":0}}
            "#]],
        );
        check(
            Format::Ndjson,
            &expect![[r#"
                {"host_id":"id-1","hostname":"web","state":"up","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":"2026-11-23T08:00:00Z","last_tick_at":"2026-11-23T08:00:00Z","ingest_lag_ms":1250,"compaction_lag_ms":900000,"spooled_ticks":12,"spooled_since":"2026-11-23T08:00:00Z","waiting_since":null,"last_gap":{"after":"2026-11-23T07:58:20Z","before":"2026-11-23T07:59:03Z","reason":"not_received"}}
                {"host_id":"id-2","hostname":"web","state":"lost","address":"10.0.0.1:7401","kernel_release":"6.12.0","agent_version":"0.1.0","heartbeat_at":null,"last_tick_at":null,"ingest_lag_ms":null,"compaction_lag_ms":null,"spooled_ticks":0,"spooled_since":null,"waiting_since":null,"last_gap":null}
            "#]],
        );
    }

    #[test]
    fn what_waits_is_said_in_a_line() {
        let check = |backlog: Backlog, expect: Option<&str>| {
            assert_eq!(backlog_text(&backlog, now()).as_deref(), expect);
        };
        check(Backlog::default(), None);
        check(Backlog { spool_bytes_max: 100, ..Backlog::default() }, None);
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let spooled = Backlog {
            failing_since: at(1_795_420_743),
            error: "connection\nrefused".to_owned(),
            spooled_ticks: 12,
            spooled_since: at(1_795_420_800),
            spool_bytes: 90,
            spool_bytes_max: 100,
            dropped_ticks: 2,
        };
        check(
            spooled,
            Some(
                "the server's Postgres takes no ticks (first seen 1m ago): connection?refused; 12 ticks in the \
                 spool (the oldest 3s ago), 90 of 100 bytes; 2 spooled ticks were dropped: the server's log says why",
            ),
        );
    }
}
