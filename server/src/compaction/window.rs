//! Which of a host's ticks may become chunks now: a window, and whether it is closed. Pure: every time is given, and
//! whether the host is silent.

use uuid::Uuid;

/// The ticks of an ordinary window, in which an hour has no more than that. More make smaller chunks, which take longer
/// to read, and more memory.
const WINDOW_TICKS: usize = 720;

/// The most ticks of any window: those that a host with the shortest interval (100 ms) takes until the next full minute,
/// twice. Ticks can be closer when a clock was stepped.
pub(super) const WINDOW_TICKS_MAX: usize = WINDOW_TICKS + 1_200;

const MINUTE_USEC: i64 = 60_000_000;
const HOUR_USEC: i64 = 60 * MINUTE_USEC;

/// A tick that is stored, as far as windows are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredTick {
    /// Its time by the server's clock, in microseconds since the Unix epoch.
    pub at_usec: i64,
    /// The kernel's boot.
    pub boot_id: Uuid,
    /// Whether no tick is missing between the one before it and this one.
    pub follows: bool,
}

/// What is known of a host that may have a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostTail {
    /// The host's newest tick. Every later one has a later time.
    pub last_tick_at_usec: i64,
    /// Whether it came so long ago that nothing is gained by waiting for the next one.
    pub silent: bool,
}

/// The window of the first of `ticks`: how many of them it has, or none if it is not closed yet. They ascend, are those
/// behind the watermark, and are all of them or the first [`WINDOW_TICKS_MAX`].
pub(super) fn closed_window(ticks: &[StoredTick], tail: HostTail) -> Option<usize> {
    let first = ticks.first()?;
    let hour_end = hour_start(first.at_usec) + HOUR_USEC;
    let ends_at = match ticks.get(WINDOW_TICKS) {
        // Of a full minute, so that no minute is torn.
        Some(next) => hour_end.min(minute_start_behind(next.at_usec)),
        None => hour_end,
    };
    let of_boot = ticks.iter().take_while(|tick| tick.boot_id == first.boot_id);
    let count = of_boot.take_while(|tick| tick.at_usec < ends_at).count();
    // A tick of another boot, or of a later time, says that none will follow in here.
    let followed = count < ticks.len() || count == WINDOW_TICKS_MAX;
    let closed = followed || ends_at <= tail.last_tick_at_usec || tail.silent;
    closed.then_some(count)
}

/// The time that the host's newest tick has to reach before the first of `ticks`, none of which is in a closed window,
/// is worth another look. Only a guess, except that the hour's end is never passed over.
pub(super) fn look_again_at(ticks: &[StoredTick]) -> i64 {
    let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else { return i64::MIN };
    let hour_end = hour_start(first.at_usec) + HOUR_USEC;
    // When there will be enough of them, if they go on like this.
    let span = last.at_usec - first.at_usec;
    let known = i64::try_from(ticks.len()).unwrap_or(i64::MAX).max(2) - 1;
    let missing = i64::try_from(WINDOW_TICKS.saturating_sub(ticks.len())).unwrap_or(0);
    let enough_at = last.at_usec.saturating_add((span / known).max(1).saturating_mul(missing));
    hour_end.min(enough_at.max(last.at_usec + 1))
}

/// The first full minute at or behind a time.
fn minute_start_behind(at_usec: i64) -> i64 {
    -(-at_usec).div_euclid(MINUTE_USEC) * MINUTE_USEC
}

/// The UTC hour of a time, in microseconds since the Unix epoch.
pub(super) fn hour_start(at_usec: i64) -> i64 {
    at_usec.div_euclid(HOUR_USEC) * HOUR_USEC
}

