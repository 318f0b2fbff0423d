//! The oracle: every metric of every row beside its cgroup file, while the kernel is kept busy.
//!
//! Its executable is the load, too: it starts itself for that. Hence no harness of libtest's.

mod compare;
mod forest;
mod pass;
mod plan;
mod shown;
mod table;
mod under_load;
mod without_syslog;

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use forest::Forest;
use integration_tests::load;
use libtest_mimic::{Arguments, ColorSetting, Failed, Trial};

/// The loads are made once, by the first test that wants them.
type SharedForest = Arc<Mutex<Option<Forest>>>;

fn trial(name: &str, forest: &SharedForest, test: fn(&Forest) -> Result<()>) -> Trial {
    let forest = Arc::clone(forest);
    Trial::test(name, move || {
        let run = || {
            let mut forest = forest.lock().unwrap_or_else(PoisonError::into_inner);
            if forest.is_none() {
                *forest = Some(Forest::grow()?);
            }
            test(forest.as_ref().context("a forest was made")?)
        };
        run().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    load::as_load(&arguments)?;
    let mut arguments = Arguments::from_args();
    // Loads die with the thread that started them, and both tests look at the same ones.
    arguments.test_threads = Some(1);
    // The guests' reports are read from a terminal.
    arguments.color.get_or_insert(ColorSetting::Never);
    let forest = SharedForest::default();
    let trials = vec![
        trial("every_metric_agrees_with_its_file_under_load", &forest, under_load::test),
        trial("memory_stat_agrees_without_kallsyms", &forest, without_syslog::test),
    ];
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}
