//! The deadline that a caller sent.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The time that the caller gives a call (`grpc-timeout`, gRPC over HTTP/2); `None` if it sent none,
/// or none that can be read.
pub fn of_caller(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get("grpc-timeout")?.to_str().ok()?)
}

fn parse(timeout: &str) -> Option<Duration> {
    let (digits, unit) = timeout.split_at_checked(timeout.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_hours(value),
        "M" => Duration::from_mins(value),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        let check = |text, expect| assert_eq!(parse(text), expect, "{text}");
        check("5S", Some(Duration::from_secs(5)));
        check("250m", Some(Duration::from_millis(250)));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        for bad in ["", "S", "5", "5s", "-5S", "+5S", "100000000S", "5é"] {
            check(bad, None);
        }
    }
}
