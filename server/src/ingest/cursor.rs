//! What a tick means to a host's cursor: a duplicate, the next tick, or the end of a gap. Pure.

use std::time::SystemTime;

use cgfleet_proto::v1::GapReason;
use uuid::Uuid;

use crate::store::{Cursor, Gap};

/// A tick's identity within its host, and its place in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickId {
    /// The agent process that took it.
    pub epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
    /// Its time by the server's clock.
    pub tick_at: SystemTime,
}

/// What has to be done with a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is stored already.
    Duplicate,
    /// It has to be stored.
    Append {
        /// The cursor once it is.
        next: Cursor,
        /// The gap that it ends.
        gap: Option<Gap>,
        /// Whether another agent process took the tick before, if there was one.
        new_epoch: bool,
    },
}

/// Judges a tick by the host's last stored one. `tick_at` has to be later than the last tick's. Whether ticks
/// before it were `missed` says its stream: those that it passes over else, the agent did not take.
pub fn step(cursor: Option<&Cursor>, tick: TickId, missed: bool) -> Step {
    let new_epoch = cursor.is_none_or(|last| last.epoch != tick.epoch);
    if !new_epoch && cursor.is_some_and(|last| tick.sequence < last.next_seq) {
        return Step::Duplicate;
    }
    let next =
        Cursor { epoch: tick.epoch, next_seq: tick.sequence.wrapping_add(1), last_tick_at: tick.tick_at };
    let gap = cursor.and_then(|last| {
        let reason = match new_epoch {
            true => GapReason::AgentRestarted,
            false if tick.sequence == last.next_seq => return None,
            false if missed => GapReason::NotReceived,
            false => GapReason::NotTaken,
        };
        Some(Gap { after_at: last.last_tick_at, before_at: tick.tick_at, reason })
    });
    Step::Append { next, gap, new_epoch }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn epoch(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn a_tick_is_judged_by_the_last_one() {
        let cursor = Cursor { epoch: epoch(1), next_seq: 5, last_tick_at: at(100) };
        let check = |cursor: Option<Cursor>, (number, sequence), expect: Option<Option<GapReason>>| {
            let tick = TickId { epoch: epoch(number), sequence, tick_at: at(110) };
            let new_epoch = cursor.is_none_or(|cursor| cursor.epoch != tick.epoch);
            let reason = expect.flatten();
            let expect = expect.map_or(Step::Duplicate, |reason| Step::Append {
                next: Cursor { epoch: tick.epoch, next_seq: sequence + 1, last_tick_at: at(110) },
                gap: reason.map(|reason| Gap { after_at: at(100), before_at: at(110), reason }),
                new_epoch,
            });
            let missed = reason != Some(GapReason::NotTaken);
            assert_eq!(step(cursor.as_ref(), tick, missed), expect, "{cursor:?} {tick:?}");
        };
        check(None, (1, 0), Some(None));
        check(None, (1, 7), Some(None));
        check(Some(cursor), (1, 5), Some(None));
        check(Some(cursor), (1, 4), None);
        check(Some(cursor), (1, 0), None);
        check(Some(cursor), (1, 6), Some(Some(GapReason::NotReceived)));
        check(Some(cursor), (1, 6), Some(Some(GapReason::NotTaken)));
        check(Some(cursor), (2, 5), Some(Some(GapReason::AgentRestarted)));
        check(Some(cursor), (2, 0), Some(Some(GapReason::AgentRestarted)));
    }

    proptest! {
        /// Agents that restart, lose ticks, and send ticks again: each tick that gets through is
        /// appended once, and a gap lies exactly where the tick before is not the one stored last.
        #[test]
        fn each_tick_once_and_each_hole_a_gap(
            events in proptest::collection::vec((any::<bool>(), 0_u64..3, 0_usize..3), 1..60),
        ) {
            let (mut cursor, mut number, mut sequence, mut now) = (None::<Cursor>, 1, 0, 0);
            let mut stored = HashSet::new();
            for (restart, lost, sent_again) in events {
                if restart {
                    (number, sequence) = (number + 1, 0);
                }
                sequence += lost;
                for _ in 0..=sent_again {
                    now += 1;
                    let tick = TickId { epoch: epoch(number), sequence, tick_at: at(now) };
                    let before = cursor;
                    let Step::Append { next, gap, .. } = step(cursor.as_ref(), tick, lost > 0) else {
                        prop_assert!(stored.contains(&(tick.epoch, tick.sequence)));
                        continue;
                    };
                    cursor = Some(next);
                    prop_assert!(stored.insert((tick.epoch, tick.sequence)));
                    let follows = before.is_none_or(|last| (last.epoch, last.next_seq) == (tick.epoch, sequence));
                    prop_assert_eq!(gap.is_none(), follows);
                    if let Some(gap) = gap {
                        prop_assert_eq!(Some(gap.after_at), before.map(|last| last.last_tick_at));
                        prop_assert_eq!(gap.before_at, tick.tick_at);
                    }
                }
                sequence += 1;
            }
        }
    }
}
