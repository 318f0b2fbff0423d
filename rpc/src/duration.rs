//! Durations in requests, parsed: whatever numbers a client puts into one.

use std::time::Duration;

use crate::wire_error::WireError;

/// The longest `max_staleness` of a walk.
pub const STALENESS_MAX: Duration = Duration::from_hours(1);

/// What is allowed by [`from_zero`].
const ALLOWED: &str = "0s or more";
const NANOS_MAX: u32 = 999_999_999;

/// A field that is zero if it is unset, and never negative. Not by `prost_types`, which computes with what
/// it is given, and overflows.
pub fn from_zero(field: &str, asked: Option<prost_types::Duration>) -> Result<Duration, WireError> {
    parse(asked).map_err(|given| WireError::invalid_field(field, given, ALLOWED))
}

/// A walk's `max_staleness`: as [`from_zero`], and not longer than [`STALENESS_MAX`].
pub fn staleness(field: &str, asked: Option<prost_types::Duration>) -> Result<Duration, WireError> {
    let refused = |given| WireError::invalid_field(field, given, "0s to 3600s");
    match parse(asked) {
        Ok(staleness) if staleness > STALENESS_MAX => Err(refused(format!("{}s", staleness.as_secs_f64()))),
        parsed => parsed.map_err(refused),
    }
}

/// What it is, or what was given as text.
fn parse(asked: Option<prost_types::Duration>) -> Result<Duration, String> {
    let Some(prost_types::Duration { seconds, nanos }) = asked else { return Ok(Duration::ZERO) };
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos <= NANOS_MAX => Ok(Duration::new(seconds, nanos)),
        _ => Err(format!("{seconds}s and {nanos}ns")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_is_negative_and_none_overflows() {
        let check = |seconds, nanos, expect: Option<Duration>| {
            let asked = prost_types::Duration { seconds, nanos };
            assert_eq!(from_zero("max_staleness", Some(asked)).ok(), expect, "{seconds} s, {nanos} ns");
        };
        check(0, 0, Some(Duration::ZERO));
        check(1, 500_000_000, Some(Duration::from_millis(1500)));
        check(i64::MAX, 999_999_999, Some(Duration::new(i64::MAX.unsigned_abs(), NANOS_MAX)));
        check(0, 1_000_000_000, None);
        check(0, i32::MAX, None);
        check(-1, 0, None);
        check(0, -1, None);
        check(1, -1, None);
        check(i64::MIN, 0, None);
        check(i64::MIN, i32::MIN, None);
        assert_eq!(from_zero("max_staleness", None).ok(), Some(Duration::ZERO));
    }

    #[test]
    fn a_walk_is_at_most_an_hour_stale() {
        let check = |seconds, nanos, expect: Option<u64>| {
            let asked = Some(prost_types::Duration { seconds, nanos });
            let parsed = staleness("spec.max_staleness", asked).ok();
            assert_eq!(parsed, expect.map(Duration::from_secs), "{seconds} s, {nanos} ns");
        };
        check(0, 0, Some(0));
        check(3600, 0, Some(3600));
        check(3600, 1, None);
        check(i64::MAX, 999_999_999, None);
        check(-1, 0, None);
        check(i64::MIN, i32::MIN, None);
    }
}
