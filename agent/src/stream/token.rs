//! Where a stream goes on, as text that the client keeps.

use std::{fmt, str::FromStr, time::Duration};

use uuid::Uuid;

/// A tick of one agent process, and the interval that it counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) agent_epoch: Uuid,
    pub(crate) interval: Duration,
    pub(crate) sequence: u64,
}

/// No token of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no resume token")]
pub(crate) struct TokenError;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.agent_epoch.simple(), self.interval.as_millis(), self.sequence)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(TokenError);
        let agent_epoch = Uuid::parse_str(part()?).map_err(|_| TokenError)?;
        let interval = part()?.parse().map(Duration::from_millis).map_err(|_| TokenError)?;
        let sequence = part()?.parse().map_err(|_| TokenError)?;
        parts.next().is_none().then_some(Self { agent_epoch, interval, sequence }).ok_or(TokenError)
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
