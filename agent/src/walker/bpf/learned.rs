//! The places of memory.stat's keys, looked for at the start and, while some are not found, again: an idle
//! host has nothing to compare.

use std::time::{Duration, Instant};

use super::{BpfEngine, memory_stat::MemoryStatIndex, observe::observe, online_cpus};

/// A look reads memory.stat of up to 64 cgroups, so the next one waits, longer each time.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN_MAX: Duration = Duration::from_mins(10);

/// When to look again.
#[derive(Debug)]
pub(super) struct Looks {
    next_at: Instant,
    wait: Duration,
}

impl Looks {
    pub(super) fn begun(now: Instant) -> Self {
        Self { next_at: now + LOOK_AGAIN_MIN, wait: LOOK_AGAIN_MIN }
    }

    /// Whether it is time for one, which then counts as done.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next_at;
        if is_due {
            self.wait = (self.wait * 2).min(LOOK_AGAIN_MAX);
            self.next_at = now + self.wait;
        }
        is_due
    }
}

impl BpfEngine {
    /// Looks for places, and takes those that are found if they are more than before.
    pub(super) fn learn_memory_stat(&mut self) {
        let observations = observe(&mut self.recorder.kernel, &self.hierarchies);
        let index = MemoryStatIndex::find(self.recorder.kernel.facts(), &observations, online_cpus());
        let (states, events) = index.methods();
        let (places, before) = (index.metrics().len(), self.memory_stat().metrics().len());
        if places > before || before == 0 {
            tracing::info!(%states, %events, places, cgroups = observations.len(), "memory.stat's places");
            self.recorder.memory_stat = index;
        }
    }

    /// Looks again if that is due.
    pub(super) fn learn_memory_stat_when_due(&mut self) {
        if self.looks.is_due(Instant::now()) {
            self.learn_memory_stat();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_ever_more_rarely() {
        let start = Instant::now();
        let mut looks = Looks::begun(start);
        let due: Vec<u64> =
            (0..4000).filter(|second| looks.is_due(start + Duration::from_secs(*second))).collect();
        assert_eq!(due, [10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030, 3630]);
    }
}
