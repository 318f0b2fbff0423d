//! What befalls the walks of a simulated host, switched while it runs.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// Shared between a host and whoever makes it suffer.
#[derive(Debug, Default)]
pub struct Faults {
    walk_delay_ns: AtomicU64,
    walks_to_fail: AtomicU32,
}

impl Faults {
    /// Has each walk take so long from now on.
    pub fn delay_walks(&self, delay: Duration) {
        self.walk_delay_ns.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Has so many walks fail, beginning with the next.
    pub fn fail_walks(&self, count: u32) {
        self.walks_to_fail.store(count, Ordering::Relaxed);
    }

    pub(super) fn walk_delay(&self) -> Duration {
        Duration::from_nanos(self.walk_delay_ns.load(Ordering::Relaxed))
    }

    /// Whether the walk that asks is to fail.
    pub(super) fn takes_walk(&self) -> bool {
        let one_less = |count: u32| count.checked_sub(1);
        self.walks_to_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}
