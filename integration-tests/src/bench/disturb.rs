//! Scenario `disturb`: what others feel of an agent that walks back to back, by either engine, or is asked for more
//! flushes than it performs, beside what they feel of one that does nothing.

use std::{
    cell::RefCell,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_proto::v1::{
    CgroupOrder, FlushMode, WalkEngine, WalkSpec, agent_service_client::AgentServiceClient,
};
use cgfleet_rpc::{channel::Channel, wire_error::retry_after_of};
use nix::unistd::Pid;
use prost_types::FieldMask;
use tokio::task::JoinHandle;
use tonic::Status;

use super::{
    Bench, Row,
    client::{CPU, Client},
    dirtier::Dirtier,
    interleaved::{Figures, Interleaved},
    probe::{self, Felt, Probe},
    timed,
    trees::Shape,
};
use crate::{
    cgroups::TestTree,
    daemon::{Daemon, Start},
    walk::{by_path, spec, walk_through},
};

/// Of a mkdir beside an unlocked walk, or flushes, to one beside nothing.
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

/// Those who want a flush each, and get what the agent's budget allows.
const ALWAYS: &str = "50 ask always";
const ALWAYS_CLIENTS: usize = 50;

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
    let agent = bench.block_on(Start::agent()?.flushing_freely().start())?;
    let limited = bench.block_on(Start::agent()?.start())?;
    let cpu = pin_walker(&agent)?;
    pin_walker(&limited)?;
    let mut dirtier = Dirtier::start(&grown)?;
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
            let clients = client.iter().flat_map(|client| [client; CLIENTS]).cloned();
            let walking = client.as_ref().map(|_| Beside::start(bench, clients, walk_until));
            let felt = probe.borrow_mut().feel();
            let walks = walking.map_or(Ok(Vec::new()), |walking| walking.stop(bench))?;
            ensure!(
                engine.is_none() || walks.iter().sum::<u32>() > 0,
                "no walk ended while others were probed"
            );
            let Felt { mkdir_p99_us, wake_p99_us } = felt?;
            Ok(vec![mkdir_p99_us, wake_p99_us, f64::from(walks.iter().sum::<u32>())])
        });
    }
    let figures = ["mkdir p99", "wake p99", "answers", "refused"].map(|figure| format!("{ALWAYS}: {figure}"));
    let units = ["us", "us", "in a run", "in a run"];
    let figures: Vec<_> = figures.iter().map(String::as_str).zip(units).collect();
    let always = WalkSpec {
        flush: FlushMode::Always.into(),
        read_mask: Some(FieldMask { paths: vec![CPU.to_owned()] }),
        ..spec(by_path(grown.tree.path("")), CgroupOrder::SelfOnly)
    };
    let (probe, limited) = (&probe, &limited);
    interleaved.add_several(&figures, move || {
        // Else there would be nothing to flush.
        dirtier.pass_through()?;
        let client = |_| Ok((bench.block_on(async { limited.agent() })?, always.clone()));
        let clients: Vec<_> = (0..ALWAYS_CLIENTS).map(client).collect::<Result<_>>()?;
        let asking = Beside::start(bench, clients, ask_until);
        let felt = probe.borrow_mut().feel();
        let counts = asking.stop(bench)?;
        let Felt { mkdir_p99_us, wake_p99_us } = felt?;
        let answers = counts.iter().map(|asked| asked.answered).sum::<u32>();
        let refused = counts.iter().map(|asked| asked.refused).sum::<u32>();
        Ok(vec![mkdir_p99_us, wake_p99_us, f64::from(answers), f64::from(refused)])
    });
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

/// Clients that ask back to back, until they are stopped.
struct Beside<T> {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<T>>>,
}

impl<T: Send + 'static> Beside<T> {
    fn start<C, F>(
        bench: &Bench,
        clients: impl IntoIterator<Item = C>,
        ask: impl Fn(Arc<AtomicBool>, C) -> F,
    ) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = clients.into_iter().map(|client| bench.spawn(ask(Arc::clone(&stop), client)));
        Self { clients: clients.collect(), stop }
    }

    /// What each of them counted.
    fn stop(self, bench: &Bench) -> Result<Vec<T>> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| bench.block_on(client)?).collect()
    }
}

/// How many walks there were.
async fn walk_until(stop: Arc<AtomicBool>, mut client: Client) -> Result<u32> {
    let mut walks = 0;
    while !stop.load(Ordering::Relaxed) {
        client.walk().await?;
        walks += 1;
    }
    Ok(walks)
}

/// What became of requests.
#[derive(Default)]
struct Asked {
    answered: u32,
    refused: u32,
}

/// Asks for one walk again and again, whether it is refused or not.
async fn ask_until(
    stop: Arc<AtomicBool>,
    (mut client, spec): (AgentServiceClient<Channel>, WalkSpec),
) -> Result<Asked> {
    let mut asked = Asked::default();
    while !stop.load(Ordering::Relaxed) {
        match walk_through(&mut client, spec.clone()).await {
            Ok(_) => asked.answered += 1,
            Err(error) => {
                let limited = error.downcast_ref::<Status>().and_then(retry_after_of);
                limited.with_context(|| format!("not a limit of flushes: {error:#}"))?;
                asked.refused += 1;
            }
        }
    }
    Ok(asked)
}

fn rows_of(figures: &Figures) -> Result<Vec<Row>> {
    let get = |name| figures.get(name);
    let idle = get("idle: mkdir p99")?;
    let always = |name| figures.get(&format!("{ALWAYS}: {name}"));
    Ok(vec![
        idle.row(),
        get("unlocked: mkdir p99")?.row_against(idle).reach(MKDIR_REACH),
        get("locked: mkdir p99")?.row_against(idle),
        get("idle: wake p99")?.row(),
        get("unlocked: wake p99")?.row().reach(WAKE_REACH_US),
        get("locked: wake p99")?.row(),
        get("unlocked: walks")?.row(),
        get("locked: walks")?.row(),
        always("mkdir p99")?.row_against(idle).reach(MKDIR_REACH),
        always("wake p99")?.row(),
        always("answers")?.row(),
        always("refused")?.row(),
    ])
}
