//! Shows 1: simulated hosts whose agents stream to a server, with all that it does in the background.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{
    psql::Psql,
    usage::{CpuTime, Family},
};
use crate::{
    bench::Bench,
    daemon::{Daemon, Start},
    sim::{ANY_PORT, Activity, HostSpec, SimulatedHost, TreeSpec},
};

/// What is simulated.
pub(super) const HOSTS: u64 = 100;
pub(super) const CGROUPS: usize = 500;
/// Per host: a pod a minute, and a service every two, come and go.
const PODS_REPLACED_PER_SECOND: f64 = 1.0 / 60.0;
const SERVICES_RESTARTED_PER_SECOND: f64 = 1.0 / 120.0;
/// How often the backlog is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Until all hosts have registered and stored something.
const PATIENCE: Duration = Duration::from_mins(2);
/// Until those who cannot be caught up with are measured all the same.
const CATCHING_UP: Duration = Duration::from_secs(30);

pub(super) fn activity(changing: f64) -> Activity {
    Activity {
        changing,
        pods_replaced_per_second: PODS_REPLACED_PER_SECOND,
        services_restarted_per_second: SERVICES_RESTARTED_PER_SECOND,
    }
}

/// A server whose Postgres tells when each row was committed.
pub(super) fn start_server(bench: &Bench) -> Result<Daemon> {
    let start = Start::server()?.flag("--log", "info").flag("--heartbeat-interval", "30s");
    let mut server = bench.block_on(start.start())?;
    Psql::of(&server).run("alter system set track_commit_timestamp = on")?;
    bench.block_on(server.stop())?;
    bench.block_on(server.start_again())?;
    Ok(server)
}

/// The hosts, all with the same interval and liveliness.
pub(super) struct SimulatedFleet {
    hosts: Vec<SimulatedHost>,
}

impl SimulatedFleet {
    pub(super) fn start(bench: &Bench, server: &Daemon, interval: Duration, changing: f64) -> Result<Self> {
        let spec = |number| HostSpec {
            hostname: format!("sim-{number:03}"),
            server_url: Some(server.url()),
            listen_address: ANY_PORT,
            sample_interval: interval,
            history_bytes_max: 8 << 20,
            tree: TreeSpec { seed: number, cgroups: CGROUPS, activity: activity(changing) },
        };
        let start = async { (0..HOSTS).map(|number| SimulatedHost::start(spec(number))).collect() };
        let hosts: Result<Vec<SimulatedHost>> = bench.block_on(start);
        Ok(Self { hosts: hosts.context("start simulated hosts")? })
    }

    /// Starts all agents anew.
    pub(super) fn change(&mut self, bench: &Bench, interval: Duration, changing: f64) -> Result<()> {
        bench.block_on(async {
            for host in &mut self.hosts {
                host.crash().await;
            }
            for host in &mut self.hosts {
                host.boot_as(|spec| {
                    spec.sample_interval = interval;
                    spec.tree.activity = activity(changing);
                })?;
            }
            Ok(())
        })
    }

    pub(super) fn stop(mut self, bench: &Bench) {
        bench.block_on(async {
            for host in &mut self.hosts {
                host.crash().await;
            }
        });
    }
}

/// What a stretch of time came to.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) wall: Duration,
    pub(super) samples: f64,
    pub(super) ticks: f64,
    /// Ticks that agents took, or had to skip, and that are not stored.
    pub(super) missing: f64,
    /// From the tick's walk to the end of its commit.
    pub(super) lag_p50: f64,
    pub(super) lag_p99: f64,
    pub(super) server: CpuTime,
    pub(super) agents: Duration,
    pub(super) wal_bytes: f64,
    /// How far compaction was behind, by the time since it began.
    pub(super) behind: Vec<f64>,
}

impl Measured {
    pub(super) fn samples_per_second(&self) -> f64 {
        self.samples / self.wall.as_secs_f64()
    }

    /// The server's and Postgres'.
    pub(super) fn samples_per_cpu_second(&self) -> f64 {
        self.samples / self.server.all().as_secs_f64()
    }

