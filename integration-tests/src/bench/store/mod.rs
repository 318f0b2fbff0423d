//! Scenario `store`: what a server stores of a hundred simulated hosts and what that costs, beside psql's copy into a
//! wide table, how much disk it takes, beside VictoriaMetrics, and how soon it is read.

mod disk;
mod fill;
mod live;
mod psql;
mod queries;
mod recorded;
mod usage;
mod victoria;
mod wide;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use self::{
    live::{CGROUPS, HOSTS, Measured, SimulatedFleet},
    psql::Psql,
    wide::{Clock, WideTable},
};
use super::{Bench, Figure, Row, figure::table};
use crate::{
    daemon::Daemon,
    sim::{Tree, TreeSpec},
};

const COPY: &str = "psql \\copy binary into a wide table: each sample";
/// A million samples a second.
const SAMPLE_NS_REACH: f64 = 1000.0;
/// Three times as many as the copy.
const COPY_REACH: f64 = 1.0 / 3.0;
const LAG_REACH: f64 = 2.0;
/// Ticks of one copy: half a million samples.
const COPIED_TICKS: usize = 10;
/// Copies before and behind the hosts' turn.
const COPIES: usize = 2;

/// How many cgroups change, and the intervals that are tried, the longest first.
struct Load {
    name: &'static str,
    changing: f64,
    intervals_ms: &'static [u64],
    judged: bool,
}

const LOADS: [Load; 2] = [
    Load { name: "10 % changing", changing: 0.1, intervals_ms: &[200, 100, 67, 48], judged: true },
    Load { name: "100 % changing", changing: 1.0, intervals_ms: &[1000, 500, 333, 250], judged: false },
];

/// Of the data on disk: hosts, and hours of each.
const DISK_HOSTS: u64 = 2;
const DISK_HOURS: u32 = 24;
const QUICK_HOURS: u32 = 2;
/// How long this host is recorded.
const RECORDED_SECONDS: usize = 360;
const QUICK_SECONDS: usize = 30;
/// A cgroup that is there at all times.
const ONE_CGROUP: &str = "/system.slice";

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for part in [synthetic_rows, recorded_rows, live_rows] {
        let measured = part(bench)?;
        // It takes long until all are done.
        println!("{}\n", table(&measured));
        rows.extend(measured);
    }
    Ok(rows)
}

/// Of one server: the disk that hours of simulated hosts take, and how soon they are read.
fn synthetic_rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut server = live::start_server(bench)?;
    let wide = WideTable::new(&Psql::of(&server))?;
    let hours = if bench.quick { QUICK_HOURS } else { DISK_HOURS };
    let ticks = usize::try_from(hours)? * 360;
    let first_at = disk::hours_ago(hours)?;
    let name = format!("synthetic, {DISK_HOSTS} hosts x {CGROUPS} cgroups, {hours} h at 10 s");
    let host = |seed| -> (String, Box<dyn Iterator<Item = _>>) {
        (format!("disk-{seed}"), Box::new(disk::synthetic(seed, CGROUPS).take(ticks)))
    };
    let data = disk::Data { name: &name, hosts: (0..DISK_HOSTS).map(host).collect(), first_at };
    let mut copy = wide.begin()?;
    let mut rows = disk::measure(bench, &server, data, Some(&mut copy))?;
    let (samples, took) = copy.finish()?;
    println!("{samples} samples copied in {took:.2?}");
    let wide_bytes = wide.psql().table_bytes("wide")?;
    #[allow(clippy::cast_precision_loss, reason = "some millions")]
    let bytes = wide_bytes / samples as f64;
    rows.push(
        Figure::new(format!("{name}: a wide table, with its index"), "bytes a sample", vec![bytes]).row(),
    );
    let until = queries::store_many_hosts(bench, &server, &wide)?;
    bench.block_on(server.stop())?;
    bench.block_on(server.start_again())?;
    let first = disk::synthetic(0, CGROUPS).next().unwrap_or_default();
    let cgroup = first.iter().find(|sample| sample.path == ONE_CGROUP).context("no such cgroup")?;
    let stored = queries::Stored {
        hostname: "disk-0",
        path: ONE_CGROUP,
        cgroup_id: cgroup.cgroup_id,
        since: first_at,
        hours,
    };
    rows.extend(queries::measure(bench, &server, &wide, &stored, until)?);
    Ok(rows)
}

/// Of another server: the disk that a recorded stream of this host takes.
fn recorded_rows(bench: &Bench) -> Result<Vec<Row>> {
    let recorded = recorded::record(bench, if bench.quick { QUICK_SECONDS } else { RECORDED_SECONDS })?;
    let ticks = recorded::stretched(&recorded);
    let metrics: usize = ticks
        .iter()
        .flatten()
        .map(|sample| {
            cgfleet_model::MetricSet::all().iter().filter(|metric| sample.metric(*metric).is_some()).count()
        })
        .sum();
    let samples: usize = ticks.iter().map(Vec::len).sum();
    let name = format!(
        "recorded, this host's {} cgroups with {} metrics each, {} ticks at 10 s",
        samples / ticks.len().max(1),
        metrics / samples.max(1),
        ticks.len()
    );
    let server = live::start_server(bench)?;
    let data = disk::Data {
        name: &name,
        hosts: vec![("recorded".to_owned(), Box::new(ticks.into_iter()))],
        first_at: disk::hours_ago(1)?,
    };
    disk::measure(bench, &server, data, None)
}

