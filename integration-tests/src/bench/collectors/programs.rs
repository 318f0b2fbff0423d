//! How long an agent's BPF programs run, as the kernel measures it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use cgfleet_agent::kernel::{loaded_programs, measure_runs};

use crate::{
    bench::process::{Process, Runs},
    daemon::Daemon,
};

/// The programs of one agent.
pub(super) struct Programs {
    process: Process,
    names: BTreeMap<u32, String>,
}

impl Programs {
    pub(super) fn of(agent: &Daemon) -> Self {
        Self { process: Process::new(agent.pid()), names: loaded_programs() }
    }

    /// Their runs while something is done, by name.
    pub(super) fn during(&self, act: impl FnOnce() -> Result<()>) -> Result<BTreeMap<String, Runs>> {
        let _measured = measure_runs().context("have the kernel measure programs")?;
        let before = self.process.program_runs()?;
        act()?;
        let after = self.process.program_runs()?;
        let mut runs = BTreeMap::<String, Runs>::new();
        for (id, after) in after {
            let before = before.get(&id).copied().unwrap_or_default();
            let name = self.names.get(&id).with_context(|| format!("the kernel knows no program {id}"))?;
            let sum = runs.entry(name.clone()).or_default();
            sum.ns += after.ns - before.ns;
            sum.count += after.count - before.count;
        }
        Ok(runs)
    }
}
