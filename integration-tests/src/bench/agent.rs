//! Scenario `agent`: what an agent costs that takes a snapshot every second for one subscriber: CPU time,
//! memory, and what the verifier had to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_agent::kernel::loaded_programs;
use cgfleet_proto::v1::{SubscribeRequest, SubscribeResponse, WalkEnd, subscribe_response::Event};
use tonic::Streaming;

use super::{
    Bench, Figure, Row, client,
    process::Process,
    timed,
    trees::{Grown, Shape},
};
use crate::daemon::{Daemon, Start};

const SAMPLE_INTERVAL: &str = "1s";
/// Ticks of one round.
const TICKS: usize = 10;

/// What a tick reads (key `sample_fields`), and how much of one core that may take, in percent. Of all groups, those
/// of controllers come to something only where cgroup v2 has them.
const TICKS_OF: [(&str, &str, f64); 2] = [("cpu", "cpu", 1.0), ("all groups", "", 4.0)];
const MEMORY_REACH_MIB: f64 = 96.0;
/// The verifier gives up at a million (include/linux/bpf.h, BPF_COMPLEXITY_LIMIT_INSNS); kernels differ.
const VERIFIED_INSNS_REACH: f64 = 299_999.0;

const SHAPE: Shape = Shape { name: "10000 flat", below_top: 10_000, is_chain: false, rounds: 6 };
const GUEST_SHAPE: Shape =
    Shape { name: "2000 flat, every controller", below_top: 2_000, is_chain: false, rounds: 2 };

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let grown = SHAPE.grow()?;
    let mut rows = Vec::new();
    for (what, fields, reach) in TICKS_OF {
        let name = format!("{}, {what}", SHAPE.name);
        rows.extend(measure(bench, &name, SHAPE.rounds, &grown, fields, Some(reach))?);
    }
    Ok(rows)
}

/// In a guest a core is not a core: CPU time is shown and not judged.
pub(super) fn run_in_guest(bench: &Bench) -> Result<Vec<Row>> {
    let Shape { name, rounds, .. } = GUEST_SHAPE;
    measure(bench, name, rounds, &GUEST_SHAPE.grow_with_controllers()?, "", None)
}

fn measure(
    bench: &Bench,
    name: &str,
    rounds: usize,
    grown: &Grown,
    fields: &str,
    cpu_reach: Option<f64>,
) -> Result<Vec<Row>> {
    println!(
        "{name}: a tick reads {}",
        if fields.is_empty() { client::groups().join(", ") } else { fields.to_owned() }
    );
    let start = Start::agent()?
        .flag("--sample-interval", SAMPLE_INTERVAL)
        .flag("--sample-fields", fields)
        .flag("--log", "info");
    let agent = bench.block_on(start.start())?;
    let process = Process::new(agent.pid());
    let mut ticks = bench.block_on(Ticks::subscribe(&agent, grown.directories.len()))?;
    let spent = bench.rounds(rounds, || {
        let before = process.cpu_time()?;
        let (taken, wall) = timed(|| bench.block_on(ticks.take(TICKS)));
        taken?;
        Ok((since(&before, &process.cpu_time()?), wall))
    })?;
    let mut rows = cpu_rows(name, &spent, cpu_reach);
    println!("{} ticks, {} missing", TICKS * (rounds + 1), ticks.missing);
    rows.extend(memory_rows(name, grown.directories.len(), process)?);
    rows.extend(verifier_rows(process)?);
    Ok(rows)
}

/// A subscription.
struct Ticks {
    stream: Streaming<SubscribeResponse>,
    cgroups: usize,
    last: Option<u64>,
    /// A tick of the whole host fails where others remove cgroups faster than it goes on.
    missing: u64,
}

impl Ticks {
    async fn subscribe(agent: &Daemon, cgroups: usize) -> Result<Self> {
        let stream = agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner();
        Ok(Self { stream, cgroups, last: None, missing: 0 })
    }

