//! The rows and results of a query as table, json or ndjson.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
};

use cgfleet_proto::v1::{CgroupSample, HostResult, HostSamples, WalkSummary, host_result};
use serde::{Serialize, Serializer};

use crate::{
    args::Columns,
    error::Error,
    exit::Tally,
    output::{
        Format, check_collected,
        json::{Failure, OfHost, Row, Summary, rfc3339, write_line},
        table::{Column, Table, metric_title, sample_cell, workload_cell},
    },
    words,
};

/// Prints an answer: ndjson as it comes, the others when it is over.
pub(super) struct Writer<W> {
    out: W,
    format: Format,
    columns: Columns,
    hostnames: HashMap<String, String>,
    /// By host id.
    collected: BTreeMap<String, Host>,
    rows_collected: usize,
}

/// What one host answered so far.
#[derive(Default)]
struct Host {
    rows: Vec<CgroupSample>,
    result: Option<HostResult>,
}

impl Host {
    fn name(&self) -> Option<&str> {
        Some(self.result.as_ref()?.hostname.as_str())
    }
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, format: Format, columns: Columns, hostnames: HashMap<String, String>) -> Self {
        Self { out, format, columns, hostnames, collected: BTreeMap::new(), rows_collected: 0 }
    }

    pub(super) fn rows(&mut self, HostSamples { host_id, samples }: HostSamples) -> Result<(), Error> {
        if self.format == Format::Ndjson {
            let hostname = self.hostnames.get(&host_id).map(String::as_str);
            for sample in &samples {
                write_line(&mut self.out, &OfHost { host_id: &host_id, hostname, value: Row::from(sample) })?;
            }
            return Ok(self.out.flush()?);
        }
        self.rows_collected += samples.len();
        check_collected(self.rows_collected)?;
        self.collected.entry(host_id).or_default().rows.extend(samples);
        Ok(())
    }

    pub(super) fn host(&mut self, result: HostResult) -> Result<(), Error> {
        if self.format == Format::Ndjson {
            let (host_id, hostname) = (result.host_id.as_str(), Some(result.hostname.as_str()));
            write_line(&mut self.out, &OfHost { host_id, hostname, value: Outcome::of(&result) })?;
            return Ok(self.out.flush()?);
        }
        let host = self.collected.entry(result.host_id.clone()).or_default();
        host.result = Some(result);
        Ok(())
    }

    pub(super) fn finish(mut self, tally: &Tally) -> Result<(), Error> {
        let mut hosts: Vec<(&String, &Host)> = self.collected.iter().collect();
        // Stable, so hosts of one name stay ordered by id.
        hosts.sort_by_key(|(_, host)| host.name());
        match self.format {
            Format::Table => table(&hosts, self.columns).write(&mut self.out)?,
            Format::Json => write_line(&mut self.out, &Document::of(&hosts, tally))?,
            Format::Ndjson => {}
        }
        Ok(self.out.flush()?)
    }
}

fn table(hosts: &[(&String, &Host)], columns: Columns) -> Table {
    let shown = columns.shown(hosts.iter().flat_map(|(_, host)| &host.rows));
    let many = hosts.len() > 1;
    let is_named = hosts.iter().flat_map(|(_, host)| &host.rows).any(|row| workload_cell(row).is_some());
    let mut titles = Vec::new();
    if many {
        titles.push(Column::text("HOST"));
    }
    titles.push(Column::number("CGROUP_ID"));
    titles.extend(shown.iter().map(|metric| Column::Number(metric_title(metric.info()))));
    titles.push(Column::text("SOURCE"));
    if is_named {
        titles.push(Column::text("NAME"));
    }
    titles.push(Column::text("PATH"));
    let mut table = Table::new(titles);
    for (host_id, host) in hosts {
        for sample in &host.rows {
            let mut cells = Vec::with_capacity(shown.len() + 5);
            if many {
                cells.push(Some(host.name().unwrap_or(host_id).to_owned()));
            }
            cells.push(Some(sample.cgroup_id.to_string()));
            cells.extend(shown.iter().map(|metric| sample_cell(sample, *metric)));
            cells.push(words::sources_of(sample));
            if is_named {
                cells.push(workload_cell(sample));
            }
            cells.push(Some(sample.path.clone()));
            table.row(cells);
        }
    }
    table
}

/// The whole answer as one JSON document.
#[derive(Serialize)]
struct Document<'a> {
    hosts: Vec<OfHost<'a, HostAnswer<'a>>>,
    summary: Summary,
}

impl<'a> Document<'a> {
    fn of(hosts: &[(&'a String, &'a Host)], tally: &Tally) -> Self {
        let hosts = hosts.iter().map(|(host_id, host)| {
            let outcome = host.result.as_ref().and_then(Outcome::of);
            OfHost { host_id, hostname: host.name(), value: HostAnswer { rows: &host.rows, outcome } }
        });
        Self { hosts: hosts.collect(), summary: Summary::from(tally) }
    }
}

#[derive(Serialize)]
struct HostAnswer<'a> {
    #[serde(serialize_with = "rows")]
    rows: &'a [CgroupSample],
    #[serde(flatten)]
    outcome: Option<Outcome<'a>>,
}

/// Makes each row as it is written, so that the rows are not in memory twice.
fn rows<S: Serializer>(rows: &[CgroupSample], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(Row::from))
}

/// How one host answered.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome<'a> {
    Result(Ending<'a>),
    Error(Failure<'a>),
}

impl<'a> Outcome<'a> {
    fn of(result: &'a HostResult) -> Option<Self> {
        Some(match result.outcome.as_ref()? {
            host_result::Outcome::Summary(summary) => Self::Result(Ending::of(result.rows, summary)),
            host_result::Outcome::Error(error) => Self::Error(error.into()),
        })
    }
}

/// How a walk ended and what it cost.
#[derive(Serialize)]
struct Ending<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_by: Option<&'a str>,
    rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    cgroups_visited: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    flushed_cgroup_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flushed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flush_outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_at: Option<String>,
    flush_ns: u64,
    walk_ns: u64,
    cgroup_mutex_held_ns_max: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unbroken_ns_max: Option<u64>,
    files_ns: u64,
    request_ns: u64,
    shared: bool,
}

impl<'a> Ending<'a> {
    fn of(rows: u64, summary: &'a WalkSummary) -> Self {
        Self {
            end: words::walk_end(summary.end),
            truncated_by: Some(summary.truncated_by.as_str()).filter(|limit| !limit.is_empty()),
            rows,
            engine: words::walk_engine(summary.engine),
            cgroups_visited: summary.cgroups_visited,
            flushed_cgroup_id: Some(summary.flushed_cgroup_id).filter(|id| *id != 0),
            flushed_at: rfc3339(summary.flushed_at.as_ref()),
            flush_outcome: words::flush_outcome(summary.flush_outcome),
            read_at: rfc3339(summary.read_at.as_ref()),
            flush_ns: summary.flush_ns,
            walk_ns: summary.walk_ns,
            cgroup_mutex_held_ns_max: summary.cgroup_mutex_held_ns_max,
            unbroken_ns_max: summary.unbroken_ns_max,
            files_ns: summary.files_ns,
            request_ns: summary.request_ns,
            shared: summary.shared,
        }
    }
}

#[cfg(test)]
mod tests;