/// The minute of a time within its UTC hour.
pub(super) fn minute_of_hour(at_usec: i64) -> u32 {
    // Below 60.
    u32::try_from(at_usec.rem_euclid(HOUR_USEC) / MINUTE_USEC).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;
    /// A full hour.
    const BASE: i64 = 400_000 * HOUR_USEC;

    fn every(interval_usec: i64, from_usec: i64, count: usize) -> Vec<StoredTick> {
        let at = (0_i64..).map(|n| BASE + from_usec + n * interval_usec);
        let tick = |at_usec| StoredTick { at_usec, boot_id: Uuid::from_u128(1), follows: true };
        at.take(count).map(tick).collect()
    }

    fn check(ticks: &[StoredTick], silent: bool, expect: Option<usize>) {
        let last_tick_at_usec = ticks.last().map_or(0, |tick| tick.at_usec);
        let shown = &ticks[..ticks.len().min(WINDOW_TICKS_MAX)];
        assert_eq!(
            closed_window(shown, HostTail { last_tick_at_usec, silent }),
            expect,
            "{} ticks",
            ticks.len()
        );
    }

    #[test]
    fn a_window_ends_with_its_hour() {
        check(&[], true, None);
        check(&every(10 * SECOND, 0, 360), false, None);
        check(&every(10 * SECOND, 0, 361), false, Some(360));
        check(&every(10 * SECOND, 0, 900), false, Some(360));
        check(&every(10 * SECOND, 1_800 * SECOND, 181), false, Some(180));
        // The hour is over, and its last tick is not the newest.
        let last_tick_at_usec = BASE + HOUR_USEC;
        let ticks = every(10 * SECOND, 0, 360);
        assert_eq!(closed_window(&ticks, HostTail { last_tick_at_usec, silent: false }), Some(360));
        check(&every(5 * SECOND, 0, 721), false, Some(720));
        check(&every(HOUR_USEC, 0, 2), false, Some(1));
    }

    #[test]
    fn a_window_of_many_ticks_ends_with_a_minute() {
        check(&every(SECOND, 0, 720), false, None);
        check(&every(SECOND, 0, 721), false, Some(720));
        check(&every(SECOND, 7 * SECOND, 770), false, None);
        check(&every(SECOND, 7 * SECOND, 774), false, Some(773));
        // The hour comes first.
        check(&every(SECOND, 3_000 * SECOND, 900), false, Some(600));
        // Ticks so close that the minute does not come.
        check(&every(1, 0, 5_000), false, Some(WINDOW_TICKS_MAX));
    }

    #[test]
    fn a_window_has_one_boot() {
        let mut ticks = every(10 * SECOND, 0, 100);
        for tick in &mut ticks[70..] {
            tick.boot_id = Uuid::from_u128(2);
        }
        check(&ticks, false, Some(70));
        check(&ticks[70..], false, None);
    }

    #[test]
    fn what_a_silent_host_left_is_a_window() {
        check(&every(10 * SECOND, 0, 5), true, Some(5));
        check(&every(10 * SECOND, 0, 365), true, Some(360));
    }

    #[test]
    fn an_open_window_is_looked_at_when_it_may_be_closed() {
        let check = |ticks: &[StoredTick], expect| assert_eq!(look_again_at(ticks) - BASE, expect);
        check(&every(10 * SECOND, 0, 100), HOUR_USEC);
        check(&every(SECOND, 0, 100), 719 * SECOND);
        check(&every(SECOND, 7 * SECOND, 770), 776 * SECOND + 1);
        check(&every(SECOND, 5 * SECOND, 1), 5 * SECOND + 719);
        assert_eq!(look_again_at(&[]), i64::MIN);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// However ticks come, windows take each once, hold one boot of one hour, and none is taken that a later tick
        /// could still be of.
        #[test]
        fn windows_follow_each_other(
            distances in proptest::collection::vec((prop_oneof![1_i64..20_000_000, Just(1), 1..HOUR_USEC], 0_u8..40), 1..3_000),
        ) {
            let (mut at_usec, mut boot, mut ticks) = (BASE, 0_u128, Vec::new());
            for (distance, event) in distances {
                at_usec += distance;
                boot += u128::from(event == 0);
                ticks.push(StoredTick { at_usec, boot_id: Uuid::from_u128(boot), follows: true });
            }
            let mut rest = &ticks[..];
            let tail = HostTail { last_tick_at_usec: at_usec, silent: false };
            while let Some(count) = closed_window(&rest[..rest.len().min(WINDOW_TICKS_MAX)], tail) {
                prop_assert!((1..=WINDOW_TICKS_MAX).contains(&count));
                let (window, behind) = rest.split_at(count);
                prop_assert!(window.iter().all(|tick| tick.boot_id == window[0].boot_id));
                prop_assert_eq!(hour_start(window[0].at_usec), hour_start(window[count - 1].at_usec));
                prop_assert!(!behind.is_empty() || count == WINDOW_TICKS_MAX);
                rest = behind;
            }
            let left = closed_window(rest, HostTail { silent: true, ..tail });
            prop_assert!(rest.is_empty() || left.is_some());
        }
    }
}
