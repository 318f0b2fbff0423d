//! `cgctl flush`: flushes the kernel's cgroup statistics on one host, many or all.

use std::io::{self, Write};

use cgfleet_proto::v1::{
    AgentServiceFlushRequest, FleetServiceFlushRequest, FleetServiceFlushResponse, GetCapabilitiesRequest,
    HostFlush, fleet_service_flush_response::Outcome,
};
use jiff::tz::TimeZone;
use serde::Serialize;
use tonic::Code;

use crate::{
    Calls,
    args::{Answerer, FlushArgs},
    error::Error,
    exit::{Exit, HostOutcome, Tally},
    output::{
        Format, conclude,
        json::{self, Failure, OfHost, Summary, rfc3339, write_line},
        note, stdout,
        table::{Column, Table, elapsed, moment_cell},
    },
    remote::Agent,
};

pub(crate) async fn run(args: FlushArgs, calls: &Calls) -> Result<Exit, Error> {
    let format = args.output.format;
    let mut out = stdout(format);
    let mut report = Report { format, hosts: Vec::new(), tally: Tally::default() };
    let ended = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => {
            let agent = calls.agent(&address)?;
            let request = AgentServiceFlushRequest { target: args.target };
            report.add(&mut out, of_agent(&agent, request).await?)?;
            Ok(())
        }
        Answerer::Server(hosts) => {
            let host_timeout = args.host_timeout.to_proto();
            let request = FleetServiceFlushRequest { hosts: Some(hosts), target: args.target, host_timeout };
            of_server(calls, request, &mut report, &mut out).await
        }
    };
    report.finish(&mut out, ended)
}

/// One agent's flush as the server would tell it.
async fn of_agent(
    agent: &Agent,
    request: AgentServiceFlushRequest,
) -> Result<FleetServiceFlushResponse, Error> {
    // The answer does not name the host, and a flush that was done should not fail for that.
    let host = agent
        .call(GetCapabilitiesRequest {}, async |mut client, request| client.get_capabilities(request).await)
        .await?;
    let flush = agent.call(request, async |mut client, request| client.flush(request).await).await?;
    Ok(FleetServiceFlushResponse {
        host_id: host.host_id,
        hostname: host.hostname,
        outcome: Some(Outcome::Flush(HostFlush {
            cgroup_id: flush.cgroup_id,
            path: flush.path,
            flush_ns: flush.flush_ns,
            flushed_at: flush.flushed_at,
        })),
    })
}

async fn of_server(
    calls: &Calls,
    request: FleetServiceFlushRequest,
    report: &mut Report,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let server = calls.server()?;
    let mut stream = server.call(request, async |mut client, request| client.flush(request).await).await?;
    while let Some(host) = server.link.next(&mut stream).await? {
        report.add(out, host)?;
    }
    Ok(())
}

/// What is said of the hosts' flushes.
struct Report {
    format: Format,
    hosts: Vec<FleetServiceFlushResponse>,
    tally: Tally,
}

impl Report {
    fn add(&mut self, out: &mut dyn Write, host: FleetServiceFlushResponse) -> io::Result<()> {
        self.tally.add(match &host.outcome {
            Some(Outcome::Flush(_)) => HostOutcome::Whole,
            Some(Outcome::Error(error)) => {
                note(&format!("host {}: {}: {}", host.hostname, json::reason(error), error.message));
                HostOutcome::Failed(Exit::of_failure(Code::from(error.code)))
            }
            None => HostOutcome::Failed(Exit::Partial),
        });
        if self.format == Format::Ndjson {
            write_line(out, &of_host(&host))?;
            out.flush()?;
        }
        self.hosts.push(host);
        Ok(())
    }

    fn finish(mut self, out: &mut dyn Write, ended: Result<(), Error>) -> Result<Exit, Error> {
        let broke_off = match ended {
            Ok(()) => None,
            Err(error) if error.is_remote() && !self.hosts.is_empty() => Some(error),
            Err(error) => return Err(error),
        };
        self.hosts.sort_by(|a, b| (&a.hostname, &a.host_id).cmp(&(&b.hostname, &b.host_id)));
        match self.format {
            Format::Table => table(&self.hosts, &TimeZone::system()).write(out)?,
            Format::Json => {
                let hosts = self.hosts.iter().map(of_host).collect();
                write_line(out, &Document { hosts, summary: Summary::from(&self.tally) })?;
            }
            Format::Ndjson => {}
        }
        out.flush()?;
        Ok(conclude(&self.tally, broke_off.as_ref()))
    }
}

