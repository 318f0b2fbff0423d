//! What becomes of a request to flush: met by a flush that was performed, a flush of its own, or refused.
//!
//! Owns the rule, and what it remembers for it. Pure: no I/O, and the time is given. Must not know how
//! cgroups are found or flushed.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::budget::Budget;

/// Flushes that are remembered, the last of each cgroup. One that is forgotten costs a flush more.
const FLUSHES_KEPT_MAX: usize = 1024;

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) hierarchy_id: u32,
    /// The cgroup to flush and all above it: whichever is flushed, that cgroup is.
    pub(super) line: &'a [u64],
    pub(super) asked_at: Instant,
    /// How long ago a flush may have ended that will do; zero for one that begins after the request.
    pub(super) max_staleness: Duration,
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<T> {
    /// This flush began after the request had come, so it has all that was counted before that.
    Coalesced(T),
    /// This flush is not too old.
    Skipped(T),
    /// Perform one: it was taken from the budget.
    Perform,
    /// There is no flush left in the budget before so much time has passed.
    RateLimited { retry_after: Duration },
}

/// A flush that was performed.
#[derive(Debug)]
pub(super) struct Performed<T> {
    pub(super) hierarchy_id: u32,
    pub(super) cgroup_id: u64,
    pub(super) began_at: Instant,
    pub(super) ended_at: Instant,
    /// What is told of it.
    pub(super) flush: T,
}

/// The flushes that were performed, and how many more may be.
#[derive(Debug)]
pub(in crate::walker) struct Ledger<T> {
    budget: Budget,
    /// The oldest first: one is performed at a time.
    performed: VecDeque<Performed<T>>,
}

impl<T: Clone> Ledger<T> {
    pub(in crate::walker) fn new(flushes_per_second_max: u32) -> Self {
        Self { budget: Budget::new(flushes_per_second_max), performed: VecDeque::new() }
    }

    pub(super) fn judge(&mut self, asked: &Asked<'_>, now: Instant) -> Verdict<T> {
        let covers = |performed: &&Performed<T>| {
            performed.hierarchy_id == asked.hierarchy_id && asked.line.contains(&performed.cgroup_id)
        };
        // The last that was performed is the freshest that there is.
        if let Some(Performed { began_at, ended_at, flush, .. }) = self.performed.iter().rev().find(covers) {
            if *began_at >= asked.asked_at {
                return Verdict::Coalesced(flush.clone());
            }
            let age = now.saturating_duration_since(*ended_at);
            if !asked.max_staleness.is_zero() && age <= asked.max_staleness {
                return Verdict::Skipped(flush.clone());
            }
        }
        match self.budget.take(now) {
            Ok(()) => Verdict::Perform,
            Err(retry_after) => Verdict::RateLimited { retry_after },
        }
    }

