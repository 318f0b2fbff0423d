//! `cargo xtask bench`: builds the benchmarks, and runs one here and then, if it has a part for one, in a guest.
//!
//! The scenarios, their baselines and their figures belong to integration-tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    checkout::{Checkout, DAEMONS_AND_CLIENT},
    command::{self, cargo},
    install::{Job, install},
    phases::Phases,
    vm::{self, GuestPart, Programs},
};

/// `arguments` are the benchmark program's. With a scenario's name alone, all of it is run.
pub(crate) fn bench(checkout: &Checkout, arguments: &[String]) -> Result<()> {
    let mut phases = Phases::start("bench");
    phases.run("install", || install(checkout, &[Job::Build, Job::Demo, Job::Bench]))?;
    let mut build = cargo();
    build.args(["build", "--release", "--bins", "--package", "integration-tests"]);
    build.args(DAEMONS_AND_CLIENT.iter().flat_map(|package| ["--package", package]));
    let programs = phases.run("build", || Programs::build(&mut build))?;
    let program = checkout.target.join("release/bench");
    let guest_part = match arguments {
        [name] => has_guest_part(&program, name)?.then_some(name),
        _ => None,
    };
    let Some(name) = guest_part else {
        return phases.run("bench", || command::run(Command::new(&program).args(arguments)));
    };
    // What the guest needs, before minutes are spent on measuring.
    phases.run("install for the guest", || install(checkout, &[Job::Vm]))?;
    let results = Results::of(checkout, name);
    let here = phases.run("bench", || command::run(Command::new(&program).arg(name)));
    if here.is_err() && !results.are_new() {
        return here;
    }
    let there = phases.run("bench in a guest", || {
        let arguments = [name, "--guest-part", "--rows-to-stdout"].map(str::to_owned);
        let part = vm::measure(checkout, &programs, &arguments)?;
        let is_reach_missed = part.is_reach_missed;
        results.add(part)?;
        println!("added to {}", results.path.display());
        ensure!(!is_reach_missed, "a reach was missed in the guest");
        Ok(())
    });
    here.and(there)
}

fn has_guest_part(program: &Path, name: &str) -> Result<bool> {
    Ok(command::capture(Command::new(program).arg("--guest-parts"))?.lines().any(|known| known == name))
}

/// The file that the benchmark program writes where it measured, also if it missed a reach.
struct Results {
    path: PathBuf,
    written_before: Option<SystemTime>,
}

impl Results {
    fn of(checkout: &Checkout, name: &str) -> Self {
        let path = checkout.target.join("bench").join(name).with_extension("json");
        Self { written_before: written(&path), path }
    }

    fn are_new(&self) -> bool {
        written(&self.path) != self.written_before
    }

    /// Adds the rows of a guest, each with the kernel on which it was measured.
    fn add(&self, part: GuestPart) -> Result<()> {
        let context = || format!("add the guest's rows to {}", self.path.display());
        let text = fs::read_to_string(&self.path).with_context(context)?;
        let text = with_rows(&text, part).with_context(context)?;
        fs::write(&self.path, text).with_context(context)
    }
}

fn written(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn with_rows(results: &str, part: GuestPart) -> Result<String> {
    let mut results: Value = serde_json::from_str(results)?;
    let rows = results["rows"].as_array_mut().context("no rows")?;
    for mut row in part.rows {
        let fields = row.as_object_mut().context("a row that is no object")?;
        fields.insert("machine".to_owned(), part.kernel.clone().into());
        rows.push(row);
    }
    Ok(format!("{results:#}\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_guests_rows_follow_and_name_their_machine() {
        let part = || GuestPart {
            kernel: "6.12.1".to_owned(),
            rows: vec![json!({"value": 2})],
            is_reach_missed: false,
        };
        let here = json!({"machine": {"kernel": "6.18.0"}, "rows": [{"value": 1}]}).to_string();
        let both: Value = serde_json::from_str(&with_rows(&here, part()).unwrap()).unwrap();
        assert_eq!(both["rows"], json!([{"value": 1}, {"value": 2, "machine": "6.12.1"}]));
        assert_eq!(both["machine"]["kernel"], "6.18.0");
        assert!(with_rows("{}", part()).is_err());
    }
}
