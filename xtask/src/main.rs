//! `cargo xtask`: how things are installed, built, started and checked. The only place that knows.
//!
//! It must depend on no other crate of the workspace, and start from nothing but Rust and apt.

mod bench;
mod checkout;
mod command;
mod demo;
mod fuzz;
mod install;
mod lint;
mod phases;
mod tidy;
mod vm;

use std::{
    env,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::{
    checkout::Checkout,
    command::{CommandFailed, cargo},
    demo::burn,
    fuzz::Fuzz,
    install::{Job, install},
    phases::Phases,
    vm::{Guests, Programs},
};

/// Development tasks of cgfleet; docs/development.md explains them.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing for the given jobs (default: all of them), after saying so.
    Install {
        /// What the machine shall be able to do.
        jobs: Vec<Job>,
    },
    /// Build, start Postgres, server and agent on this host's cgroups, and query them.
    Demo {
        /// End after the queries instead of staying up until Ctrl-C.
        #[arg(long)]
        once: bool,
    },
    /// Build everything and run every test that CI runs.
    Test {
        /// Passed on to `cargo test --workspace`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the tests that are meant for other kernels, in virtual machines.
    Vm(Guests),
    /// Check formatting, clippy, protos and fences.
    Lint,
    /// Check the fences between the crates (also part of lint).
    Tidy,
    /// Make proto/landed.binpb, against which `lint` looks for breaking changes.
    ProtoLanded,
    /// Run one benchmark of integration-tests in release mode.
    Bench {
        /// Passed on to the benchmark program; the first is the scenario's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Let what reads stored payloads read mutated ones, in release mode.
    Fuzz(Fuzz),
    /// Kill servers, Postgres and agents and cut their links, over and over, and compare what is stored with
    /// what was taken: the test `chaos` for longer.
    Soak {
        /// Passed on: --rounds N (30), --agents N (4), --seed N (any).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Use a little CPU until the given parent process is gone.
    #[command(hide = true)]
    Burn { parent: u32 },
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask failed: {error:#}");
            let code = error.downcast_ref::<CommandFailed>().map_or(1, CommandFailed::exit_code);
            ExitCode::from(code)
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let checkout = Checkout::locate()?;
    env::set_current_dir(&checkout.root).with_context(|| format!("enter {}", checkout.root.display()))?;
    match task {
        Task::Install { jobs } if jobs.is_empty() => install(&checkout, &Job::ALL),
        Task::Install { jobs } => install(&checkout, &jobs),
        Task::Demo { once } => demo::demo(&checkout, once),
        Task::Test { args } => test(&checkout, &args),
        Task::Vm(guests) => vm(&checkout, &guests),
        Task::Lint => lint::lint(&checkout),
        Task::Tidy => tidy::tidy(&checkout),
        Task::ProtoLanded => lint::proto_landed(&checkout),
        Task::Bench { args } => bench::bench(&checkout, &args),
        Task::Fuzz(fuzz) => fuzz.run(&checkout),
        Task::Soak { args } => soak(&checkout, &args),
        Task::Burn { parent } => {
            burn::burn(parent);
            Ok(())
        }
    }
}

/// All targets: the tests start the daemons' binaries, which `cargo test` alone does not build, and
/// one build with the tests' features serves the tests of the host and of the guests.
fn build_for_tests() -> Result<Programs> {
    Programs::build(cargo().args(["build", "--workspace", "--lib", "--bins", "--tests"]))
}

fn test(checkout: &Checkout, args: &[String]) -> Result<()> {
    let mut phases = Phases::start("test");
    phases.run("install", || install(checkout, &[Job::Build, Job::Demo, Job::Test, Job::Vm]))?;
    if !rustix::process::geteuid().is_root() {
        println!("not root: the tests that load BPF, make cgroups or network namespaces will fail");
    }
    let programs = phases.run("build", build_for_tests)?;
    phases.run("tests", || command::run(cargo().args(["test", "--workspace"]).args(args)))?;
    if args.is_empty() {
        return phases.run("guests", || Guests::required().run(checkout, &programs));
    }
    println!("arguments choose tests of the host: no guest was booted, `cargo xtask vm` does");
    Ok(())
}

fn soak(checkout: &Checkout, args: &[String]) -> Result<()> {
    let mut phases = Phases::start("soak");
    phases.run("install", || install(checkout, &[Job::Build, Job::Demo, Job::Test]))?;
    phases.run("build", || command::run(cargo().args(["build", "--workspace", "--bins"])))?;
    let program = checkout.target.join("debug/soak");
    phases.run("soak", || command::run(Command::new(program).args(args)))
}

fn vm(checkout: &Checkout, guests: &Guests) -> Result<()> {
    let mut phases = Phases::start("vm");
    phases.run("install", || install(checkout, &[Job::Build, Job::Vm]))?;
    let programs = phases.run("build", build_for_tests)?;
    phases.run("guests", || guests.run(checkout, &programs))
}
