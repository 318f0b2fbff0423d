//! `cargo xtask fuzz`: what reads stored payloads, in release mode against mutated ones.
//!
//! The targets and what they check are the server's tests of the same name, which `cargo test` runs a little of.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::{
    checkout::Checkout,
    command::{self, cargo},
    install::{Job, install},
    phases::Phases,
};

#[derive(Args)]
pub(crate) struct Fuzz {
    /// What shall read (default: all, one after another).
    target: Option<Target>,
    /// How many payloads each target reads.
    #[arg(long, default_value_t = 10_000_000)]
    executions: u64,
    /// Repeats the run of this seed (default: another each time).
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// Payloads of chunk rows.
    Chunk,
    /// Payloads of head rows.
    Head,
}

impl Target {
    /// The test's path in the server's library.
    fn test(self) -> &'static str {
        match self {
            Self::Chunk => "store::codec::fuzz::chunk",
            Self::Head => "store::codec::fuzz::head",
        }
    }
}

impl Fuzz {
    pub(crate) fn run(&self, checkout: &Checkout) -> Result<()> {
        let mut phases = Phases::start("fuzz");
        phases.run("install", || install(checkout, &[Job::Build]))?;
        let test = || {
            let mut test = cargo();
            test.args(["test", "--release", "--package", "cgfleet-server", "--lib"]);
            test
        };
        phases.run("build", || command::run(test().arg("--no-run")))?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = self.seed.unwrap_or(since_epoch.as_secs());
        let targets = self.target.as_ref().map_or(Target::value_variants(), std::slice::from_ref);
        for target in targets {
            let mut run = test();
            run.env("CGFLEET_FUZZ_EXECUTIONS", self.executions.to_string());
            run.env("CGFLEET_FUZZ_SEED", seed.to_string());
            run.args([target.test(), "--", "--exact", "--nocapture"]);
            phases.run("fuzz", || {
                let said = command::run_capturing(&mut run)?;
                print!("{said}");
                // A name that is no test's any more would be a run of none, which succeeds.
                ensure!(said.contains("test result: ok. 1 passed"), "no test is called {}", target.test());
                Ok(())
            })?;
        }
        Ok(())
    }
}
