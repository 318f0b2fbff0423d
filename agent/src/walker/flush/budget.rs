//! How many flushes a second may be performed. Pure: the time is given.

use std::time::{Duration, Instant};

/// A token bucket that holds the flushes of one second. It is kept as the time at which it is full again
/// (the generic cell rate algorithm, ITU-T I.371), so that nothing has to fill it.
#[derive(Debug)]
pub(super) struct Budget {
    per_flush: Duration,
    /// Time to fill the empty bucket.
    whole: Duration,
    full_at: Option<Instant>,
}

impl Budget {
    /// A full bucket of this many flushes, one at least.
    pub(super) fn new(flushes_per_second_max: u32) -> Self {
        let flushes = flushes_per_second_max.max(1);
        let per_flush = Duration::from_secs(1) / flushes;
        Self { per_flush, whole: per_flush * flushes, full_at: None }
    }

    /// Takes one flush out, or says after what time there is one again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.unwrap_or(now).max(now) + self.per_flush;
        let missing = full_at.duration_since(now).saturating_sub(self.whole);
        if !missing.is_zero() {
            return Err(missing);
        }
        self.full_at = Some(full_at);
        Ok(())
    }

    /// Whether there is none left.
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        let full_at = self.full_at.unwrap_or(now).max(now) + self.per_flush;
        full_at.duration_since(now) > self.whole
    }

    /// Puts back what was taken, and not needed.
    pub(super) fn give_back(&mut self) {
        self.full_at = self.full_at.and_then(|full_at| full_at.checked_sub(self.per_flush));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at these times, in ms; in what time there is one again, in ms, if there is none.
    fn check(flushes_per_second_max: u32, expect: &[(u64, Option<u64>)]) {
        let (mut budget, started) = (Budget::new(flushes_per_second_max), Instant::now());
        let takes = expect.iter().map(|(at_ms, _)| {
            let taken = budget.take(started + Duration::from_millis(*at_ms));
            (
                *at_ms,
                taken.err().map(|retry_after| u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX)),
            )
        });
        assert_eq!(takes.collect::<Vec<_>>(), expect, "{flushes_per_second_max} a second");
    }

    #[test]
    fn a_seconds_flushes_may_come_at_once_and_then_one_by_one() {
        check(1, &[(0, None), (0, Some(1000)), (400, Some(600)), (1000, None), (1000, Some(1000))]);
        check(2, &[(0, None), (0, None), (0, Some(500)), (500, None), (500, Some(500)), (1000, None)]);
        check(4, &[(0, None), (250, None), (250, None), (250, None), (250, None), (250, Some(250))]);
    }

    #[test]
    fn a_refusal_takes_nothing() {
        check(1, &[(0, None), (900, Some(100)), (950, Some(50)), (999, Some(1)), (1000, None)]);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (mut budget, now) = (Budget::new(1), Instant::now());
        assert!(!budget.is_empty(now));
        budget.take(now).unwrap();
        assert!(budget.is_empty(now) && budget.is_empty(now + Duration::from_millis(999)));
        assert!(!budget.is_empty(now + Duration::from_secs(1)));
        budget.give_back();
        assert!(!budget.is_empty(now));
        budget.take(now).unwrap();
        assert!(budget.is_empty(now));
    }

    #[test]
    fn a_pause_fills_it_and_no_more() {
        check(2, &[(0, None), (0, None), (60_000, None), (60_000, None), (60_000, Some(500))]);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_is_kept_all_the_same() {
        let (mut budget, now) = (Budget::new(3), Instant::now());
        let taken = (0..4).map(|_| budget.take(now).is_ok()).collect::<Vec<_>>();
        assert_eq!(taken, [true, true, true, false]);
        let performed =
            (0..10_000).filter(|ms| budget.take(now + Duration::from_millis(*ms)).is_ok()).count();
        assert!((28..=30).contains(&performed), "{performed} in 10 s");
    }
}
