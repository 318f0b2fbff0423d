//! The rate of a counter between two readings, and where a rate has to start anew.

use std::time::SystemTime;

/// A counter's value at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterReading {
    /// When it was read. Both readings of a rate are of one clock.
    pub at: SystemTime,
    /// What it showed, in the counter's unit.
    pub value: u64,
}

/// How fast a counter grew between two readings, in its unit per second.
///
/// `None` if it shows less than before: it was reset in between (reboot, or the cgroup was made
/// anew), nobody knows after how much, and the next rate starts at `later`. `None` too if no time
/// passed.
pub fn rate_per_second(earlier: CounterReading, later: CounterReading) -> Option<f64> {
    let grown = later.value.checked_sub(earlier.value)?;
    let elapsed = later.at.duration_since(earlier.at).ok().filter(|elapsed| !elapsed.is_zero())?;
    #[allow(clippy::cast_precision_loss, reason = "exact below 2^53; no counter grows by more between ticks")]
    let grown = grown as f64;
    Some(grown / elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The rates between neighbours of (milliseconds, value).
    fn check(readings: &[(u64, u64)], expect: &[Option<f64>]) {
        let readings: Vec<CounterReading> = readings
            .iter()
            .map(|&(at_ms, value)| CounterReading {
                at: SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms),
                value,
            })
            .collect();
        let rates: Vec<_> = readings.windows(2).map(|pair| rate_per_second(pair[0], pair[1])).collect();
        assert_eq!(rates, expect, "{readings:?}");
    }

    #[test]
    fn a_rate_is_growth_over_elapsed_time() {
        check(&[(0, 0), (1_000, 500)], &[Some(500.0)]);
        check(&[(0, 100), (500, 350), (2_500, 350)], &[Some(500.0), Some(0.0)]);
        check(&[(0, u64::MAX - 8), (4_000, u64::MAX)], &[Some(2.0)]);
    }

    #[test]
    fn counter_reset_restarts_the_rate() {
        check(&[(0, 900), (1_000, 1_000), (2_000, 10), (3_000, 60)], &[Some(100.0), None, Some(50.0)]);
        check(&[(0, 1), (1_000, 0), (2_000, 0)], &[None, Some(0.0)]);
    }

    #[test]
    fn without_elapsed_time_there_is_no_rate() {
        check(&[(1_000, 5), (1_000, 9)], &[None]);
        check(&[(1_000, 5), (0, 9)], &[None]);
    }
}
