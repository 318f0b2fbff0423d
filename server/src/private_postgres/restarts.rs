//! When a Postgres that ended is started again, and when it is given up. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Starts within [`WITHIN`]; one that ends more often than that is given up.
const STARTS_MAX: usize = 20;
const WITHIN: Duration = Duration::from_mins(1);

/// The pause before the first start; each further one within [`WITHIN`] doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// What to do now that it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    /// Start it after a pause.
    After(Duration),
    /// It was started so often within that time.
    GiveUp { times: usize, within: Duration },
}

/// The last starts.
#[derive(Debug, Default)]
pub(super) struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// It has ended. That its disk is full is a reason to wait, for however long.
    pub(super) fn next(&mut self, now: Instant, is_full: bool) -> Restart {
        if is_full {
            return Restart::After(PAUSE_MAX);
        }
        self.0.retain(|start| now.duration_since(*start) < WITHIN);
        let times = self.0.len();
        if times >= STARTS_MAX {
            return Restart::GiveUp { times, within: WITHIN };
        }
        self.0.push_back(now);
        let doublings = u32::try_from(times).unwrap_or(u32::MAX);
        Restart::After(PAUSE_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_where_it_ends_again_and_again() {
        let (mut restarts, begin) = (Restarts::default(), Instant::now());
        let mut now = begin;
        let mut pauses = Vec::new();
        let given_up = loop {
            match restarts.next(now, false) {
                Restart::After(pause) => pauses.push(pause),
                given_up @ Restart::GiveUp { .. } => break given_up,
            }
            // It ends as soon as it is started.
            now += pauses[pauses.len() - 1];
        };
        assert_eq!(given_up, Restart::GiveUp { times: 20, within: WITHIN });
        assert!(pauses.is_sorted() && pauses[0] == PAUSE_MIN && pauses[19] == PAUSE_MAX, "{pauses:?}");
        assert!((30..60).contains(&now.duration_since(begin).as_secs()), "{pauses:?}");
        assert_eq!(restarts.next(now, true), Restart::After(PAUSE_MAX));
        // One that runs for a while is worth another try.
        assert_eq!(restarts.next(now + WITHIN, false), Restart::After(PAUSE_MIN));
    }
}