    /// Receives so many ticks, each of which has to be whole.
    async fn take(&mut self, count: usize) -> Result<()> {
        let (mut taken, mut rows_with_cpu) = (0, 0);
        while taken < count {
            match self.stream.message().await?.and_then(|part| part.event).context("the ticks ended")? {
                Event::Header(header) => {
                    let expected = self.last.map_or(header.sequence, |last| last + 1);
                    self.missing += header.sequence.saturating_sub(expected);
                    self.last = Some(header.sequence);
                    rows_with_cpu = 0;
                }
                Event::Batch(batch) => {
                    rows_with_cpu += batch.samples.iter().filter(|sample| sample.cpu.is_some()).count();
                }
                Event::Summary(summary) if summary.end() == WalkEnd::Complete => {
                    ensure!(rows_with_cpu > self.cgroups, "a tick has {rows_with_cpu} rows with cpu");
                    taken += 1;
                }
                Event::Summary(summary) => bail!("a tick is not complete: {summary:?}"),
                Event::Change(change) => bail!("a change in a stream of whole ticks: {change:?}"),
            }
        }
        Ok(())
    }
}

type CpuTime = BTreeMap<String, Duration>;

/// What was added to each thread's time.
fn since(before: &CpuTime, after: &CpuTime) -> CpuTime {
    let added = |(name, time): (&String, &Duration)| {
        let earlier = before.get(name).copied().unwrap_or_default();
        (name.clone(), time.saturating_sub(earlier))
    };
    after.iter().map(added).collect()
}

/// All rounds together: seconds on a CPU by seconds.
fn cpu_rows(subject: &str, spent: &[(CpuTime, Duration)], reach: Option<f64>) -> Vec<Row> {
    let wall: Duration = spent.iter().map(|(_, wall)| *wall).sum();
    let percent = |on_cpu: Duration| 100.0 * on_cpu.as_secs_f64() / wall.as_secs_f64();
    let row = |name: String, on_cpu| one(subject, &name, "% of a core", percent(on_cpu));
    let all = spent.iter().flat_map(|(cpu_time, _)| cpu_time.values()).sum();
    let total = row("CPU".to_owned(), all);
    let mut rows = vec![reach.map_or(total.clone(), |reach| total.reach(reach))];
    let names: Vec<&String> = spent.iter().flat_map(|(cpu_time, _)| cpu_time.keys()).collect();
    let names: BTreeSet<&String> = names.into_iter().collect();
    for name in names {
        let of_thread = spent.iter().filter_map(|(cpu_time, _)| cpu_time.get(name)).sum();
        rows.push(row(format!("CPU of {name}"), of_thread));
    }
    rows
}

fn memory_rows(subject: &str, cgroups: usize, process: Process) -> Result<Vec<Row>> {
    let (rss, maps) = (process.rss_peak_bytes()?, process.bpf_map_bytes()?);
    // Whole KiB, of which even a TiB has no more than fit.
    let kib = |bytes: u64| anyhow::Ok(f64::from(u32::try_from(bytes / 1024)?));
    let (rss, maps) = (kib(rss)?, kib(maps)?);
    let per_cgroup = (rss + maps) * 1024.0 / f64::from(u32::try_from(cgroups)?);
    Ok(vec![
        one(subject, "RSS, peak, and BPF maps", "MiB", (rss + maps) / 1024.0).reach(MEMORY_REACH_MIB),
        one(subject, "RSS, peak", "MiB", rss / 1024.0),
        one(subject, "BPF maps", "MiB", maps / 1024.0),
        one(subject, "RSS, peak, and BPF maps, per cgroup", "bytes", per_cgroup),
    ])
}

fn verifier_rows(process: Process) -> Result<Vec<Row>> {
    let names = loaded_programs();
    let row = |(id, insns): (u32, u32)| {
        let name = names.get(&id).with_context(|| format!("the kernel knows no program {id}"))?;
        let row = one("verifier", name, "insns", f64::from(insns));
        Ok(row.reach(VERIFIED_INSNS_REACH))
    };
    let rows: Vec<Row> = process.verified_insns()?.into_iter().map(row).collect::<Result<_>>()?;
    ensure!(!rows.is_empty(), "the agent has no BPF program");
    Ok(rows)
}

fn one(subject: &str, name: &str, unit: &'static str, value: f64) -> Row {
    Figure::new(format!("{subject}: {name}"), unit, vec![value]).row()
}
