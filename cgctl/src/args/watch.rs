//! The flags of `cgctl watch`.

use std::{path::PathBuf, time::Duration};

use cgfleet_proto::v1::{CgroupTarget, CounterForm};
use clap::Args;

use super::{FieldsArgs, HostArgs, WorkloadArgs, values::parse_levels};
use crate::{output::Format, target::parse_target};

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    /// The cgroup, which is watched with all below it: /path or a cgroup id; a path need not exist yet
    /// [default: the cgroup v2 root]
    #[arg(value_parser = parse_target)]
    pub(crate) target: Option<CgroupTarget>,
    /// Watch so many levels below TARGET; 0 is TARGET alone
    #[arg(long, value_name = "LEVELS", value_parser = parse_levels, allow_negative_numbers = true)]
    pub(crate) max_depth: Option<u32>,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    #[command(flatten)]
    pub(crate) fields: FieldsArgs,
    /// Time between ticks [default: each agent's sample_interval]
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    pub(crate) interval: Option<Duration>,
    #[command(flatten)]
    pub(crate) counters: CountersArgs,
    /// Print a row only if one of its values differs from what was printed last by more than this share of it
    #[arg(long, value_name = "PERCENT", value_parser = parse_dead_band, conflicts_with = "delta")]
    pub(crate) dead_band: Option<f64>,
    /// Where to go on: read at the start, if it is there, and kept up to date
    #[arg(long, value_name = "FILE")]
    pub(crate) positions: Option<PathBuf>,
    /// End when so many ticks came from every host, of those that are not lost
    #[arg(long, value_name = "N", value_parser = parse_ticks, allow_negative_numbers = true)]
    pub(crate) ticks: Option<u64>,
    /// How to print what comes: table or ndjson
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table", value_parser = parse_format)]
    pub(crate) format: Format,
}

/// In what form counters are printed.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct CountersArgs {
    /// Of counters, what was added per second
    #[arg(long)]
    rate: bool,
    /// Of counters, what was added since the row was printed last
    #[arg(long)]
    delta: bool,
}

impl CountersArgs {
    pub(crate) fn form(&self) -> CounterForm {
        match (self.rate, self.delta) {
            (true, _) => CounterForm::Rate,
            (_, true) => CounterForm::Delta,
            _ => CounterForm::Cumulative,
        }
    }
}

/// The longest time between ticks.
const INTERVAL_MAX: Duration = Duration::from_hours(1);

fn parse_interval(text: &str) -> Result<Duration, &'static str> {
    let is_allowed = |interval: &Duration| {
        interval.subsec_nanos().is_multiple_of(1_000_000) && !interval.is_zero() && *interval <= INTERVAL_MAX
    };
    let interval = humantime::parse_duration(text).ok().filter(is_allowed);
    interval.ok_or("allowed: a time with its unit (500ms, 1s), in whole milliseconds and at most 1h")
}

fn parse_dead_band(text: &str) -> Result<f64, &'static str> {
    let percent = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or("allowed: 0% to 100%")
}

fn parse_ticks(text: &str) -> Result<u64, &'static str> {
    text.parse().ok().filter(|ticks| *ticks > 0).ok_or("allowed: a number of ticks, 1 or more")
}

fn parse_format(text: &str) -> Result<Format, &'static str> {
    match text {
        "table" => Ok(Format::Table),
        "ndjson" => Ok(Format::Ndjson),
        _ => Err("allowed: table, ndjson; what has no end is no document"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_band_is_a_share_in_percent() {
        let check =
            |text: &str, expect: Option<f64>| assert_eq!(parse_dead_band(text).ok(), expect, "{text}");
        check("5%", Some(0.05));
        check("0%", Some(0.0));
        check("100%", Some(1.0));
        for text in ["5", "0.05", "%", "-1%", "101%", "NaN%", ""] {
            check(text, None);
        }
    }

    #[test]
    fn an_interval_has_whole_milliseconds() {
        let check = |text: &str, expect_ms: Option<u64>| {
            assert_eq!(parse_interval(text).ok(), expect_ms.map(Duration::from_millis), "{text}");
        };
        check("500ms", Some(500));
        check("1h", Some(3_600_000));
        for text in ["0s", "1", "1us", "61m", "-1s"] {
            check(text, None);
        }
    }
}
