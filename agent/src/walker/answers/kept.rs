//! Answers that are kept, for requests that want none that is fresher. Pure: no I/O, and the times are given.

use std::collections::VecDeque;

use crate::walker::demand::{Demand, OfFlush, Read};

/// The most that are kept, however small: each is compared with what is asked for.
const ANSWERS_MAX: usize = 256;

/// Answers by what was asked for, the oldest first.
#[derive(Debug)]
pub(super) struct Kept<K, A> {
    answers: VecDeque<Answer<K, A>>,
    rows: usize,
    rows_max: usize,
}

#[derive(Debug)]
struct Answer<K, A> {
    key: K,
    read: Read,
    rows: usize,
    answer: A,
}

impl<K: PartialEq, A: Clone> Kept<K, A> {
    /// At most so many rows; nothing for 0.
    pub(super) fn new(rows_max: usize) -> Self {
        Self { answers: VecDeque::new(), rows: 0, rows_max }
    }

    /// The last answer that is what is asked for.
    pub(super) fn find(&self, key: &K, demand: &Demand) -> Option<A> {
        // Where it has to be read from now on, there is none.
        if demand.freshness.max_staleness.is_zero() {
            return None;
        }
        let meets = |kept: &&Answer<K, A>| kept.key == *key && demand.is_met_by(&kept.read);
        self.answers.iter().rev().find(meets).map(|kept| kept.answer.clone())
    }

    /// Keeps an answer, in the place of the last one to the same, and of the oldest.
    pub(super) fn keep(&mut self, key: K, read: Read, rows: usize, answer: A) {
        let is_flushed = |read: &Read| read.flush != OfFlush::NotWanted;
        self.answers.retain(|kept| kept.key != key || is_flushed(&kept.read) != is_flushed(&read));
        self.rows = self.answers.iter().map(|kept| kept.rows).sum();
        if self.rows_max == 0 || rows > self.rows_max {
            return;
        }
        while self.rows + rows > self.rows_max || self.answers.len() == ANSWERS_MAX {
            let Some(oldest) = self.answers.pop_front() else { break };
            self.rows -= oldest.rows;
        }
        self.rows += rows;
        self.answers.push_back(Answer { key, read, rows, answer });
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::walker::demand::{FlushMode, Freshness};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Answers of (what was asked for, read at, rows), numbered from 0, of which at most ten rows are kept.
    fn kept(started: Instant, answers: &[(&'static str, u64, usize)]) -> Kept<&'static str, usize> {
        let mut kept = Kept::new(10);
        for (number, (key, read_ms, rows)) in answers.iter().enumerate() {
            let read = Read { began_at: started + ms(*read_ms), flush: OfFlush::NotNeeded };
            kept.keep(*key, read, *rows, number);
            assert_eq!(kept.rows, kept.answers.iter().map(|kept| kept.rows).sum::<usize>());
            assert!(kept.rows <= 10, "{answers:?}");
        }
        kept
    }

    /// Of those answers, the one for a request for this, at 100 ms, that may be so old.
    fn check(
        answers: &[(&'static str, u64, usize)],
        (key, stale_ms): (&'static str, u64),
        expect: Option<usize>,
    ) {
        let started = Instant::now();
        let freshness = Freshness { max_staleness: ms(stale_ms), flush: FlushMode::IfStale };
        let demand = Demand { asked_at: started + ms(100), freshness };
        assert_eq!(kept(started, answers).find(&key, &demand), expect, "{key} of {answers:?}");
    }

    #[test]
    fn the_last_answer_to_the_same_will_do_unless_it_is_too_old() {
        check(&[("a", 80, 1)], ("a", 20), Some(0));
        check(&[("a", 80, 1)], ("a", 19), None);
        check(&[("a", 80, 1)], ("b", 20), None);
        check(&[("a", 80, 1), ("b", 85, 1), ("a", 90, 1)], ("a", 20), Some(2));
        check(&[("a", 100, 1)], ("a", 0), None);
    }

    #[test]
    fn the_oldest_makes_room_and_what_is_too_large_is_not_kept() {
        check(&[("a", 80, 5), ("b", 81, 5)], ("a", 50), Some(0));
        check(&[("a", 80, 5), ("b", 81, 6)], ("a", 50), None);
        check(&[("a", 80, 5), ("b", 81, 6)], ("b", 50), Some(1));
        check(&[("a", 80, 5), ("b", 81, 11)], ("a", 50), Some(0));
        check(&[("a", 80, 5), ("b", 81, 11)], ("b", 50), None);
        check(&[("a", 80, 5), ("a", 81, 6), ("b", 82, 4)], ("a", 50), Some(1));
        check(&[("a", 80, 5), ("a", 81, 11)], ("a", 50), None);
    }

    #[test]
    fn no_more_answers_are_kept_than_may() {
        let (mut kept, read) = (Kept::new(10), Read { began_at: Instant::now(), flush: OfFlush::NotNeeded });
        for number in 0..=ANSWERS_MAX {
            kept.keep(number, read, 0, number);
        }
        assert_eq!((kept.answers.len(), kept.answers[0].key), (ANSWERS_MAX, 1));
    }

    #[test]
    fn nothing_is_kept_where_that_is_off() {
        let (mut off, read) = (Kept::new(0), Read { began_at: Instant::now(), flush: OfFlush::NotNeeded });
        off.keep("a", read, 0, 1);
        assert!(off.answers.is_empty());
    }

    #[test]
    fn an_answer_without_a_flush_is_beside_one_with_it() {
        let now = Instant::now();
        let flushed = OfFlush::Flushed { began_at: now, ended_at: now };
        for (first, second) in [(OfFlush::NotWanted, flushed), (flushed, OfFlush::NotWanted)] {
            let mut kept = Kept::new(10);
            kept.keep("a", Read { began_at: now, flush: first }, 1, first);
            kept.keep("a", Read { began_at: now, flush: second }, 1, second);
            let find = |flush| {
                let freshness = Freshness { max_staleness: ms(1), flush };
                kept.find(&"a", &Demand { asked_at: now, freshness })
            };
            assert_eq!(find(FlushMode::IfStale), Some(flushed));
            assert_eq!(find(FlushMode::Never), Some(second));
        }
    }
}
