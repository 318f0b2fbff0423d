//! Ticks: one full snapshot of cgroup v2 every interval, shared by all subscriptions.
//!
//! Nothing is walked while nobody subscribes; the sequence counts on nevertheless, so that a
//! subscriber sees what it missed.

use std::{sync::Arc, time::Duration, time::SystemTime};

use cgfleet_model::MetricSet;
use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::broadcast,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use crate::walker::{Naming, Order, Target, WalkSpec, Walked, Walker};

/// Ticks that a subscriber may be behind before it misses whole ones.
const TICKS_BEHIND_MAX: usize = 2;

/// One snapshot.
#[derive(Debug)]
pub(crate) struct Tick {
    /// Intervals since the agent started.
    pub sequence: u64,
    /// CLOCK_BOOTTIME at the start of the walk.
    pub boottime: Duration,
    /// The wall clock at the same moment.
    pub sampled_at: SystemTime,
    /// What was read.
    pub walked: Walked,
}

/// A handle to the running sampler.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    ticks: broadcast::Sender<Arc<Tick>>,
    interval: Duration,
}

impl Sampler {
    /// Starts sampling, until `shutdown`.
    pub(crate) fn start(
        walker: Walker,
        metrics: MetricSet,
        interval: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        let (ticks, _) = broadcast::channel(TICKS_BEHIND_MAX);
        let sampler = Self { ticks, interval };
        tokio::spawn(sample(walker, metrics, sampler.clone(), shutdown));
        sampler
    }

    /// Time between ticks.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// The ticks from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Tick>> {
        self.ticks.subscribe()
    }
}

async fn sample(walker: Walker, metrics: MetricSet, sampler: Sampler, shutdown: CancellationToken) {
    let started = Instant::now();
    let mut due = interval_at(started, sampler.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let due_at = tokio::select! {
            due_at = due.tick() => due_at,
            () = shutdown.cancelled() => return,
        };
        if sampler.ticks.receiver_count() == 0 {
            continue;
        }
        let sequence = sequence_of(due_at.duration_since(started), sampler.interval);
        match take(&walker, metrics, sequence).await {
            // Fails when the last subscriber has just gone.
            Ok(tick) => drop(sampler.ticks.send(Arc::new(tick))),
            Err(error) => tracing::warn!(sequence, error, "this tick is missing"),
        }
    }
}

/// The number of the tick that is due `elapsed` after the start.
fn sequence_of(elapsed: Duration, interval: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u64::MAX)
}

async fn take(walker: &Walker, metrics: MetricSet, sequence: u64) -> Result<Tick, String> {
    let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| error.to_string())?;
    let sampled_at = SystemTime::now();
    let spec = WalkSpec {
        target: Target::v2_root(),
        order: Order::DescendantsPre,
        metrics,
        limit: 0,
        stop_at: None,
        max_depth: None,
        stop_when: None,
        engine: None,
        joins_hierarchies: false,
        naming: Naming::Unnamed,
    };
    let walked = walker.walk(spec).await.map_err(|error| error.to_string())?;
    Ok(Tick { sequence, boottime: boottime.into(), sampled_at, walked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_that_was_skipped_keeps_its_number() {
        let interval = Duration::from_millis(100);
        let check =
            |elapsed_ms, expect| assert_eq!(sequence_of(Duration::from_millis(elapsed_ms), interval), expect);
        check(0, 0);
        check(100, 1);
        check(350, 3);
    }
}