fn table(hosts: &[FleetServiceFlushResponse], zone: &TimeZone) -> Table {
    let mut table = Table::new([
        Column::text("HOST"),
        Column::number("CGROUP_ID"),
        Column::number("FLUSH"),
        Column::text("FLUSHED_AT"),
        Column::text("PATH"),
    ]);
    for host in hosts {
        if let Some(Outcome::Flush(flush)) = &host.outcome {
            table.row([
                Some(host.hostname.clone()),
                Some(flush.cgroup_id.to_string()),
                Some(elapsed(flush.flush_ns)),
                flush.flushed_at.as_ref().and_then(|moment| moment_cell(moment, zone)),
                Some(flush.path.clone()),
            ]);
        }
    }
    table
}

#[derive(Serialize)]
struct Document<'a> {
    hosts: Vec<OfHost<'a, Option<Answer<'a>>>>,
    summary: Summary,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer<'a> {
    Flush {
        cgroup_id: u64,
        path: &'a str,
        flush_ns: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        flushed_at: Option<String>,
    },
    Error(Failure<'a>),
}

fn of_host(host: &FleetServiceFlushResponse) -> OfHost<'_, Option<Answer<'_>>> {
    let value = host.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Flush(flush) => Answer::Flush {
            cgroup_id: flush.cgroup_id,
            path: &flush.path,
            flush_ns: flush.flush_ns,
            flushed_at: rfc3339(flush.flushed_at.as_ref()),
        },
        Outcome::Error(error) => Answer::Error(error.into()),
    });
    OfHost { host_id: &host.host_id, hostname: Some(&host.hostname), value }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{ErrorReason, HostError};
    use expect_test::{Expect, expect};

    use super::*;

    fn check(format: Format, expect_exit: Exit, expect: &Expect) {
        let mut report = Report { format, hosts: Vec::new(), tally: Tally::default() };
        let mut out = Vec::new();
        let flushed_at = Some(prost_types::Timestamp { seconds: 1_795_420_800, nanos: 0 });
        let flush = HostFlush { cgroup_id: 1, path: "/".into(), flush_ns: 81_200, flushed_at };
        let error =
            HostError { code: 4, reason: ErrorReason::HostTimeout.into(), message: "no answer in 5s".into() };
        for (host, outcome) in [("web-2", Outcome::Flush(flush)), ("web-1", Outcome::Error(error))] {
            let host_id = format!("id-{host}");
            let answer = FleetServiceFlushResponse { host_id, hostname: host.into(), outcome: Some(outcome) };
            report.add(&mut out, answer).unwrap();
        }
        assert_eq!(report.finish(&mut out, Ok(())).unwrap(), expect_exit);
        expect.assert_eq(&String::from_utf8(out).unwrap());
    }

    #[test]
    fn each_host_says_what_it_flushed_or_why_not() {
        check(
            Format::Ndjson,
            Exit::Partial,
            &expect![[r#"
            {"host_id":"id-web-2","hostname":"web-2","flush":{"cgroup_id":1,"path":"/","flush_ns":81200,"flushed_at":"2026-11-23T08:00:00Z"}}
            {"host_id":"id-web-1","hostname":"web-1","error":{"reason":"HOST_TIMEOUT","message":"no answer in 5s","code":4}}
        "#]],
        );
        check(
            Format::Json,
            Exit::Partial,
            &expect![[r#"
            {"hosts":[{"host_id":"id-web-1","hostname":"web-1","error":{"reason":"HOST_TIMEOUT","message":"no answer in 5s","code":4}},{"host_id":"id-web-2","hostname":"web-2","flush":{"cgroup_id":1,"path":"/","flush_ns":81200,"flushed_at":"2026-11-23T08:00:00Z"}}],"summary":{"hosts":2,"hosts_complete":1,"hosts_truncated":0,"hosts_failed":1}}
        "#]],
        );
    }
}