    pub(super) fn print(&self, name: &str) {
        let per_second = |time: Duration| 100.0 * time.as_secs_f64() / self.wall.as_secs_f64();
        println!(
            "{name}: {:.0} samples/s, {:.0} ticks, {:.0} missing, lag p50 {:.3} s p99 {:.3} s, CPU: server {:.0} %, \
             Postgres {:.0} %, agents {:.0} %, {:.2} bytes of WAL a sample, compaction behind {:.0?} s",
            self.samples_per_second(),
            self.ticks,
            self.missing,
            self.lag_p50,
            self.lag_p99,
            per_second(self.server.own),
            per_second(self.server.below),
            per_second(self.agents),
            self.wal_bytes / self.samples,
            self.behind,
        );
    }
}

/// Waits until all hosts have registered and stored ticks, and as far as they can have no more than those of the last
/// moment waiting: what waits when a measurement begins would be in its lags.
pub(super) fn settle(bench: &Bench, psql: &Psql, interval: Duration) -> Result<()> {
    let began = Instant::now();
    let from = psql.number("select extract(epoch from clock_timestamp())")?;
    let late = (interval * 2).as_secs_f64() + 0.5;
    let statement = format!(
        "select count(*) filter (where last_tick_at > to_timestamp({from})),
                count(*) filter (where last_tick_at > clock_timestamp() - make_interval(secs => {late}))
         from ingest_cursor"
    );
    while began.elapsed() < PATIENCE {
        bench.pause(Duration::from_millis(500))?;
        let [newer, lately] = psql.numbers(&statement)?;
        #[allow(clippy::cast_precision_loss, reason = "a hundred hosts")]
        let hosts = HOSTS as f64;
        if lately >= hosts || (newer >= hosts && began.elapsed() > CATCHING_UP) {
            return Ok(());
        }
    }
    anyhow::bail!("not all of {HOSTS} hosts have stored ticks within {PATIENCE:?}")
}

/// Measures for so long.
pub(super) fn measure(bench: &Bench, server: &Daemon, length: Duration) -> Result<Measured> {
    let psql = Psql::of(server);
    let (family, itself) = (Family::of(server.pid()), Family::of(std::process::id()));
    let [from, wal_before] =
        psql.numbers("select extract(epoch from clock_timestamp()), pg_current_wal_lsn() - '0/0'")?;
    let (cpu_before, agents_before) = (family.cpu_time()?, itself.cpu_time()?);
    let began = Instant::now();
    let mut behind = Vec::new();
    while began.elapsed() < length {
        bench.pause(LOOK.min(length.saturating_sub(began.elapsed())))?;
        behind.push(compaction_behind(&psql)?);
    }
    let [until, wal_after] =
        psql.numbers("select extract(epoch from clock_timestamp()), pg_current_wal_lsn() - '0/0'")?;
    let wall = began.elapsed();
    let (cpu_after, agents_after) = (family.cpu_time()?, itself.cpu_time()?);
    let [ticks, samples, missing, lag_p50, lag_p99] = psql.numbers(&format!(
        "with stored as (
             select host_id, agent_epoch, sequence, cgroup_count, pg_xact_commit_timestamp(xmin) as committed_at,
                    sampled_at
             from head),
         lately as (
             select * from stored
             where committed_at >= to_timestamp({from}) and committed_at < to_timestamp({until})),
         by_host as (
             select max(sequence) - min(sequence) + 1 - count(*) as missing from lately group by host_id, agent_epoch)
         select count(*), coalesce(sum(cgroup_count), 0), (select coalesce(sum(missing), 0) from by_host),
                extract(epoch from percentile_disc(0.5) within group (order by committed_at - sampled_at)),
                extract(epoch from percentile_disc(0.99) within group (order by committed_at - sampled_at))
         from lately"
    ))?;
    ensure!(ticks > 0.0, "no tick was stored in {wall:?}");
    Ok(Measured {
        wall,
        samples,
        ticks,
        missing,
        lag_p50,
        lag_p99,
        server: cpu_after.since(cpu_before),
        // The server is below it, too.
        agents: agents_after.since(agents_before).own,
        wal_bytes: wal_after - wal_before,
        behind,
    })
}

/// How far the host that is compacted least is behind its last tick, in seconds.
fn compaction_behind(psql: &Psql) -> Result<f64> {
    psql.number(
        "select extract(epoch from max(last_tick_at - coalesce(compacted_through, first_at)))
         from ingest_cursor
         left join compaction using (host_id)
         left join lateral (select min(tick_at) as first_at from head where head.host_id = ingest_cursor.host_id)
             as head on true",
    )
}
