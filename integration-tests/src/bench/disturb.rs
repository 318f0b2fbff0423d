//! Scenario `disturb`: what others feel of an agent that walks back to back, by either engine, beside what
//! they feel of one that does nothing.

use std::{
    cell::RefCell,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_proto::v1::WalkEngine;
use nix::unistd::Pid;
use tokio::task::JoinHandle;

use super::{
    Bench, Row,
    client::{CPU, Client},
    interleaved::{Figures, Interleaved},
    probe::{self, Felt, Probe},
    timed,
    trees::Shape,
};
use crate::{
    cgroups::TestTree,
    daemon::{Daemon, Start},
};

/// Of a mkdir beside an unlocked walk to one beside no walk.
const MKDIR_REACH: f64 = 3.0;
/// Of a wake on the CPU of an unlocked walk, in microseconds.
const WAKE_REACH_US: f64 = 1000.0;

const SHAPES: [Shape; 2] = [
    Shape { name: "10000 flat", below_top: 10_000, is_chain: false, rounds: 11 },
    Shape { name: "50000 flat", below_top: 50_000, is_chain: false, rounds: 11 },
];

/// More than one, so that the walker has the next walk to do while an answer is on its way.
const CLIENTS: usize = 2;

/// What the agent does meanwhile, and the walks of it.
const STATES: [(&str, Option<WalkEngine>); 3] =
    [("idle", None), ("unlocked", Some(WalkEngine::Unlocked)), ("locked", Some(WalkEngine::Locked))];

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let preemption = fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    println!("preemption: {}", if preemption.is_empty() { "not told" } else { preemption.trim() });
    let mut rows = Vec::new();
    for shape in &SHAPES {
        let (measured, took) = timed(|| measure(bench, shape));
        rows.extend(rows_of(&measured?)?);
        println!("{}: {} rounds in {took:.1?}, the tree included", shape.name, shape.rounds);
    }
    Ok(rows)
}

fn measure(bench: &Bench, shape: &Shape) -> Result<Figures> {
    let grown = shape.grow()?;
    let beside = TestTree::v2()?;
    let agent = bench.block_on(Start::agent()?.start())?;
    let cpu = pin_walker(&agent)?;
    let probe = RefCell::new(Probe::start(&beside.directory(""), cpu)?);
    let mut interleaved = Interleaved::of(shape.name);
    for (state, engine) in STATES {
        let client = bench.block_on(async { agent.agent() })?;
        let client = |engine| Client::new(client, grown.tree.path(""), shape.cgroups(), engine, &[CPU]);
        let client = engine.map(client);
        let figures =
            [format!("{state}: mkdir p99"), format!("{state}: wake p99"), format!("{state}: walks")];
        let [mkdir, wake, walks] = figures.each_ref().map(String::as_str);
        let probe = &probe;
        interleaved.add_several(&[(mkdir, "us"), (wake, "us"), (walks, "in a run")], move || {
            let walking = client.as_ref().map(|client| Walking::start(bench, client));
            let felt = probe.borrow_mut().feel();
            let walks = walking.map_or(Ok(0), |walking| walking.stop(bench))?;
            let Felt { mkdir_p99_us, wake_p99_us } = felt?;
            Ok(vec![mkdir_p99_us, wake_p99_us, f64::from(walks)])
        });
    }
    interleaved.run(bench, shape.rounds)
}

/// Keeps the agent's walker on one CPU, and gives that.
fn pin_walker(agent: &Daemon) -> Result<usize> {
    let cpu = *probe::cpus()?.last().context("a process has a CPU")?;
    let threads = format!("/proc/{}/task", agent.pid());
    for thread in fs::read_dir(&threads).with_context(|| format!("read {threads}"))? {
        let thread = thread?;
        if fs::read_to_string(thread.path().join("comm"))?.trim() == "walker" {
            let tid = thread.file_name().to_string_lossy().parse()?;
            probe::pin(Pid::from_raw(tid), &[cpu])?;
            return Ok(cpu);
        }
    }
    bail!("the agent has no thread called walker")
}

/// Walks back to back, until they are stopped.
struct Walking {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<u32>>>,
}

impl Walking {
    fn start(bench: &Bench, client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let walk = |_| bench.spawn(walk_until(Arc::clone(&stop), client.clone()));
        let clients = (0..CLIENTS).map(walk).collect();
        Self { stop, clients }
    }

    /// How many walks there were; none is an error.
    fn stop(self, bench: &Bench) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        let mut walks = 0;
        for client in self.clients {
            walks += bench.block_on(client)??;
        }
        ensure!(walks > 0, "no walk ended while others were probed");
        Ok(walks)
    }
}

async fn walk_until(stop: Arc<AtomicBool>, mut client: Client) -> Result<u32> {
    let mut walks = 0;
    while !stop.load(Ordering::Relaxed) {
        client.walk().await?;
        walks += 1;
    }
    Ok(walks)
}

fn rows_of(figures: &Figures) -> Result<Vec<Row>> {
    let get = |name| figures.get(name);
    let idle = get("idle: mkdir p99")?;
    Ok(vec![
        idle.row(),
        get("unlocked: mkdir p99")?.row_against(idle).reach(MKDIR_REACH),
        get("locked: mkdir p99")?.row_against(idle),
        get("idle: wake p99")?.row(),
        get("unlocked: wake p99")?.row().reach(WAKE_REACH_US),
        get("locked: wake p99")?.row(),
        get("unlocked: walks")?.row(),
        get("locked: walks")?.row(),
    ])
}
