//! A moment on the command line: `--since "3h ago"`.

use jiff::{Span, Timestamp, Zoned, civil::DateTime};

/// Reads a moment, given what time it is: RFC 3339, a local date and time, or how long ago.
pub(crate) fn parse_moment(text: &str, now: &Zoned) -> Result<Timestamp, InvalidMoment> {
    let text = text.trim();
    if text == "now" {
        return Ok(now.timestamp());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    if let Ok(local) = text.parse::<DateTime>() {
        let zoned = local.to_zoned(now.time_zone().clone()).map_err(|_| InvalidMoment)?;
        return Ok(zoned.timestamp());
    }
    // There is nothing to read in the future, so "3h" can only mean "3h ago".
    let ago: Span = text.parse().map_err(|_| InvalidMoment)?;
    Ok(now.checked_sub(ago.abs()).map_err(|_| InvalidMoment)?.timestamp())
}

/// A text that names no moment; clap says what was given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "allowed: how long ago (\"3h ago\", \"2 days\"), a local time (\"2026-11-23 08:00\"), \
     RFC 3339 (2026-11-23T08:00:00Z), or now"
)]
pub(crate) struct InvalidMoment;

/// The moment as protobuf has it.
pub(crate) fn to_proto(moment: Timestamp) -> prost_types::Timestamp {
    let (mut seconds, mut nanos) = (moment.as_second(), moment.subsec_nanosecond());
    // Before 1970 jiff counts nanoseconds down, protobuf up.
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// The moment as jiff has it; `None` if protobuf's lies outside of the calendar.
pub(crate) fn from_proto(moment: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(moment.seconds, moment.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, InvalidMoment> {
        let now: Zoned = "2026-11-23T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        parse_moment(text, &now).map(|moment| moment.to_string())
    }

    #[test]
    fn a_moment_is_absolute_local_or_so_long_ago() {
        let check = |text: &str, expect: &str| assert_eq!(parse(text).as_deref(), Ok(expect), "{text}");
        check("now", "2026-11-23T11:00:00Z");
        check("3h ago", "2026-11-23T08:00:00Z");
        check("3h", "2026-11-23T08:00:00Z");
        check("90s ago", "2026-11-23T10:58:30Z");
        check("1 day 2 hours ago", "2026-11-22T09:00:00Z");
        check(" 1w ago ", "2026-11-16T11:00:00Z");
        check("2026-11-23 08:00", "2026-11-23T07:00:00Z");
        check("2026-11-23", "2026-11-22T23:00:00Z");
        check("2026-07-01 08:00:30", "2026-07-01T06:00:30Z");
        check("2026-11-23T08:00:00Z", "2026-11-23T08:00:00Z");
        check("2026-11-23T08:00:00.5+05:30", "2026-11-23T02:30:00.5Z");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "yesterday", "3 hours before", "12", "2026-13-01", "25:00", "99999 years ago"] {
            assert_eq!(parse(text), Err(InvalidMoment), "{text}");
        }
    }

    #[test]
    fn a_moment_survives_the_wire() {
        for text in ["2026-11-23T08:00:00.123456789Z", "1969-12-31T23:59:59.25Z"] {
            let moment: Timestamp = text.parse().unwrap();
            assert_eq!(from_proto(&to_proto(moment)), Some(moment));
        }
    }
}
