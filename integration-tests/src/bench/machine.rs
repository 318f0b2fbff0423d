//! Which machine a figure was measured on, and when: no figure means anything without.

use std::{fmt, fs, thread, time::SystemTime};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub(super) struct Machine {
    kernel: String,
    cpus: usize,
    cpu_model: String,
    date: String,
    /// Before the benchmark began: what else ran.
    load_average_1m: f64,
    profile: &'static str,
}

impl Machine {
    pub(super) fn here() -> Result<Self> {
        let read = |path| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let cpu_info = read("/proc/cpuinfo")?;
        let mut pairs = cpu_info.lines().filter_map(|line| line.split_once(':'));
        let model = pairs.find(|(key, _)| key.trim() == "model name").map(|(_, model)| model.trim());
        let load_average = read("/proc/loadavg")?;
        let load_average_1m = load_average.split(' ').next().context("/proc/loadavg is empty")?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpus: thread::available_parallelism()?.get(),
            cpu_model: model.unwrap_or("unknown").to_owned(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            load_average_1m: load_average_1m.parse().context("parse /proc/loadavg")?,
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "cpus": self.cpus,
            "cpu_model": self.cpu_model,
            "date": self.date,
            "load_average_1m": self.load_average_1m,
            "profile": self.profile,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cpus, cpu_model, date, load_average_1m, profile } = self;
        write!(
            f,
            "kernel {kernel}, {cpus} CPUs ({cpu_model}), {date}, load {load_average_1m}, {profile} profile"
        )
    }
}
