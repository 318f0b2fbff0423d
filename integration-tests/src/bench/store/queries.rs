//! Shows 3: how soon the past is read, at the server, beside the same questions to a wide table.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    CgroupTarget, HistoryAggregation, HistoryCgroups, HistorySummary, HostSelector, QueryHistoryRequest,
    query_history_response::Event,
};
use prost_types::FieldMask;

use super::{
    disk::INTERVAL,
    fill::{Filler, HostTicks, Others},
    psql::Psql,
    wide::WideTable,
};
use crate::{
    bench::{Bench, Figure, Row},
    daemon::Daemon,
    sim::{Tree, TreeSpec},
};

const ROUNDS: usize = 30;
const ONE_CGROUP_REACH_MS: f64 = 1.0;
const TOP_REACH_MS: f64 = 20.0;
const TOP_HOSTS: u64 = 100;
const TOP_CGROUPS: usize = 100;
/// Of the hosts that the top is asked of: twice as much as is asked for.
const TOP_TICKS: u32 = 60;
const TOP_RANGE: Duration = Duration::from_mins(5);
const CPU: &str = "cpu.usage_usec";

/// A cgroup of which hours were stored, which the wide table has as host 0.
pub(super) struct Stored<'a> {
    pub(super) hostname: &'a str,
    pub(super) path: &'a str,
    pub(super) cgroup_id: u64,
    pub(super) since: SystemTime,
    pub(super) hours: u32,
}

/// Stores minutes of many hosts up to now; the server has to be started anew to know them.
pub(super) fn store_many_hosts(bench: &Bench, server: &Daemon, wide: &WideTable) -> Result<SystemTime> {
    let filler = Filler::new(bench, &Psql::of(server))?;
    let until = SystemTime::now();
    let first_at = until - INTERVAL * TOP_TICKS;
    let mut copy = wide.begin()?;
    for number in 0..TOP_HOSTS {
        let spec =
            TreeSpec { seed: 1000 + number, cgroups: TOP_CGROUPS, activity: super::live::activity(0.1) };
        let mut tree = Tree::new(spec);
        let ticks = (0..TOP_TICKS).map(|_| {
            let samples = tree.samples().cloned().collect();
            tree.step(INTERVAL);
            samples
        });
        let hostname = format!("top-{number:03}");
        let number = 1000 + i32::try_from(number)?;
        let host = HostTicks { hostname: &hostname, number, first_at, interval: INTERVAL };
        filler.host(&host, ticks, Others { victoria: None, wide: Some(&mut copy) })?;
    }
    copy.finish()?;
    Ok(until)
}

pub(super) fn measure(
    bench: &Bench,
    server: &Daemon,
    wide: &WideTable,
    stored: &Stored<'_>,
    until: SystemTime,
) -> Result<Vec<Row>> {
    wide.psql().run("vacuum analyze wide")?;
    Psql::of(server).run("vacuum analyze")?;
    let hours = stored.hours;
    let name = format!("one cgroup, {hours} h at 10 s");
    let range = (stored.since, stored.since + Duration::from_hours(hours.into()));
    let [from, to] = [range.0, range.1].map(at_seconds);
    let one = QueryHistoryRequest {
        host: stored.hostname.to_owned(),
        target: Some(CgroupTarget { path: stored.path.to_owned(), ..CgroupTarget::default() }),
        read_mask: Some(FieldMask { paths: vec![CPU.to_owned()] }),
        since: Some(range.0.into()),
        until: Some(range.1.into()),
        ..QueryHistoryRequest::default()
    };
    let rate = QueryHistoryRequest {
        step: Some(INTERVAL.try_into()?),
        aggregation: HistoryAggregation::Rate.into(),
        ..one.clone()
    };
    let hosts: Vec<String> = (0..TOP_HOSTS).map(|number| format!("top-{number:03}")).collect();
    let top = QueryHistoryRequest {
        hosts: Some(HostSelector { hosts, all: false }),
        cgroups: Some(HistoryCgroups::default()),
        read_mask: Some(FieldMask { paths: vec![CPU.to_owned()] }),
        since: Some((until - TOP_RANGE).into()),
        until: Some(until.into()),
        aggregation: HistoryAggregation::Rate.into(),
        top: 10,
        ..QueryHistoryRequest::default()
    };
    let of_one = format!(
        "select ts, cpu_usage_usec from wide where host = 0 and cgroup_id = {} and ts >= to_timestamp({from})
         and ts < to_timestamp({to}) order by ts",
        stored.cgroup_id
    );
    let [from, to] = [until - TOP_RANGE, until].map(at_seconds);
    let of_top = format!(
        "select host, cgroup_id, (max(cpu_usage_usec) - min(cpu_usage_usec)) / extract(epoch from max(ts) - min(ts))
         from wide where host between 1000 and 1999 and ts >= to_timestamp({from}) and ts < to_timestamp({to})
         group by host, cgroup_id order by 3 desc nulls last limit 10"
    );
    let rounds = bench.rounds(ROUNDS, || {
        Ok([
            ask(bench, server, &one)?,
            ask(bench, server, &rate)?,
            wide_ms(wide, &of_one)?,
            ask(bench, server, &top)?,
            wide_ms(wide, &of_top)?,
        ])
    })?;
    let figure = |at: usize, name: String| {
        Figure::new(name, "ms", rounds.iter().map(|round: &[f64; 5]| round[at]).collect())
    };
    let top = format!("top 10 by cpu rate, {TOP_HOSTS} hosts x {TOP_CGROUPS} cgroups, 5 min");
    let (one_wide, top_wide) =
        (figure(2, format!("{name}: a wide table")), figure(4, format!("{top}: a wide table")));
    Ok(vec![
        figure(0, format!("{name}: its points, at the server")).row(),
        figure(1, format!("{name}: its rate, at the server")).row().reach(ONE_CGROUP_REACH_MS),
        figure(1, format!("{name}: its rate")).row_against(&one_wide),
        one_wide.row(),
        figure(3, format!("{top}: at the server")).row().reach(TOP_REACH_MS),
        figure(3, top).row_against(&top_wide),
        top_wide.row(),
    ])
}

/// How long the server took, in milliseconds.
fn ask(bench: &Bench, server: &Daemon, request: &QueryHistoryRequest) -> Result<f64> {
    let summary: HistorySummary = bench.block_on(async {
        let mut stream = server.fleet()?.query_history(request.clone()).await?.into_inner();
        let (mut summary, mut values) = (None, 0);
        while let Some(message) = stream.message().await? {
            match message.event.context("an empty message")? {
                Event::Summary(last) => summary = Some(last),
                Event::Points(points) => values += points.points.len(),
                Event::Values(more) => values += more.values.len(),
                Event::Gap(_) | Event::Series(_) => {}
            }
        }
        ensure!(values > 0, "an empty answer to {request:?}");
        summary.context("an answer without a summary")
    })?;
    Ok(Duration::from_nanos(summary.request_ns).as_secs_f64() * 1e3)
}

/// How long Postgres took to make all rows, without sending them.
fn wide_ms(wide: &WideTable, query: &str) -> Result<f64> {
    let plan = wide.psql().run(&format!("explain (analyze, timing off, format json) {query}"))?;
    let plan: serde_json::Value = serde_json::from_str(&plan)?;
    plan[0]["Execution Time"].as_f64().context("a plan without its time")
}

fn at_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