/// Of a server that hosts stream to.
fn live_rows(bench: &Bench) -> Result<Vec<Row>> {
    let server = live::start_server(bench)?;
    let psql = Psql::of(&server);
    let wide = WideTable::new(&psql)?;
    let mut copied = Copied::new(LOADS[0].changing);
    let mut rows = Vec::new();
    for load in &LOADS {
        copied.copy(bench, &wide)?;
        let measured = measure(bench, &server, &psql, load)?;
        copied.copy(bench, &wide)?;
        rows.extend(load_rows(load, &measured, &copied.figure()));
    }
    rows.insert(0, copied.figure().row());
    Ok(rows)
}

/// The shortest of the intervals that the server keeps up with, measured for long.
fn measure(bench: &Bench, server: &Daemon, psql: &Psql, load: &Load) -> Result<Measured> {
    let (trial, length) = if bench.quick { (10, 30) } else { (20, 300) };
    let intervals: Vec<Duration> = load.intervals_ms.iter().copied().map(Duration::from_millis).collect();
    let mut chosen = 0;
    let mut fleet = SimulatedFleet::start(bench, server, intervals[0], load.changing)?;
    for (at, interval) in intervals.iter().enumerate() {
        if at > 0 {
            fleet.change(bench, *interval, load.changing)?;
        }
        live::settle(bench, psql, *interval)?;
        let measured = live::measure(bench, server, Duration::from_secs(trial))?;
        measured.print(&format!("{}, every {interval:?}", load.name));
        if measured.missing > 0.01 * measured.ticks || measured.lag_p99 > LAG_REACH {
            break;
        }
        chosen = at;
    }
    if chosen + 1 < intervals.len() {
        fleet.change(bench, intervals[chosen], load.changing)?;
        live::settle(bench, psql, intervals[chosen])?;
    }
    let measured = live::measure(bench, server, Duration::from_secs(length))?;
    measured.print(&format!("{}, every {:?}, for {length} s", load.name, intervals[chosen]));
    fleet.stop(bench);
    Ok(measured)
}

fn load_rows(load: &Load, measured: &Measured, copy: &Figure) -> Vec<Row> {
    let figure = |what: &str, unit, value| {
        Figure::new(format!("{HOSTS} hosts x {CGROUPS} cgroups, {}: {what}", load.name), unit, vec![value])
    };
    let each = figure("each sample, from gRPC to committed", "ns", 1e9 / measured.samples_per_second());
    let lag = figure("from the walk to committed, p99", "s", measured.lag_p99).row();
    let (value, against) = (each.row(), each.row_against(copy));
    let [value, against, lag] = if load.judged {
        [value.reach(SAMPLE_NS_REACH), against.reach(COPY_REACH), lag.reach(LAG_REACH)]
    } else {
        [value, against, lag.reach(LAG_REACH)]
    };
    vec![
        figure("samples a second", "1/s", measured.samples_per_second()).row(),
        value,
        against,
        lag,
        figure("from the walk to committed, p50", "s", measured.lag_p50).row(),
        figure("samples a CPU second of server and Postgres", "1/s", measured.samples_per_cpu_second()).row(),
        figure("CPU of the server", "% of a core", share(measured.server.own, measured.wall)).row(),
        figure("CPU of Postgres", "% of a core", share(measured.server.below, measured.wall)).row(),
        figure("CPU of the simulated hosts", "% of a core", share(measured.agents, measured.wall)).row(),
        figure("WAL of each sample", "bytes", measured.wal_bytes / measured.samples).row(),
        figure("ticks that are missing", "%", 100.0 * measured.missing / measured.ticks).row(),
        figure("compaction behind, at the end", "s", measured.behind.last().copied().unwrap_or(f64::NAN))
            .row(),
    ]
}

fn share(on_cpu: Duration, wall: Duration) -> f64 {
    100.0 * on_cpu.as_secs_f64() / wall.as_secs_f64()
}

/// What the copies took so far.
struct Copied {
    trees: Vec<Tree>,
    clock: Clock,
    sample_ns: Vec<f64>,
}

impl Copied {
    fn new(changing: f64) -> Self {
        let spec = |seed| TreeSpec { seed, cgroups: CGROUPS, activity: live::activity(changing) };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_usec = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        Self {
            trees: (0..HOSTS).map(|seed| Tree::new(spec(seed))).collect(),
            clock: Clock { at_usec, interval: Duration::from_secs(10) },
            sample_ns: Vec::new(),
        }
    }

    fn copy(&mut self, bench: &Bench, wide: &WideTable) -> Result<()> {
        for _ in 0..COPIES {
            bench.pause(Duration::ZERO)?;
            let (samples, took) = wide.copy(&mut self.trees, COPIED_TICKS, &mut self.clock)?;
            #[allow(clippy::cast_precision_loss, reason = "half a million")]
            self.sample_ns.push(took.as_secs_f64() * 1e9 / samples as f64);
            println!("{samples} samples copied in {took:.2?}");
        }
        Ok(())
    }

    fn figure(&self) -> Figure {
        Figure::new(COPY.to_owned(), "ns", self.sample_ns.clone())
    }
}
