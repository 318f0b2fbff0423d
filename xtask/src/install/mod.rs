//! Installs what a job needs and the machine lacks, after saying what and for what.
//!
//! What is needed is data (needs.rs); this file knows only how each kind of package is installed.

mod apt;
mod needs;

use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{checkout::Checkout, command};
use needs::{NEEDS, Need, Packages};

/// What a machine can be prepared for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// Compile the workspace.
    Build,
    /// Run the daemons.
    Demo,
    /// Run the tests.
    Test,
    /// Run the lints.
    Lint,
    /// Boot other kernels.
    Vm,
    /// Run the benchmarks that compare with others' programs.
    Bench,
}

impl Job {
    pub(crate) const ALL: [Self; 6] =
        [Self::Build, Self::Demo, Self::Test, Self::Lint, Self::Vm, Self::Bench];
}

/// Makes the machine fit for `jobs`. Quick and silent when nothing is missing.
pub(crate) fn install(checkout: &Checkout, jobs: &[Job]) -> Result<()> {
    let missing = missing(checkout, jobs);
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    for need in &missing {
        println!("missing: {} ({})", need.what, need.why);
    }
    let apt = missing.iter().filter_map(|need| match need.packages {
        Packages::Apt(alternatives) => Some(alternatives),
        _ => None,
    });
    if let Err(error) = apt::install(&apt.collect::<Vec<_>>()) {
        if missing.iter().any(|need| need.stops_everything()) {
            return Err(error);
        }
        // The tests or lints that need it will fail, each by itself; the others can run.
        println!("going on without: {error:#}");
        return Ok(());
    }
    for need in &missing {
        match need.packages {
            Packages::Apt(_) => {}
            Packages::Rustup(components) => {
                command::run(Command::new("rustup").args(["component", "add"]).args(components))?;
            }
            Packages::Pip(packages) => install_pip(checkout, packages)?,
            Packages::Npm(packages) => {
                let prefix = checkout.target.join("buf");
                let npm = &mut Command::new("npm");
                npm.args(["install", "--no-fund", "--no-audit", "--loglevel=error", "--prefix"]);
                command::run(npm.arg(prefix).args(packages))?;
            }
        }
    }
    let still: Vec<_> = self::missing(checkout, jobs).iter().map(|need| need.what).collect();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join("; "));
    }
    Ok(())
}

fn missing(checkout: &Checkout, jobs: &[Job]) -> Vec<&'static Need> {
    let wanted = NEEDS.iter().filter(|need| need.jobs.iter().any(|job| jobs.contains(job)));
    wanted.filter(|need| !(need.present)(checkout)).collect()
}

fn install_pip(checkout: &Checkout, packages: &[&str]) -> Result<()> {
    let python = checkout.venv_program("python");
    if !command::succeeds(Command::new(&python).args(["-m", "pip", "--version"])) {
        let venv = checkout.target.join("venv");
        command::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv))?;
    }
    command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))
}
