//! How fresh an answer has to be, and whether one is. Pure: the times are given.

use std::time::{Duration, Instant};

use super::flush::FlushDemand;

/// Whether a walk that is asked for flushes rstat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlushMode {
    /// Never.
    Never,
    /// Unless a flush that was performed is fresh enough.
    IfStale,
    /// By a flush that begins after the request has come.
    Always,
}

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// How long before the request it may have been read; zero for afterwards.
    pub max_staleness: Duration,
    /// How it is flushed.
    pub flush: FlushMode,
}

/// What a request asks of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) asked_at: Instant,
    pub(super) freshness: Freshness,
}

/// How fresh what was read is by its flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfFlush {
    /// As fresh as it can be.
    NotNeeded,
    /// As fresh as others have left it.
    NotWanted,
    /// As fresh as a flush from then to then.
    Flushed { began_at: Instant, ended_at: Instant },
}

/// When an answer was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// When that began, or before.
    pub(super) began_at: Instant,
    pub(super) flush: OfFlush,
}

impl Demand {
    /// What it asks of a flush.
    pub(super) fn of_flush(&self) -> FlushDemand {
        let Self { asked_at, freshness: Freshness { max_staleness, flush } } = *self;
        let is_always = flush == FlushMode::Always;
        FlushDemand { asked_at, max_staleness: if is_always { Duration::ZERO } else { max_staleness } }
    }

    /// Whether this is what it asks for. An answer is as old as it was when the request came.
    pub(super) fn is_met_by(&self, read: &Read) -> bool {
        let age = self.asked_at.saturating_duration_since(read.began_at);
        let is_flushed = match (self.freshness.flush, read.flush) {
            (_, OfFlush::NotNeeded) | (FlushMode::Never, _) => true,
            (FlushMode::IfStale | FlushMode::Always, OfFlush::NotWanted) => false,
            (FlushMode::IfStale | FlushMode::Always, OfFlush::Flushed { began_at, ended_at }) => {
                self.of_flush().met_by((began_at, ended_at), self.asked_at).is_some()
            }
        };
        age <= self.freshness.max_staleness && is_flushed
    }

    /// The later, the fresher an answer it asks for.
    pub(super) fn oldest_from(&self) -> Option<Instant> {
        self.asked_at.checked_sub(self.freshness.max_staleness)
    }
}

#[cfg(test)]
mod tests {
    use super::{FlushMode::*, *};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Of a request that came at 100 ms: how old an answer may be, in ms, and how it is flushed. Then when an
    /// answer was read, and its flush from when to when.
    fn check(
        (stale_ms, flush): (u64, FlushMode),
        (read_ms, flushed_ms): (u64, Option<(u64, u64)>),
        expect: bool,
    ) {
        let started = Instant::now();
        let freshness = Freshness { max_staleness: ms(stale_ms), flush };
        let demand = Demand { asked_at: started + ms(100), freshness };
        let at = |at| started + ms(at);
        let flush = flushed_ms.map_or(OfFlush::NotNeeded, |(began, ended)| OfFlush::Flushed {
            began_at: at(began),
            ended_at: at(ended),
        });
        let read = Read { began_at: at(read_ms), flush };
        assert_eq!(demand.is_met_by(&read), expect, "{freshness:?} by {read_ms} {flushed_ms:?}");
    }

    #[test]
    fn a_walk_that_began_after_the_request_came_meets_it() {
        for flush in [Never, IfStale, Always] {
            for stale_ms in [0, 50] {
                check((stale_ms, flush), (100, None), true);
                check((stale_ms, flush), (101, Some((100, 101))), true);
            }
            check((0, flush), (99, None), false);
        }
    }

    #[test]
    fn a_walk_that_began_before_does_where_it_may_be_so_old() {
        for flush in [Never, IfStale, Always] {
            check((20, flush), (80, None), true);
            check((20, flush), (79, None), false);
        }
        check((20, IfStale), (82, Some((78, 80))), true);
        check((20, IfStale), (82, Some((78, 79))), false);
        check((20, IfStale), (79, Some((78, 79))), false);
        check((20, Always), (82, Some((81, 82))), false);
    }

    #[test]
    fn a_flush_counts_by_itself() {
        check((0, IfStale), (100, Some((98, 99))), false);
        check((0, IfStale), (101, Some((99, 101))), false);
        check((1, IfStale), (101, Some((98, 99))), true);
        check((1, Always), (101, Some((98, 99))), false);
        check((0, Always), (101, Some((100, 101))), true);
        check((0, Never), (100, Some((1, 2))), true);
    }

    #[test]
    fn what_nobody_flushed_is_for_those_who_want_no_flush() {
        let started = Instant::now();
        let read = Read { began_at: started, flush: OfFlush::NotWanted };
        let met = |flush| {
            let freshness = Freshness { max_staleness: ms(1), flush };
            Demand { asked_at: started, freshness }.is_met_by(&read)
        };
        assert_eq!([Never, IfStale, Always].map(met), [true, false, false]);
    }
}
