//! Benchmarks: scenarios by name, their rows printed, written to `target/bench/NAME.json` and judged.
//!
//! Owns what is the same for all of them, and must not know what any one measures. A claim is a ratio
//! of medians of the same run, whose rounds measure figure and baseline by turns: what disturbs the
//! machine disturbs both.

mod cpu_stat;
mod figure;
mod machine;
mod walk;

use std::{
    fs, io,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use tokio::runtime::Runtime;

pub use figure::{Figure, Row};
use machine::Machine;

const REACH_MISSED: u8 = 1;
const USAGE: u8 = 2;

struct Scenario {
    name: &'static str,
    about: &'static str,
    run: fn(&Bench) -> Result<Vec<Row>>,
}

const SCENARIOS: &[Scenario] = &[Scenario {
    name: "walk",
    about: "an agent's walk of many cgroups, against readers of their cpu.stat files",
    run: walk::run,
}];

/// What a scenario measures with.
#[derive(Debug)]
pub struct Bench {
    /// Drives clients. Rounds themselves run outside of it: readers of files block.
    runtime: Runtime,
    stopped: Arc<AtomicBool>,
}

impl Bench {
    fn new() -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&stopped))?;
        }
        Ok(Self { runtime: Runtime::new()?, stopped })
    }

    /// Waits for an answer.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
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

/// Runs the scenario that the arguments name. Exits with 0 if every reach was met, 1 if one was missed
/// or nothing could be measured, 2 if the arguments are not one scenario's name.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let named = |scenario: &&Scenario| arguments.as_slice() == [scenario.name];
    let Some(scenario) = SCENARIOS.iter().find(named) else {
        let given = if arguments.is_empty() { "no scenario".to_owned() } else { arguments.join(" ") };
        eprintln!("bench: {given}: give the name of one scenario:");
        for scenario in SCENARIOS {
            eprintln!("  {:10} {}", scenario.name, scenario.about);
        }
        return ExitCode::from(USAGE);
    };
    match perform(scenario) {
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

fn perform(scenario: &Scenario) -> Result<Vec<Row>> {
    let machine = Machine::here()?;
    println!("{machine}\n");
    let rows = (scenario.run)(&Bench::new()?)?;
    println!("\n{}", figure::table(&rows));
    let path = write(scenario.name, &machine, &rows)?;
    println!("\nwritten to {}", path.display());
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
