//! `SystemTime` to and from Postgres's timestamptz, which counts microseconds.

use std::time::{Duration, SystemTime};

use time::{Date, OffsetDateTime};

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

/// The UTC day of a time.
pub(super) fn utc_day(at: SystemTime) -> Date {
    to_timestamptz(at).date()
}

/// The beginning of the UTC day of a time.
pub(super) fn start_of_utc_day(at: SystemTime) -> SystemTime {
    from_timestamptz(utc_day(at).midnight().assume_utc())
}

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

/// Whether two ticks belong to the same partition.
pub fn same_utc_day(one: SystemTime, other: SystemTime) -> bool {
    utc_day(one) == utc_day(other)
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
    fn a_day_begins_at_midnight_utc() {
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_hours(20_000 * 24);
        assert_eq!(start_of_utc_day(midnight), midnight);
        assert_eq!(start_of_utc_day(midnight + Duration::from_secs(86_399)), midnight);
        assert!(!same_utc_day(midnight, midnight - Duration::from_nanos(1)));
    }
}
