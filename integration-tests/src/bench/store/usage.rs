//! CPU time of a server and its Postgres, as /proc tells it.

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context as _, Result};

/// A process and all below it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pid: u32,
}

/// CPU time since the processes started, of those too that ended and were waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CpuTime {
    /// Of the process itself.
    pub(super) own: Duration,
    /// Of all below it.
    pub(super) below: Duration,
}

impl CpuTime {
    pub(super) fn since(self, before: Self) -> Self {
        Self { own: self.own.saturating_sub(before.own), below: self.below.saturating_sub(before.below) }
    }

    pub(super) fn all(self) -> Duration {
        self.own + self.below
    }
}

/// What /proc/PID/stat has of a process, in clock ticks (fs/proc/array.c, `do_task_stat`).
struct Stat {
    parent: u32,
    /// utime and stime.
    own: u64,
    /// cutime and cstime.
    waited_for: u64,
}

impl Family {
    pub(super) fn of(pid: u32) -> Self {
        Self { pid }
    }

    pub(super) fn cpu_time(self) -> Result<CpuTime> {
        let all = stats()?;
        let root = all.get(&self.pid).with_context(|| format!("no process {}", self.pid))?;
        let (mut below, mut open) = (root.waited_for, vec![self.pid]);
        while let Some(parent) = open.pop() {
            for (pid, stat) in all.iter().filter(|(_, stat)| stat.parent == parent) {
                below += stat.own + stat.waited_for;
                open.push(*pid);
            }
        }
        Ok(CpuTime { own: from_ticks(root.own), below: from_ticks(below) })
    }
}

fn stats() -> Result<HashMap<u32, Stat>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        all.insert(pid, parse(&text).with_context(|| format!("/proc/{pid}/stat says {text}"))?);
    }
    Ok(all)
}

fn parse(text: &str) -> Option<Stat> {
    // The name in parentheses may hold any byte.
    let (_, behind_name) = text.rsplit_once(')')?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let parent = u32::try_from(number(4)?).ok()?;
    Some(Stat { parent, own: number(14)? + number(15)?, waited_for: number(16)? + number(17)? })
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_any_byte() {
        let text = "17 (a) b) c) S 5 17 17 0 -1 4194560 1 2 3 4 100 20 30 4 20 0 1 0 99 0 0";
        let Stat { parent, own, waited_for } = parse(text).unwrap();
        assert_eq!((parent, own, waited_for), (5, 120, 34));
    }

    #[test]
    fn this_process_has_spent_time() {
        let spinning = std::time::Instant::now();
        while spinning.elapsed() < Duration::from_millis(50) {}
        assert!(Family::of(std::process::id()).cpu_time().unwrap().own > Duration::ZERO);
    }
}
