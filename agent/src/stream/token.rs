//! Where a stream goes on, as text that the client keeps.

use std::{fmt, str::FromStr, time::Duration};

use uuid::Uuid;

/// A tick of one agent process, and the interval that it counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) agent_epoch: Uuid,
    pub(crate) interval: Duration,
    /// The feed that counts.
    pub(crate) feed: u64,
    /// Tells the specification of the stream from others.
    pub(crate) spec: u64,
    pub(crate) sequence: u64,
}

/// No token of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no resume token")]
pub(crate) struct TokenError;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent_epoch, interval, feed, spec, sequence } = self;
        write!(f, "{}.{}.{feed}.{spec:x}.{sequence}", agent_epoch.simple(), interval.as_millis())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(TokenError);
        let agent_epoch = Uuid::parse_str(part()?).map_err(|_| TokenError)?;
        let interval = part()?.parse().map(Duration::from_millis).map_err(|_| TokenError)?;
        let feed = part()?.parse().map_err(|_| TokenError)?;
        let spec = u64::from_str_radix(part()?, 16).map_err(|_| TokenError)?;
        let sequence = part()?.parse().map_err(|_| TokenError)?;
        let token = Self { agent_epoch, interval, feed, spec, sequence };
        parts.next().is_none().then_some(token).ok_or(TokenError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_nothing_else_is_one() {
        let token = Token {
            agent_epoch: Uuid::from_u128(7),
            interval: Duration::from_millis(1500),
            feed: 3,
            spec: 0xfeed,
            sequence: u64::MAX,
        };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token));
        for other in ["", "7", &text[1..], &format!("{text}.1"), &format!("{text}1"), &text.replace('.', ",")]
        {
            assert_eq!(other.parse::<Token>(), Err(TokenError), "{other}");
        }
    }
}
