//! Shows 2: how much disk the same ticks take as head, as chunks, and in VictoriaMetrics.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use cgfleet_proto::v1::CgroupSample;

use super::{
    fill::{Filler, HostTicks, Others},
    live,
    psql::Psql,
    victoria::Victoria,
    wide::WideCopy,
};
use crate::{
    bench::{Bench, Figure, Row},
    daemon::Daemon,
    sim::{Tree, TreeSpec},
};

pub(super) const INTERVAL: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_hours(1);
/// Ticks end so long ago that all that is to be compacted will be: a host is silent then.
const SILENT: Duration = Duration::from_hours(2);
/// Until compaction is done.
const PATIENCE: Duration = Duration::from_mins(15);

const HEAD_REACH: f64 = 6.0;
const CHUNK_REACH: f64 = 8.0;
const ROLLUP_REACH: f64 = 0.25;
const VICTORIA_REACH: f64 = 1.5;

/// So many hours that end at a full hour in the past.
pub(super) fn hours_ago(hours: u32) -> Result<SystemTime> {
    let silent = SystemTime::now() - SILENT;
    let past_hour = silent.duration_since(SystemTime::UNIX_EPOCH)?.as_secs() % HOUR.as_secs();
    Ok(silent - Duration::from_secs(past_hour) - HOUR * hours - Duration::from_nanos(nanos(silent)?))
}

fn nanos(at: SystemTime) -> Result<u64> {
    Ok(u64::from(at.duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos()))
}

/// The ticks of a simulated host, for ever.
pub(super) fn synthetic(seed: u64, cgroups: usize) -> impl Iterator<Item = Vec<CgroupSample>> {
    let mut tree = Tree::new(TreeSpec { seed, cgroups, activity: live::activity(0.1) });
    std::iter::repeat_with(move || {
        let samples = tree.samples().cloned().collect();
        tree.step(INTERVAL);
        samples
    })
}

/// A host's ticks, one after the other.
pub(super) type Ticks = Box<dyn Iterator<Item = Vec<CgroupSample>>>;

/// Ticks to be stored, and what they are called.
pub(super) struct Data<'a> {
    pub(super) name: &'a str,
    pub(super) hosts: Vec<(String, Ticks)>,
    pub(super) first_at: SystemTime,
}

/// Stores everything three times, and compares what that takes.
pub(super) fn measure(
    bench: &Bench,
    server: &Daemon,
    data: Data<'_>,
    mut wide: Option<&mut WideCopy<'_>>,
) -> Result<Vec<Row>> {
    let psql = Psql::of(server);
    let victoria = Victoria::start(bench)?;
    let filler = Filler::new(bench, &psql)?;
    let mut samples = 0;
    let hosts = data.hosts.len();
    for (number, (hostname, ticks)) in (0_i32..).zip(data.hosts) {
        let host = HostTicks { hostname: &hostname, number, first_at: data.first_at, interval: INTERVAL };
        let others = Others { victoria: Some(&victoria), wide: wide.as_deref_mut() };
        samples += filler.host(&host, ticks, others)?;
        println!("{}: {samples} samples stored", data.name);
    }
    drop(filler);
    let head = psql.table_bytes("head")?;
    compacted(bench, &psql, hosts)?;
    let chunks = psql.table_bytes("chunk")?;
    let rollups = psql.table_bytes("rollup_minute")? + psql.table_bytes("rollup_hour")?;
    let cgroups = psql.number("select pg_total_relation_size('cgroup')")?;
    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53")]
    let (samples, merged) = (samples as f64, victoria.merged_bytes(bench)? as f64);
    let figure = |what: &str, bytes: f64| {
        Figure::new(format!("{}: {what}", data.name), "bytes a sample", vec![bytes / samples])
    };
    let (head, chunks) = (figure("head, with indexes", head), figure("chunks, with indexes", chunks));
    let merged = figure("VictoriaMetrics, merged by force", merged);
    Ok(vec![
        head.row().reach(HEAD_REACH),
        chunks.row().reach(CHUNK_REACH),
        merged.row(),
        Figure::new(format!("{}: chunks", data.name), "bytes a sample", chunks.values())
            .row_against(&merged)
            .reach(VICTORIA_REACH),
        figure("rollups, with indexes", rollups).row_against(&head).reach(ROLLUP_REACH),
        figure("the dimension of cgroups", cgroups).row(),
    ])
}

/// Waits until nothing is left of these hosts' ticks that is not in chunks.
fn compacted(bench: &Bench, psql: &Psql, hosts: usize) -> Result<()> {
    let began = std::time::Instant::now();
    let done = "select count(*) from ingest_cursor join compaction using (host_id)
                where compacted_through >= last_tick_at";
    let mut count = 0.0;
    while began.elapsed() < PATIENCE {
        count = psql.number(done)?;
        #[allow(clippy::cast_precision_loss, reason = "a few hosts")]
        if count >= hosts as f64 {
            println!("compacted within {:.1?}", began.elapsed());
            return Ok(());
        }
        bench.pause(Duration::from_secs(1))?;
    }
    bail!("{count} of {hosts} hosts are compacted within {PATIENCE:?}")
}
