//! A condition on one metric, on which a walk may end.

use std::{fmt, str::FromStr};

use crate::{Limit, Metric, MetricKind, UnknownMetric};

/// How a metric's value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Signs and what they mean; a sign that begins another comes after it.
const SIGNS: [(&str, Comparison); 4] = [
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// Something that is true of a cgroup or is not, such as `memory.max_bytes<max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// What is compared.
    pub metric: Metric,
    /// How.
    pub comparison: Comparison,
    /// With what, in the metric's unit; of a limit, as [`Limit`] has it.
    pub value: u64,
}

impl Condition {
    /// Whether it is true of a cgroup with this value; of one without the metric it is not.
    pub fn holds(&self, value: Option<u64>) -> bool {
        value.is_some_and(|value| match self.comparison {
            Comparison::Less => value < self.value,
            Comparison::LessOrEqual => value <= self.value,
            Comparison::Greater => value > self.value,
            Comparison::GreaterOrEqual => value >= self.value,
        })
    }
}

impl FromStr for Condition {
    type Err = InvalidCondition;

    fn from_str(text: &str) -> Result<Self, InvalidCondition> {
        let parts = SIGNS.iter().find_map(|(sign, comparison)| {
            let (name, value) = text.split_once(sign)?;
            Some((name.trim(), *comparison, value.trim()))
        });
        let (name, comparison, value) = parts.ok_or(InvalidCondition::Form)?;
        let metric = Metric::from_name(name)
            .ok_or_else(|| InvalidCondition::Metric(UnknownMetric { path: name.to_owned() }))?;
        let value = match (value, metric.info().kind) {
            ("max", MetricKind::Limit) => Limit::Max.into(),
            (number, _) => number.parse().map_err(|_| InvalidCondition::Value(number.to_owned()))?,
        };
        Ok(Self { metric, comparison, value })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign =
            SIGNS.iter().find(|(_, comparison)| *comparison == self.comparison).map_or("", |sign| sign.0);
        write!(f, "{}{sign}", self.metric.name())?;
        match self.metric.info().kind {
            MetricKind::Limit => Limit::from(self.value).fmt(f),
            MetricKind::Counter | MetricKind::Gauge => self.value.fmt(f),
        }
    }
}

/// Text that is no condition.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidCondition {
    /// No comparison in it.
    #[error("allowed: METRIC<VALUE, with <, <=, > or >=, such as memory.max_bytes<max")]
    Form,
    /// What is compared is no metric.
    #[error(transparent)]
    Metric(UnknownMetric),
    /// What it is compared with is no number.
    #[error("value {0:?}; allowed: a whole number in the metric's unit, or max for a limit")]
    Value(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_reads_as_it_is_written() {
        for text in ["memory.max_bytes<max", "cpu.usage_usec>=1000", "pids.current>0", "pids.max<=12"] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
        assert_eq!(" pids.current > 1 ".parse::<Condition>().unwrap().to_string(), "pids.current>1");
    }

    #[test]
    fn other_text_is_refused() {
        let check = |text: &str, expect: &str| {
            let refused = text.parse::<Condition>().unwrap_err().to_string();
            assert!(refused.contains(expect), "{text}: {refused}");
        };
        check("memory.max_bytes", "METRIC<VALUE");
        check("memory<1", "unknown field \"memory\"");
        check("pids.current>max", "a whole number");
        check("pids.current>-1", "a whole number");
        check("pids.current>", "a whole number");
    }

    #[test]
    fn a_condition_on_what_is_absent_does_not_hold() {
        let check = |text: &str, value, expect| {
            assert_eq!(text.parse::<Condition>().unwrap().holds(value), expect, "{text} of {value:?}");
        };
        check("memory.max_bytes<max", Some(1), true);
        check("memory.max_bytes<max", Some(u64::MAX), false);
        check("memory.max_bytes<max", None, false);
        check("pids.current>=2", Some(2), true);
        check("pids.current>2", Some(2), false);
        check("pids.current<=2", Some(2), true);
        check("pids.current<2", Some(2), false);
    }
}
