//! The phases of a task, and the seconds that each took.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Prints each phase as it starts, and all their seconds when dropped, so also after a failure.
pub(crate) struct Phases {
    task: &'static str,
    started: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Phases {
    pub(crate) fn start(task: &'static str) -> Self {
        Self { task, started: Instant::now(), done: Vec::new() }
    }

    pub(crate) fn run<T>(&mut self, name: &'static str, phase: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n==> {}: {name}", self.task);
        let started = Instant::now();
        let result = phase();
        self.done.push((name, started.elapsed()));
        result
    }
}

impl Drop for Phases {
    fn drop(&mut self) {
        println!();
        for (name, took) in &self.done {
            println!("{:>9.1} s  {name}", took.as_secs_f64());
        }
        println!("{:>9.1} s  {} in total", self.started.elapsed().as_secs_f64(), self.task);
    }
}
