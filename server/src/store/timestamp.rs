//! `SystemTime` to and from Postgres's timestamptz, which counts microseconds.

use std::time::{Duration, SystemTime};

use time::{OffsetDateTime, Time};

/// Unix seconds of the years 1 and 9999, beyond which no date is written. Only a clock that is wrong,
/// or a client that is, names such a time.
const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;

/// The time as Postgres takes it; times outside the years 1 to 9999 become the nearest within.
pub(crate) fn to_timestamptz(at: SystemTime) -> OffsetDateTime {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let (seconds, nanos) = match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (seconds(after), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let borrow = i64::from(before.subsec_nanos() > 0);
            (-seconds(before).saturating_add(borrow), (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000)
        }
    };
    let whole = OffsetDateTime::from_unix_timestamp(seconds.clamp(SECONDS_MIN, SECONDS_MAX))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    whole + Duration::from_nanos(u64::from(nanos / 1_000 * 1_000))
}

/// The time that Postgres gave.
pub(super) fn from_timestamptz(at: OffsetDateTime) -> SystemTime {
    SystemTime::from(at)
}

/// The beginning of the UTC day of a time.
pub(super) fn start_of_utc_day(at: SystemTime) -> SystemTime {
    from_timestamptz(to_timestamptz(at).date().midnight().assume_utc())
}

/// The beginning of the UTC hour of a time.
pub fn start_of_utc_hour(at: SystemTime) -> SystemTime {
    let at = to_timestamptz(at);
    from_timestamptz(at.replace_time(Time::from_hms(at.hour(), 0, 0).unwrap_or(Time::MIDNIGHT)))
}

/// Microseconds since the Unix epoch.
pub fn unix_usec(at: SystemTime) -> i64 {
    // Within the years 1 to 9999 it fits.
    i64::try_from(to_timestamptz(at).unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// The time that [`unix_usec`] counts.
pub fn from_unix_usec(usec: i64) -> SystemTime {
    let distance = Duration::from_micros(usec.unsigned_abs());
    let at = if usec < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Microseconds that have to be between two ticks for anything to have grown meanwhile. Where the server's clock was
/// stepped back, ticks are kept a microsecond apart; no agent takes them closer than this.
pub const TICKS_APART_MIN_USEC: i64 = 1_000;

/// For people: RFC 3339 in UTC.
pub(super) fn display(at: SystemTime) -> String {
    let at = to_timestamptz(at);
    let (hour, minute, second, usec) = at.to_hms_micro();
    format!("{}T{hour:02}:{minute:02}:{second:02}.{usec:06}Z", at.date())
}

/// The time in whole microseconds, as the store keeps it.
pub fn truncate_to_usec(at: SystemTime) -> SystemTime {
    from_timestamptz(to_timestamptz(at))
}

/// Whether two ticks belong to the same partition of the head.
pub fn same_utc_hour(one: SystemTime, other: SystemTime) -> bool {
    start_of_utc_hour(one) == start_of_utc_hour(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_becomes_one_that_postgres_takes() {
        let check = |at: SystemTime, expect: &str| assert_eq!(display(at), expect);
        let epoch = SystemTime::UNIX_EPOCH;
        check(epoch, "1970-01-01T00:00:00.000000Z");
        check(epoch + Duration::new(86_399, 999_999_999), "1970-01-01T23:59:59.999999Z");
        check(epoch - Duration::from_nanos(1), "1969-12-31T23:59:59.999999Z");
        check(epoch - Duration::from_secs(1), "1969-12-31T23:59:59.000000Z");
        check(epoch - Duration::from_millis(1_500), "1969-12-31T23:59:58.500000Z");
        check(epoch + Duration::from_secs(1 << 62), "9999-12-31T23:59:59.000000Z");
        check(epoch - Duration::from_secs(1 << 62), "0001-01-01T00:00:00.000000Z");
    }

    #[test]
    fn an_hour_begins_with_its_first_microsecond() {
        let hour = SystemTime::UNIX_EPOCH + Duration::from_hours(480_007);
        assert_eq!(start_of_utc_hour(hour), hour);
        assert_eq!(start_of_utc_hour(hour + Duration::from_secs(3_599)), hour);
        assert!(!same_utc_hour(hour, hour - Duration::from_nanos(1)));
    }

    #[test]
    fn microseconds_are_counted_both_ways() {
        let epoch = SystemTime::UNIX_EPOCH;
        for at in [epoch, epoch + Duration::from_micros(1), epoch - Duration::from_micros(1_500_001)] {
            assert_eq!(from_unix_usec(unix_usec(at)), at);
        }
        assert_eq!(unix_usec(epoch - Duration::from_secs(1)), -1_000_000);
    }
}
