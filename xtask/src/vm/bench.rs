//! A guest for the part of a benchmark that needs cgroup v2 with every controller.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    Programs, directory, ensure_known_architecture,
    initramfs::{self, Job},
    judge,
    kernels::{Kernel, Series},
    qemu::Machine,
    report::{self, Report},
};
use crate::checkout::Checkout;

/// Room for the cgroups of the largest scenario, each with the state of every controller.
const MEMORY_MIB: u32 = 4096;

/// Ends a guest that hangs. A benchmark of some minutes takes ten times as long in software.
const SECONDS_MAX: u32 = 3600;

/// Before each row that the benchmark program prints with --rows-to-stdout.
const ROW: &str = "cgfleet-bench-row: ";

/// What the benchmark program exits with if it measured, but missed a reach.
const REACH_MISSED: u32 = 1;

/// What was measured in a guest.
#[derive(Debug, PartialEq)]
pub(crate) struct GuestPart {
    /// What `uname -r` says there.
    pub(crate) kernel: String,
    /// The rows as the benchmark program gives them.
    pub(crate) rows: Vec<Value>,
    pub(crate) is_reach_missed: bool,
}

/// Runs these programs' benchmark with these arguments in a guest, and prints what it says there.
pub(crate) fn measure(checkout: &Checkout, programs: &Programs, arguments: &[String]) -> Result<GuestPart> {
    ensure_known_architecture()?;
    let directory = directory(checkout);
    let kernel = Kernel::obtain(Series::V6_12, &directory)?;
    let machine = Machine {
        image: &kernel.image,
        directory: directory.join("guests/bench"),
        seconds_max: SECONDS_MAX,
        memory_mib: MEMORY_MIB,
        port: None,
    };
    println!("in a guest with Linux {}, its log in {}", kernel.release, machine.output().display());
    let common = initramfs::common(Job::Bench, programs)?;
    let ended = machine.run(&[&common, &initramfs::own(&kernel, arguments)?])?;
    for line in ended.output.lines().filter(|line| !line.starts_with(ROW) && !report::is_ours(line)) {
        println!("{line}");
    }
    let part = GuestPart::read(&ended.output);
    let (complaint, part) = match part {
        Ok(part) => (None, Some(part)),
        Err(error) => (Some(format!("{error:#}")), None),
    };
    judge(&machine, ended, complaint)?;
    part.context("a guest without a complaint has measured")
}

impl GuestPart {
    fn read(output: &str) -> Result<Self> {
        let report = Report::read(output);
        let rows = output.lines().filter_map(|line| line.strip_prefix(ROW));
        let rows = rows.map(|row| serde_json::from_str(row).with_context(|| format!("the row {row}")));
        let rows: Vec<Value> = rows.collect::<Result<_>>()?;
        // Without a row this code says that nothing was measured.
        let is_success = |code| code == 0 || code == REACH_MISSED && !rows.is_empty();
        if let Some(complaint) = report.complaint_unless(is_success) {
            anyhow::bail!(complaint);
        }
        anyhow::ensure!(!rows.is_empty(), "the benchmark has no rows");
        let is_reach_missed = report.complaint_unless(|code| code == 0).is_some();
        Ok(Self { kernel: report.release, rows, is_reach_missed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_rows_and_reached_its_end() {
        let log = |row: &str, code: u32, end: &str| {
            format!("cgfleet-vm: kernel 6.12.1\nfigure value\n{row}\ncgfleet-vm: end bench {code} 9.0\n{end}")
        };
        let check = |row: &str, code: u32, end: &str, expect: Result<bool, &str>| {
            let log = log(row, code, end).replacen("figure", "cgfleet-vm: begin bench 2.0\nfigure", 1);
            let read = GuestPart::read(&log).map(|part| (part.kernel, part.rows.len(), part.is_reach_missed));
            let expect = expect.map(|missed| ("6.12.1".to_owned(), 1, missed)).map_err(str::to_owned);
            assert_eq!(read.map_err(|error| error.to_string()), expect, "{log}");
        };
        let (row, done) =
            ("cgfleet-bench-row: {\"name\":\"all groups\",\"pass\":null}", "cgfleet-vm: done\n");
        check(row, 0, done, Ok(false));
        check(row, 1, done, Ok(true));
        check(row, 101, done, Err("bench exited with 101"));
        check(row, 0, "", Err("the guest did not reach its end"));
        check("", 1, done, Err("bench exited with 1"));
        check("", 0, done, Err("the benchmark has no rows"));
        check("cgfleet-bench-row: {", 0, done, Err("the row {"));
    }
}
