//! Other kernels: guests in QEMU that run the agent and the integration tests as the host built them.
//!
//! It must not know what the tests test; integration-tests does.

mod apt;
mod bench;
mod cpio;
mod disks;
mod fleet;
mod initramfs;
mod kernels;
mod programs;
mod qemu;
mod report;
mod sources;

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum as _};

pub(crate) use self::{
    bench::{GuestPart, measure},
    programs::Programs,
};
use self::{
    initramfs::Job,
    kernels::{Kernel, Series},
    qemu::{Ended, Machine},
    report::Report,
};
use crate::checkout::Checkout;

/// As many guests run at a time: each has two CPUs and keeps one busy.
const GUESTS_AT_A_TIME: usize = 2;

/// More than the tests need, and little enough that reclaim is soon had.
const MEMORY_MIB: u32 = 1024;

/// Ends a guest that hangs. The tests take six minutes, and several times that on a busy machine.
const TESTS_SECONDS_MAX: u32 = 2400;

/// How much of a failed guest's logs is shown.
const TAIL_LINES: usize = 60;

/// Which kernels, and what for.
#[derive(Args)]
pub(crate) struct Guests {
    /// The kernels [default: 6.1 and 6.12].
    kernels: Vec<Series>,
    /// All kernels.
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// Instead of tests run the agents, members of the fleet of this server on our loopback
    /// (http://127.0.0.1:PORT), until Ctrl-C.
    #[arg(long, value_name = "URL", conflicts_with = "arguments")]
    join: Option<String>,
    /// Run this test executable of integration-tests alone; may be given several times.
    #[arg(long, value_name = "NAME", conflicts_with = "join")]
    only: Vec<String>,
    /// Passed on to the test executables, such as a part of a test's name.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Guests {
    /// The guests that CI requires.
    pub(crate) fn required() -> Self {
        Self { kernels: Vec::new(), all: false, join: None, only: Vec::new(), arguments: Vec::new() }
    }

    /// Boots them with these programs inside.
    pub(crate) fn run(&self, checkout: &Checkout, programs: &Programs) -> Result<()> {
        ensure_known_architecture()?;
        let directory = directory(checkout);
        let kernels = self.series().into_iter().map(|series| Kernel::obtain(series, &directory));
        let kernels = kernels.collect::<Result<Vec<_>>>()?;
        match &self.join {
            Some(server) => fleet::join(&kernels, &directory, programs, server),
            None => self.test(&kernels, &directory, programs),
        }
    }

    fn series(&self) -> Vec<Series> {
        let named = if self.kernels.is_empty() { &Series::REQUIRED[..] } else { &self.kernels };
        let all = Series::value_variants().iter().copied();
        all.filter(|series| self.all || named.contains(series)).collect()
    }

    /// Runs the tests in every kernel, also after one that failed, and names those that did.
    fn test(&self, kernels: &[Kernel], directory: &Path, programs: &Programs) -> Result<()> {
        let common = initramfs::common(Job::Tests(&self.only), programs)?;
        let waiting = Mutex::new(kernels.iter());
        let failed = Mutex::new(Vec::new());
        let next = || waiting.lock().ok().and_then(|mut kernels| kernels.next());
        thread::scope(|scope| {
            for _ in 0..GUESTS_AT_A_TIME {
                scope.spawn(|| {
                    while let Some(kernel) = next() {
                        let machine = machine(kernel, directory, TESTS_SECONDS_MAX, None);
                        let own = initramfs::own(kernel, &self.arguments);
                        if let Err(error) = own
                            .and_then(|own| test_in(&machine, &[&common, &own], !self.arguments.is_empty()))
                        {
                            eprintln!("{}: {error:#}", kernel.release);
                            if let Ok(mut failed) = failed.lock() {
                                failed.push(kernel.series.name());
                            }
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap_or_default();
        ensure!(failed.is_empty(), "guests failed: {}", failed.join(", "));
        Ok(())
    }
}

/// Where kernels and guests are kept.
fn directory(checkout: &Checkout) -> PathBuf {
    checkout.target.join("vm")
}

fn ensure_known_architecture() -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "guests have this machine's architecture, and only x86_64 is known"
    );
    Ok(())
}

/// The machine of a guest that is one of several, a kernel each.
fn machine<'a>(kernel: &'a Kernel, directory: &Path, seconds_max: u32, port: Option<u16>) -> Machine<'a> {
    let directory = directory.join("guests").join(kernel.series.name());
    Machine { image: &kernel.image, directory, seconds_max, memory_mib: MEMORY_MIB, port }
}

fn test_in(machine: &Machine, filesystem: &[&[u8]], are_chosen: bool) -> Result<()> {
    let ended = machine.run(filesystem)?;
    let report = Report::read(&ended.output);
    for test in &report.tests {
        println!("{:<32} {test}", report.release);
    }
    judge(machine, ended, report.complaint(are_chosen))
}

/// Fails a guest of which there is this complaint, whose kernel complained or whose qemu failed.
fn judge(machine: &Machine, ended: Ended, complaint: Option<String>) -> Result<()> {
    if let Some(complaint) = complaint.or_else(|| kernel_complaint(&ended.console)) {
        let (output, console) = (tail(&ended.output), tail(&ended.console));
        let logs = machine.directory.display();
        bail!("{complaint}\n{output}\nthe kernel's last messages:\n{console}\nwhole logs: {logs}");
    }
    ended.failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// A splat of the kernel's fails a guest whose programs all succeeded.
fn kernel_complaint(console: &str) -> Option<String> {
    let splats = ["WARNING: ", "BUG: ", "Oops", "Kernel panic"];
    let line = console.lines().find(|line| splats.iter().any(|splat| line.contains(splat)))?;
    Some(format!("the kernel complained: {line}"))
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_splat_fails_a_guest() {
        let check =
            |console: &str, fails: bool| assert_eq!(kernel_complaint(console).is_some(), fails, "{console}");
        check("[    1.0] WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:1 x+0x1/0x2", true);
        check("[    1.0] BUG: kernel NULL pointer dereference, address: 0", true);
        check("[    1.0] clocksource: timekeeping watchdog on CPU0: Marking clocksource unstable", false);
    }
}
