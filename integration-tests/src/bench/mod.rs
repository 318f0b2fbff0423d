//! Benchmarks: scenarios by name, their rows printed, written to `target/bench/NAME.json` and judged.
//!
//! Owns what is the same for all of them, and must not know what any one measures. A claim is a ratio
//! of medians of the same run, whose rounds measure figure and baseline by turns: what disturbs the
//! machine disturbs both.

mod agent;
mod churn;
mod client;
mod collectors;
mod dirtier;
mod disturb;
mod figure;
mod files;
mod interleaved;
mod machine;
mod noop;
mod probe;
mod process;
mod store;
mod stream;
mod trees;
mod walk;
mod worker;

use std::{
    fs, io,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use tokio::{runtime::Runtime, task::JoinHandle};

pub use figure::{Figure, Row};
use machine::Machine;

const REACH_MISSED: u8 = 1;
const USAGE: u8 = 2;

/// Before each row with --rows-to-stdout: how a program tells them from what else a guest says.
const ROW_PREFIX: &str = "cgfleet-bench-row: ";

type Run = fn(&Bench) -> Result<Vec<Row>>;

struct Scenario {
    name: &'static str,
    about: &'static str,
    run: Run,
    /// What only a guest can show, for there cgroup v2 has every controller.
    guest_part: Option<Run>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "walk",
        about: "an agent's walk of many cgroups, against the kernel's iterator and readers of files",
        run: walk::run,
        guest_part: Some(walk::run_in_guest),
    },
    Scenario {
        name: "disturb",
        about: "what a mkdir and a real-time thread feel of an agent that walks back to back",
        run: disturb::run,
        guest_part: None,
    },
    Scenario {
        name: "agent",
        about: "CPU time, memory and verifier instructions of an agent that takes a tick every second",
        run: agent::run,
        guest_part: Some(agent::run_in_guest),
    },
    Scenario {
        name: "collectors",
        about: "what an event costs that a collector counts, and what it costs to read its sums",
        run: collectors::run,
        guest_part: Some(collectors::run_in_guest),
    },
    Scenario {
        name: "stream",
        about: "how long a change takes to a subscriber, against a bare tonic stream of the same bytes",
        run: stream::run,
        guest_part: None,
    },
    Scenario {
        name: "churn",
        about: "what a subscriber is told of cgroups that live for a moment, and what that costs the agent",
        run: churn::run,
        guest_part: None,
    },
    Scenario {
        name: "store",
        about: "what a server stores of a hundred simulated hosts, how fast, how small and how soon it is read",
        run: store::run,
        guest_part: None,
    },
];

/// What a scenario measures with.
#[derive(Debug)]
pub struct Bench {
    /// Drives clients. Rounds themselves run outside of it: readers of files block.
    runtime: Runtime,
    stopped: Arc<AtomicBool>,
    /// Whether to be done soon, to see whether it works: the figures are then worth little.
    quick: bool,
}

impl Bench {
    fn new(quick: bool) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&stopped))?;
        }
        Ok(Self { runtime: Runtime::new()?, stopped, quick })
    }

    /// Waits for an answer.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Lets this go on beside what is measured.
    fn spawn<F: Future<Output: Send> + Send + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.runtime.spawn(future)
    }

    /// Lets so much time pass. An error on SIGINT and SIGTERM, as in rounds.
    fn pause(&self, length: Duration) -> Result<()> {
        let until = Instant::now() + length;
        loop {
            ensure!(!self.stopped.load(Ordering::Relaxed), "stopped by a signal");
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(200)));
        }
    }

    /// Measures so many times, after one round that warms up and is forgotten. Ends early, with an
    /// error, on SIGINT and SIGTERM: then what the scenario made is removed as it returns.
    pub fn rounds<T>(&self, count: usize, mut round: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
        let mut measured = Vec::with_capacity(count);
        for number in 0..=count {
            ensure!(!self.stopped.load(Ordering::Relaxed), "stopped by a signal");
            let figures = round()?;
            if number > 0 {
                measured.push(figures);
            }
        }
        Ok(measured)
    }
}

