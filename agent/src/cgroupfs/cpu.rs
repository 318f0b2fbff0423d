//! CPU time from files, where rstat does not keep it: the v2 root, and cgroup v1.

use std::{fs, path::Path};

use super::Hierarchy;

/// CPU time as a file tells it, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuUsage {
    /// All CPU time.
    pub usage_usec: Option<u64>,
    /// In user mode.
    pub user_usec: Option<u64>,
    /// In kernel mode.
    pub system_usec: Option<u64>,
}

/// Reads the CPU time of the cgroup with this path; `None` if its hierarchy does not account for it,
/// or the cgroup is gone or above what is mounted.
pub fn read_cpu(hierarchy: &Hierarchy, path: &[u8]) -> Option<CpuUsage> {
    let directory = hierarchy.directory(path)?;
    if hierarchy.is_v2() {
        let text = fs::read_to_string(directory.join("cpu.stat")).ok()?;
        return Some(parse_cpu_stat(&text));
    }
    hierarchy.has_controller("cpuacct").then(|| read_cpuacct(&directory))?
}

fn parse_cpu_stat(text: &str) -> CpuUsage {
    let value = |key: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok())
    };
    CpuUsage {
        usage_usec: value("usage_usec"),
        user_usec: value("user_usec"),
        system_usec: value("system_usec"),
    }
}

/// cpuacct's files are in nanoseconds (kernel/sched/cpuacct.c).
fn read_cpuacct(directory: &Path) -> Option<CpuUsage> {
    let usec = |file: &str| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        text.trim().parse::<u64>().ok().map(|ns| ns / 1000)
    };
    let usage_usec = usec("cpuacct.usage")?;
    Some(CpuUsage {
        usage_usec: Some(usage_usec),
        user_usec: usec("cpuacct.usage_user"),
        system_usec: usec("cpuacct.usage_sys"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_key_is_absent_and_not_zero() {
        let text = "usage_usec 30\nuser_usec 10\nnr_periods 0\n";
        let expect = CpuUsage { usage_usec: Some(30), user_usec: Some(10), system_usec: None };
        assert_eq!(parse_cpu_stat(text), expect);
    }
}
