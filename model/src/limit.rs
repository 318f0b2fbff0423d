//! Limits of cgroups, which may be `max`.

use std::fmt;

/// A limit as the kernel's files show it. On the wire and in the store the largest number stands for `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A number in the metric's unit.
    Of(u64),
    /// No limit.
    Max,
}

impl From<u64> for Limit {
    fn from(value: u64) -> Self {
        if value == u64::MAX { Self::Max } else { Self::Of(value) }
    }
}

impl From<Limit> for u64 {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Of(value) => value,
            Limit::Max => Self::MAX,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(value) => value.fmt(f),
            Self::Max => "max".fmt(f),
        }
    }
}