/// Does it, and says how long that took.
fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = act();
    (result, started.elapsed())
}

/// What the arguments ask for.
enum Job {
    Run { scenario: &'static Scenario, run: Run, rows_to_stdout: bool, quick: bool },
    NameGuestParts,
    Work { arguments: Vec<String> },
}

/// Runs the scenario that the arguments name. Exits with 0 if every reach was met, 1 if one was missed
/// or nothing could be measured, 2 if the arguments are not one scenario's name and flags for it.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    match parse(&arguments) {
        Some(Job::Run { scenario, run, rows_to_stdout, quick }) => {
            judge(scenario, run, rows_to_stdout, quick)
        }
        Some(Job::NameGuestParts) => {
            let named = SCENARIOS.iter().filter(|scenario| scenario.guest_part.is_some());
            for scenario in named {
                println!("{}", scenario.name);
            }
            ExitCode::SUCCESS
        }
        Some(Job::Work { arguments }) => match worker::become_one(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench {}: {error:#}", arguments.join(" "));
                ExitCode::FAILURE
            }
        },
        None => {
            let given = if arguments.is_empty() { "no scenario".to_owned() } else { arguments.join(" ") };
            eprintln!("bench: {given}: give the name of one scenario:");
            for scenario in SCENARIOS {
                eprintln!("  {:10} {}", scenario.name, scenario.about);
            }
            eprintln!("and, if wanted:");
            eprintln!("  --guest-part      the part of it for a guest whose cgroup v2 has every controller");
            eprintln!("  --rows-to-stdout  print each row as a line of JSON, and write no file");
            eprintln!(
                "  --quick           where a scenario measures for minutes: be done soon, to see whether it works"
            );
            eprintln!("or --guest-parts alone, for the names of the scenarios that have such a part");
            ExitCode::from(USAGE)
        }
    }
}

fn parse(arguments: &[String]) -> Option<Job> {
    let (first, others) = arguments.split_first()?;
    match (first.as_str(), others) {
        ("--guest-parts", []) => return Some(Job::NameGuestParts),
        (worker::FLAG, others) => return Some(Job::Work { arguments: others.to_vec() }),
        _ => {}
    }
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == first)?;
    let (mut run, mut rows_to_stdout, mut quick) = (scenario.run, false, false);
    for flag in others {
        match flag.as_str() {
            "--guest-part" => run = scenario.guest_part?,
            "--rows-to-stdout" => rows_to_stdout = true,
            "--quick" => quick = true,
            _ => return None,
        }
    }
    Some(Job::Run { scenario, run, rows_to_stdout, quick })
}

fn judge(scenario: &Scenario, run: Run, rows_to_stdout: bool, quick: bool) -> ExitCode {
    match perform(scenario.name, run, rows_to_stdout, quick) {
        Ok(rows) if rows.iter().any(Row::is_missed) => {
            eprintln!("bench {}: a reach was missed", scenario.name);
            ExitCode::from(REACH_MISSED)
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench {}: {error:#}", scenario.name);
            ExitCode::FAILURE
        }
    }
}

fn perform(name: &str, run: Run, rows_to_stdout: bool, quick: bool) -> Result<Vec<Row>> {
    let machine = Machine::here()?;
    println!("{machine}\n");
    let rows = run(&Bench::new(quick)?)?;
    println!("\n{}", figure::table(&rows));
    if rows_to_stdout {
        for row in &rows {
            println!("{ROW_PREFIX}{}", row.to_json());
        }
    } else {
        println!("\nwritten to {}", write(name, &machine, &rows)?.display());
    }
    Ok(rows)
}

fn write(name: &str, machine: &Machine, rows: &[Row]) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("the program does not run from target/<profile>/")?;
    let path = target.join("bench").join(name).with_extension("json");
    let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
    let text = format!("{:#}\n", json!({ "machine": machine.to_json(), "rows": rows }));
    let written = || -> io::Result<()> {
        fs::create_dir_all(target.join("bench"))?;
        fs::write(&path, text)
    };
    written().with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
