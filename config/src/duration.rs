//! A duration as people write it. It owns the spelling only; what a duration is for is said where it is used.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ALLOWED: &str = "a duration above zero with its unit, such as 500ms, 10s, 5m or 1h";

/// A duration above zero, written with its unit: `500ms`, `10s`, `5m`, `1h`, `1h 30m`.
///
/// A field that may be switched off is an `Option<HumanDuration>`, never a duration of zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

/// Text that is no [`HumanDuration`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?}: allowed is {ALLOWED}")]
pub struct InvalidDuration {
    /// The text.
    pub given: String,
}

impl HumanDuration {
    /// The duration, which is above zero.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text)
            .ok()
            .filter(|duration| !duration.is_zero())
            .map(Self)
            .ok_or_else(|| InvalidDuration { given: text.to_owned() })
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = HumanDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ALLOWED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
                text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_prints_as_it_is_written() {
        for text in ["1ns", "500ms", "10s", "5m", "1h", "1h 30m", "1day"] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.to_string(), text);
        }
        let unusual: HumanDuration = "90sec".parse().unwrap();
        assert_eq!((unusual.to_string(), unusual.get()), ("1m 30s".to_owned(), Duration::from_secs(90)));
    }

    #[test]
    fn what_is_no_duration_above_zero_is_refused() {
        for text in ["", "0s", "0ms", "10", "-1s", "s", "1 parsec", "99999999999999999999s"] {
            let error = text.parse::<HumanDuration>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "{text:?}: allowed is a duration above zero with its unit, such as 500ms, 10s, 5m or 1h"
                )
            );
        }
    }
}
