//! An agent's boot-time clock mapped to the server's time. Pure: every time is given.

use std::time::{Duration, SystemTime};

use crate::store::truncate_to_usec;

/// How far ahead of its own arrival a tick may be mapped. Nothing arrives before it is taken, so
/// beyond this one of the clocks was stepped. Arriving late is ordinary: ticks wait in buffers.
const AHEAD_OF_ARRIVAL_MAX: Duration = Duration::from_mins(1);

/// The least distance between two ticks of a host: what Postgres can tell apart.
const TICK_DISTANCE_MIN: Duration = Duration::from_micros(1);

/// The clock of one host's stream.
#[derive(Debug, Clone, Copy)]
pub struct TickClock {
    anchored_at: SystemTime,
    /// CLOCK_BOOTTIME of the agent at `anchored_at`.
    boottime: Duration,
}

impl TickClock {
    /// Anchors the mapping at a tick that was taken at `boottime` and arrived at `received_at`.
    pub fn anchor(boottime: Duration, received_at: SystemTime) -> Self {
        Self { anchored_at: received_at, boottime }
    }

    /// The server's time of a tick, in whole microseconds and later than `last_tick_at`. Anchors anew
    /// if that would be far ahead of the tick's arrival. A server clock that is stepped forward is not
    /// noticed: a tick that lags looks like one that waited.
    pub fn tick_at(
        &mut self,
        boottime: Duration,
        received_at: SystemTime,
        last_tick_at: Option<SystemTime>,
    ) -> SystemTime {
        let mapped = match self.map(boottime) {
            Some(mapped) if !is_ahead(mapped, received_at) => mapped,
            _ => {
                *self = Self::anchor(boottime, received_at);
                received_at
            }
        };
        let mapped = truncate_to_usec(mapped);
        match last_tick_at.and_then(|last| last.checked_add(TICK_DISTANCE_MIN)) {
            Some(earliest) => mapped.max(earliest),
            None => mapped,
        }
    }

    fn map(&self, boottime: Duration) -> Option<SystemTime> {
        match boottime.checked_sub(self.boottime) {
            Some(since) => self.anchored_at.checked_add(since),
            None => self.anchored_at.checked_sub(self.boottime.saturating_sub(boottime)),
        }
    }
}

fn is_ahead(mapped: SystemTime, received_at: SystemTime) -> bool {
    mapped.duration_since(received_at).is_ok_and(|ahead| ahead > AHEAD_OF_ARRIVAL_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    /// A clock anchored at server time 1,000 s, boot time 50 s.
    fn check(boottime: f64, received: f64, last: Option<f64>, expect: f64) {
        let mut clock = TickClock::anchor(Duration::from_secs_f64(50.0), at(1_000.0));
        let tick_at = clock.tick_at(Duration::from_secs_f64(boottime), at(received), last.map(at));
        assert_eq!(tick_at, at(expect), "boottime {boottime}, received {received}, last {last:?}");
    }

    #[test]
    fn a_tick_keeps_its_distance_however_late_it_arrives() {
        check(50.0, 1_000.0, None, 1_000.0);
        check(60.0, 1_010.2, Some(1_000.0), 1_010.0);
        check(60.0, 1_900.0, Some(1_000.0), 1_010.0);
        check(40.0, 1_000.0, None, 990.0);
    }

    #[test]
    fn ticks_of_a_host_ascend() {
        check(50.0, 1_000.0, Some(1_000.0), 1_000.000_001);
        check(60.0, 1_010.0, Some(5_000.0), 5_000.000_001);
    }

    #[test]
    fn a_stepped_clock_is_anchored_anew() {
        check(110.0, 1_000.0, None, 1_060.0);
        check(111.0, 1_000.0, None, 1_000.0);
        check(1e12, 1_010.0, Some(1_000.0), 1_010.0);
        let mut clock = TickClock::anchor(Duration::ZERO, at(1_000.0));
        assert_eq!(clock.tick_at(Duration::MAX, at(1_010.0), None), at(1_010.0));
        assert_eq!(clock.tick_at(Duration::MAX, at(1_020.0), None), at(1_010.0));
    }

    proptest! {
        #[test]
        fn any_clocks_give_ascending_times_that_are_never_far_ahead(
            ticks in proptest::collection::vec((any::<u64>(), 1_000_000_u32..2_000_000), 1..30),
        ) {
            let mut clock = TickClock::anchor(Duration::ZERO, at(1_000_000.0));
            let (mut last, mut latest_arrival) = (None, at(0.0));
            for (boottime_ns, received) in ticks {
                let received_at = at(f64::from(received));
                latest_arrival = latest_arrival.max(received_at);
                let tick_at = clock.tick_at(Duration::from_nanos(boottime_ns), received_at, last);
                prop_assert!(last.is_none_or(|last| last < tick_at));
                prop_assert!(tick_at < latest_arrival + AHEAD_OF_ARRIVAL_MAX + Duration::from_millis(1));
                prop_assert_eq!(truncate_to_usec(tick_at), tick_at);
                last = Some(tick_at);
            }
        }
    }
}
