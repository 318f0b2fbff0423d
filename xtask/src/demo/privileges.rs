//! What the demo needs from the kernel, asked before anything is started.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::tree;
use crate::command::{cargo, command_line};

/// Capabilities by their number in capabilities(7), of which loading BPF programs needs all, or CAP_SYS_ADMIN alone.
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;
const CAP_SYS_ADMIN: u32 = 21;

/// Fails with what is missing and how to get it.
pub(super) fn check() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("read our capabilities")?;
    let effective = effective_capabilities(&status).context("no CapEff in /proc/self/status")?;
    let mount = tree::cgroup2_mount()?;
    let may_create = rustix::fs::access(&mount, rustix::fs::Access::WRITE_OK).is_ok();
    if may_load_bpf(effective) && may_create {
        return Ok(());
    }
    bail!(
        "the agent needs CAP_BPF and CAP_PERFMON to read cgroups, and the demo's own cgroups need {} to be \
         writable; everything is built, so run it as root: sudo -E {} xtask demo",
        mount.display(),
        command_line(&cargo())
    )
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn may_load_bpf(effective: u64) -> bool {
    let has = |capability: u32| effective >> capability & 1 == 1;
    has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_and_perfmon_or_sys_admin_suffice() {
        let check = |line: &str, expect: bool| {
            let effective = effective_capabilities(&format!("Name:\tx\n{line}\nSeccomp:\t0\n"));
            assert_eq!(may_load_bpf(effective.unwrap()), expect, "{line}");
        };
        check("CapEff:\t0000000000000000", false);
        check("CapEff:\t000001ffffffffff", true);
        check("CapEff:\t0000000000200000", true);
        check("CapEff:\t000000c000000000", true);
        check("CapEff:\t0000008000000000", false);
    }
}
