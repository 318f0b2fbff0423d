//! A stretch of time, half open.

use std::time::SystemTime;

/// From `since` on, up to but not including `until`; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    since: SystemTime,
    until: SystemTime,
}

impl TimeRange {
    /// The range `[since, until)`; refused if it is empty.
    pub fn new(since: SystemTime, until: SystemTime) -> Result<Self, EmptyTimeRange> {
        if since < until { Ok(Self { since, until }) } else { Err(EmptyTimeRange) }
    }

    /// The first moment in the range.
    pub fn since(self) -> SystemTime {
        self.since
    }

    /// The first moment behind the range.
    pub fn until(self) -> SystemTime {
        self.until
    }
}

/// `since` is not before `until`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("since must be before until")]
pub struct EmptyTimeRange;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_range_is_never_empty() {
        let (early, late) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(TimeRange::new(early, late).map(TimeRange::until), Ok(late));
        assert_eq!(TimeRange::new(late, early), Err(EmptyTimeRange));
        assert_eq!(TimeRange::new(early, early), Err(EmptyTimeRange));
    }
}