    /// Takes in a flush, the last one.
    pub(super) fn performed(&mut self, performed: Performed<T>) {
        let same = |kept: &Performed<T>| {
            (kept.hierarchy_id, kept.cgroup_id) == (performed.hierarchy_id, performed.cgroup_id)
        };
        self.performed.retain(|kept| !same(kept));
        if self.performed.len() == FLUSHES_KEPT_MAX {
            self.performed.pop_front();
        }
        self.performed.push_back(performed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict::*, *};

    /// The tree of the cases: 1 is the root, 2 and 3 are below it, 20 below 2, 200 below 20.
    const ROOT: &[u64] = &[1];
    const A: &[u64] = &[2, 1];
    const B: &[u64] = &[3, 1];
    const AA: &[u64] = &[20, 2, 1];
    const AAA: &[u64] = &[200, 20, 2, 1];

    const NEVER: u64 = 0;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Flushes of (cgroup, began, ended), then a request for this line that came, and is judged, then.
    fn check(
        performed: &[(u64, u64, u64)],
        (line, asked_ms, judged_ms, staleness_ms): (&[u64], u64, u64, u64),
        expect: &Verdict<u64>,
    ) {
        let (mut ledger, started) = (Ledger::new(1), Instant::now());
        for (cgroup_id, began_ms, ended_ms) in performed.iter().copied() {
            ledger.performed(Performed {
                hierarchy_id: 0,
                cgroup_id,
                began_at: started + ms(began_ms),
                ended_at: started + ms(ended_ms),
                flush: ended_ms,
            });
        }
        let asked = Asked {
            hierarchy_id: 0,
            line,
            asked_at: started + ms(asked_ms),
            max_staleness: ms(staleness_ms),
        };
        let verdict = ledger.judge(&asked, started + ms(judged_ms));
        assert_eq!(&verdict, expect, "{asked:?} after {performed:?}");
        let elsewhere = ledger.judge(&Asked { hierarchy_id: 7, ..asked }, started + ms(judged_ms) * 10);
        assert!(matches!(elsewhere, Perform | RateLimited { .. }), "ids are of one hierarchy: {elsewhere:?}");
    }

    #[test]
    fn a_flush_that_began_after_the_request_came_meets_it() {
        check(&[(2, 10, 12)], (A, 10, 12, NEVER), &Coalesced(12));
        check(&[(2, 10, 12)], (A, 5, 12, NEVER), &Coalesced(12));
        check(&[(2, 10, 12)], (A, 5, 12, 1000), &Coalesced(12));
        check(&[(2, 10, 12), (2, 20, 22)], (A, 15, 22, NEVER), &Coalesced(22));
    }

    #[test]
    fn a_flush_that_was_under_way_when_the_request_came_does_not() {
        check(&[(2, 10, 12)], (A, 11, 12, NEVER), &Perform);
        check(&[(2, 10, 12), (2, 12, 14)], (A, 13, 14, NEVER), &Perform);
    }

    #[test]
    fn a_flush_that_ended_recently_will_do_where_the_request_says_so() {
        check(&[(2, 10, 12)], (A, 20, 21, 9), &Skipped(12));
        check(&[(2, 10, 12)], (A, 20, 22, 9), &Perform);
        check(&[(2, 10, 12)], (A, 20, 21, NEVER), &Perform);
        check(&[(2, 10, 12), (2, 30, 32)], (A, 40, 41, 1000), &Skipped(32));
        check(&[], (A, 20, 21, 1000), &Perform);
    }

    #[test]
    fn a_flush_covers_all_below_and_nothing_else() {
        for line in [A, AA, AAA] {
            check(&[(2, 10, 12)], (line, 20, 21, 1000), &Skipped(12));
            check(&[(2, 10, 12)], (line, 5, 12, NEVER), &Coalesced(12));
        }
        for line in [ROOT, B] {
            check(&[(2, 10, 12)], (line, 20, 21, 1000), &Perform);
            check(&[(2, 10, 12)], (line, 5, 12, NEVER), &Perform);
        }
        check(&[(200, 10, 12)], (AA, 20, 21, 1000), &Perform);
        check(&[(1, 10, 12)], (AAA, 20, 21, 1000), &Skipped(12));
    }

    #[test]
    fn the_freshest_that_covers_the_request_meets_it() {
        check(&[(1, 10, 12), (2, 20, 22), (3, 30, 32)], (AA, 40, 41, 1000), &Skipped(22));
        check(&[(2, 10, 12), (1, 20, 22), (3, 30, 32)], (AA, 40, 41, 1000), &Skipped(22));
        check(&[(2, 10, 12), (1, 20, 22)], (AA, 15, 22, NEVER), &Coalesced(22));
    }

    #[test]
    fn only_flushes_that_are_performed_come_out_of_the_budget() {
        let (mut ledger, started) = (Ledger::new(1), Instant::now());
        let asked = |line, max_staleness| Asked { hierarchy_id: 0, line, asked_at: started, max_staleness };
        let refused = RateLimited { retry_after: ms(1000) };
        assert_eq!(ledger.judge(&asked(A, ms(0)), started), Perform);
        let (began_at, ended_at) = (started, started);
        ledger.performed(Performed { hierarchy_id: 0, cgroup_id: 2, began_at, ended_at, flush: 7 });
        assert_eq!(ledger.judge(&asked(B, ms(0)), started), refused);
        let later = |asked_at| Asked { asked_at: started + ms(asked_at), ..asked(AA, ms(500)) };
        for _ in 0..100 {
            assert_eq!(ledger.judge(&asked(AAA, ms(0)), started), Coalesced(7));
            assert_eq!(ledger.judge(&later(1), started + ms(500)), Skipped(7));
        }
        assert_eq!(ledger.judge(&later(1), started + ms(501)), RateLimited { retry_after: ms(499) });
        assert_eq!(ledger.judge(&asked(B, ms(0)), started + ms(1000)), Perform);
    }

    #[test]
    fn the_oldest_flush_is_forgotten_first() {
        let (mut ledger, now) = (Ledger::new(1), Instant::now());
        let cgroups = 0..=FLUSHES_KEPT_MAX as u64;
        for cgroup_id in cgroups.clone().chain([1]) {
            let (began_at, ended_at) = (now, now);
            ledger.performed(Performed { hierarchy_id: 0, cgroup_id, began_at, ended_at, flush: cgroup_id });
        }
        assert_eq!(ledger.performed.len(), FLUSHES_KEPT_MAX);
        let mut met = |cgroup_id| {
            let line = &[cgroup_id];
            let asked = Asked { hierarchy_id: 0, line, asked_at: now, max_staleness: ms(0) };
            ledger.judge(&asked, now) == Coalesced(cgroup_id)
        };
        assert_eq!(cgroups.filter(|cgroup_id| !met(*cgroup_id)).collect::<Vec<_>>(), [0]);
    }
}
