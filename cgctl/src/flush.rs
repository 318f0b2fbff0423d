//! `cgctl flush`: flushes the kernel's cgroup statistics on one host, many or all.

use std::{
    io::{self, Write},
    time::Duration,
};

use cgfleet_proto::v1::{
    AgentServiceFlushRequest, AgentServiceFlushResponse, FleetServiceFlushRequest, FleetServiceFlushResponse,
    FlushOutcome, FlushScope, FlushedSubsystem, GetCapabilitiesRequest, HostFlush,
    fleet_service_flush_response::Outcome,
};
use jiff::tz::TimeZone;
use serde::Serialize;
use tonic::Code;

use crate::{
    Calls,
    args::{Answerer, FlushArgs, parse_staleness},
    error::Error,
    exit::{Exit, HostOutcome, Tally},
    output::{
        Format, conclude,
        json::{self, Failure, OfHost, Summary, rfc3339, write_line},
        note, stdout,
        table::{Column, Table, elapsed, moment_cell, nanoseconds},
    },
    remote::Agent,
    words,
};

/// What is flushed, and whether it has to be.
#[derive(Debug, clap::Args)]
pub(crate) struct FlushOptions {
    /// What is to be current
    #[arg(long, value_enum, default_value = "subtree")]
    scope: Scope,
    /// A flush that ended so recently will do [default: one has to begin now]
    #[arg(long, value_name = "DURATION", value_parser = parse_staleness, allow_hyphen_values = true)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scope {
    /// The cgroup and all below it
    Subtree,
    /// The cgroup and all above it, but for the root
    Ancestors,
}

impl FlushOptions {
    fn scope(&self) -> i32 {
        match self.scope {
            Scope::Subtree => FlushScope::Subtree.into(),
            Scope::Ancestors => FlushScope::Ancestors.into(),
        }
    }

    fn max_staleness(&self) -> Option<prost_types::Duration> {
        self.max_staleness?.try_into().ok()
    }
}

pub(crate) async fn run(args: FlushArgs, calls: &Calls) -> Result<Exit, Error> {
    let format = args.output.format;
    let mut out = stdout(format);
    let mut report = Report { format, hosts: Vec::new(), tally: Tally::default() };
    let ended = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => {
            let agent = calls.agent(&address)?;
            let (scope, max_staleness) = (args.options.scope(), args.options.max_staleness());
            let request = AgentServiceFlushRequest { target: args.target, scope, max_staleness };
            report.add(&mut out, of_agent(&agent, request).await?)?;
            Ok(())
        }
        Answerer::Server(hosts) => {
            let request = FleetServiceFlushRequest {
                hosts: Some(hosts),
                target: args.target,
                host_timeout: args.host_timeout.to_proto(),
                scope: args.options.scope(),
                max_staleness: args.options.max_staleness(),
            };
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
    // The answer does not tell the host's name, and a flush that was done should not fail for that.
    let host = agent
        .call(GetCapabilitiesRequest {}, async |mut client, request| client.get_capabilities(request).await)
        .await?;
    let flush = agent.call(request, async |mut client, request| client.flush(request).await).await?;
    Ok(FleetServiceFlushResponse {
        host_id: host.host_id,
        hostname: host.hostname,
        outcome: Some(Outcome::Flush(host_flush(flush))),
    })
}

fn host_flush(answer: AgentServiceFlushResponse) -> HostFlush {
    HostFlush {
        cgroup_id: answer.cgroup_id,
        path: answer.path,
        flush_ns: answer.flush_ns,
        flushed_at: answer.flushed_at,
        outcome: answer.outcome,
        subsystems: answer.subsystems,
        files_ns: answer.files_ns,
        retry_after: answer.retry_after,
    }
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
            Some(Outcome::Flush(flush)) if flush.outcome() == FlushOutcome::RateLimited => {
                let again = retry_after(flush).map(|again| format!(" in {}", elapsed(nanoseconds(again))));
                let again = again.unwrap_or_default();
                note(&format!("host {}: rate_limited: nothing was flushed; try again{again}", host.hostname));
                HostOutcome::Failed(Exit::Partial)
            }
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
        Column::text("OUTCOME"),
        Column::number("CGROUP_ID"),
        Column::number("FLUSH"),
        Column::text("FLUSHED_AT"),
        Column::text("HOW"),
        Column::text("PATH"),
    ]);
    for host in hosts {
        if let Some(Outcome::Flush(flush)) = &host.outcome {
            let of_flush = |cell: String| flush.flushed_at.is_some().then_some(cell);
            table.row([
                Some(host.hostname.clone()),
                words::flush_outcome(flush.outcome),
                of_flush(flush.cgroup_id.to_string()),
                of_flush(elapsed(flush.flush_ns + flush.files_ns)),
                flush.flushed_at.as_ref().and_then(|moment| moment_cell(moment, zone)),
                of_flush(how(&flush.subsystems)),
                of_flush(flush.path.clone()),
            ]);
        }
    }
    table
}

/// `cpu:rstat memory:file_past_threshold`.
fn how(subsystems: &[FlushedSubsystem]) -> String {
    let words = subsystems.iter().map(|FlushedSubsystem { name, method, .. }| {
        format!("{name}:{}", words::flush_method(*method).unwrap_or_default())
    });
    words.collect::<Vec<_>>().join(" ")
}

fn retry_after(flush: &HostFlush) -> Option<Duration> {
    Duration::try_from(flush.retry_after?).ok()
}

#[derive(Serialize)]
struct Document<'a> {
    hosts: Vec<OfHost<'a, Option<Answer<'a>>>>,
    summary: Summary,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer<'a> {
    Flush(Flush<'a>),
    Error(Failure<'a>),
}

#[derive(Serialize)]
struct Flush<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(flatten)]
    flushed: Option<Flushed<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ns: Option<u64>,
}

/// Of the flush that meets the request, if there is one.
#[derive(Serialize)]
struct Flushed<'a> {
    cgroup_id: u64,
    path: &'a str,
    flush_ns: u64,
    files_ns: u64,
    flushed_at: String,
    subsystems: Vec<Subsystem<'a>>,
}

#[derive(Serialize)]
struct Subsystem<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

impl<'a> From<&'a HostFlush> for Flush<'a> {
    fn from(flush: &'a HostFlush) -> Self {
        let subsystem = |FlushedSubsystem { name, method, reason }: &'a FlushedSubsystem| Subsystem {
            name,
            method: words::flush_method(*method),
            reason,
        };
        let flushed = rfc3339(flush.flushed_at.as_ref()).map(|flushed_at| Flushed {
            cgroup_id: flush.cgroup_id,
            path: &flush.path,
            flush_ns: flush.flush_ns,
            files_ns: flush.files_ns,
            flushed_at,
            subsystems: flush.subsystems.iter().map(subsystem).collect(),
        });
        let retry_after_ns = retry_after(flush).map(nanoseconds);
        Self { outcome: words::flush_outcome(flush.outcome), flushed, retry_after_ns }
    }
}

fn of_host(host: &FleetServiceFlushResponse) -> OfHost<'_, Option<Answer<'_>>> {
    let value = host.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Flush(flush) => Answer::Flush(flush.into()),
        Outcome::Error(error) => Answer::Error(error.into()),
    });
    OfHost { host_id: &host.host_id, hostname: Some(&host.hostname), value }
}

#[cfg(test)]
mod tests;
