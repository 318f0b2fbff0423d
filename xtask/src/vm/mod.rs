//! Other kernels: guests in QEMU that run the agent and the integration tests as the host built them.
//!
//! It must not know what the tests test; integration-tests does.

mod apt;
mod cpio;
mod initramfs;
mod kernels;
mod programs;
mod qemu;
mod report;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum as _};

pub(crate) use self::kernels::Series;
use self::{
    kernels::Kernel,
    programs::Programs,
    qemu::{AGENT_PORT, Machine, OUTER_HOST},
    report::Report,
};
use crate::{
    checkout::Checkout,
    command::{self, CommandFailed},
};

/// As many guests run at a time: each has two CPUs and keeps one busy.
const GUESTS_AT_A_TIME: usize = 2;

/// Ends a guest that hangs. The tests take a tenth of it.
const TESTS_SECONDS_MAX: u32 = 600;

/// Ends a guest that somebody left in a fleet.
const FLEET_SECONDS_MAX: u32 = 24 * 60 * 60;

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
    /// Passed on to the test executables, such as a part of a test's name.
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Guests {
    /// The guests that CI requires.
    pub(crate) fn required() -> Self {
        Self { kernels: Vec::new(), all: false, join: None, arguments: Vec::new() }
    }

    /// Boots them. `build` is the command that has built the programs.
    pub(crate) fn run(&self, checkout: &Checkout, build: &mut Command) -> Result<()> {
        ensure!(
            cfg!(target_arch = "x86_64"),
            "guests have this machine's architecture, and only x86_64 is known"
        );
        let directory = checkout.target.join("vm");
        let kernels = self.series().into_iter().map(|series| Kernel::obtain(series, &directory));
        let kernels = kernels.collect::<Result<Vec<_>>>()?;
        let common = initramfs::common(&Programs::of(build)?)?;
        match &self.join {
            Some(server) => join(&kernels, &directory, &common, server),
            None => test(&kernels, &directory, &common, &self.arguments),
        }
    }

    fn series(&self) -> Vec<Series> {
        if self.all {
            Series::value_variants().to_vec()
        } else if self.kernels.is_empty() {
            Series::REQUIRED.to_vec()
        } else {
            self.kernels.clone()
        }
    }
}

fn machine<'a>(kernel: &'a Kernel, directory: &Path, seconds_max: u32, port: Option<u16>) -> Machine<'a> {
    let directory = directory.join("guests").join(kernel.series.name());
    Machine { image: &kernel.image, directory, seconds_max, port }
}

/// Runs the tests in every kernel, also after one that failed, and names those that did.
fn test(kernels: &[Kernel], directory: &Path, common: &[u8], arguments: &[String]) -> Result<()> {
    let waiting = Mutex::new(kernels.iter());
    let failed = Mutex::new(Vec::new());
    let next = || waiting.lock().ok().and_then(|mut kernels| kernels.next());
    thread::scope(|scope| {
        for _ in 0..GUESTS_AT_A_TIME {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let machine = machine(kernel, directory, TESTS_SECONDS_MAX, None);
                    let own = initramfs::for_tests(kernel, arguments);
                    if let Err(error) = test_in(&machine, kernel, &[common, &own]) {
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

fn test_in(machine: &Machine, kernel: &Kernel, filesystem: &[&[u8]]) -> Result<()> {
    let mut qemu = machine.command(filesystem)?;
    let status = qemu.status().with_context(|| command::cannot_start(&qemu))?;
    let (console, output) = (read_log(&machine.console())?, read_log(&machine.output())?);
    let report = Report::read(&output);
    for test in &report.tests {
        println!("{:<32} {test}", kernel.release);
    }
    let other_kernel = (report.is_complete && report.release != kernel.release)
        .then(|| format!("another kernel answered: {}", report.release));
    let complaint = report.complaint().or(other_kernel).or_else(|| kernel_complaint(&console));
    if let Some(complaint) = complaint {
        let (output, console) = (tail(&output), tail(&console));
        let logs = machine.directory.display();
        bail!("{complaint}\n{output}\nthe kernel's last messages:\n{console}\nwhole logs: {logs}");
    }
    ensure!(status.success(), CommandFailed::new(&qemu, status));
    Ok(())
}

/// A splat of the kernel's fails a guest whose tests all passed.
fn kernel_complaint(console: &str) -> Option<String> {
    let splats = ["WARNING: ", "BUG: ", "Oops", "Kernel panic"];
    let line = console.lines().find(|line| splats.iter().any(|splat| line.contains(splat)))?;
    Some(format!("the kernel complained: {line}"))
}

fn read_log(log: &PathBuf) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Runs an agent in every kernel until Ctrl-C, which reaches the guests too.
fn join(kernels: &[Kernel], directory: &Path, common: &[u8], server: &str) -> Result<()> {
    let server_port = loopback_port(server).context("--join takes http://127.0.0.1:PORT")?;
    let mut guests = Vec::new();
    for kernel in kernels {
        let port = qemu::free_port()?;
        let machine = machine(kernel, directory, FLEET_SECONDS_MAX, Some(port));
        let flags = [
            format!("--listen-address=0.0.0.0:{AGENT_PORT}"),
            "--insecure=true".to_owned(),
            "--state-dir=/run/cgfleet-agent".to_owned(),
            format!("--server-url=http://{OUTER_HOST}:{server_port}"),
            format!("--advertise-address=127.0.0.1:{port}"),
        ];
        let mut qemu = machine.command(&[common, &initramfs::for_agent(kernel, &flags)?])?;
        let child = qemu.spawn().with_context(|| command::cannot_start(&qemu))?;
        println!(
            "{}: {} joins {server}, its agent at 127.0.0.1:{port}, its log in {}",
            kernel.release,
            initramfs::hostname(kernel),
            machine.output().display()
        );
        guests.push((kernel, machine, child));
    }
    for (kernel, machine, child) in &mut guests {
        child.wait().with_context(|| format!("wait for {}", kernel.release))?;
        println!("{} ended:\n{}", kernel.release, tail(&read_log(&machine.output())?));
    }
    Ok(())
}

fn loopback_port(url: &str) -> Option<u16> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let (host, port) = address.split_once(':')?;
    if ["127.0.0.1", "localhost"].contains(&host) { port.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_joins_a_fleet_of_this_machine_only() {
        let check = |url: &str, expect: Option<u16>| assert_eq!(loopback_port(url), expect, "{url}");
        check("http://127.0.0.1:7400", Some(7400));
        check("localhost:7400/", Some(7400));
        check("http://10.0.0.1:7400", None);
        check("http://127.0.0.1", None);
    }

    #[test]
    fn a_splat_fails_a_guest() {
        let check =
            |console: &str, fails: bool| assert_eq!(kernel_complaint(console).is_some(), fails, "{console}");
        check("[    1.0] WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:1 x+0x1/0x2", true);
        check("[    1.0] BUG: kernel NULL pointer dereference, address: 0", true);
        check("[    1.0] clocksource: timekeeping watchdog on CPU0: Marking clocksource unstable", false);
    }
}
