//! How fresh an answer has to be.

use std::time::Duration;

use cgfleet_proto::v1::FlushMode;
use cgfleet_rpc::duration::STALENESS_MAX;
use clap::Args;

use super::values::{InvalidStaleness, parse_staleness};
use crate::words::Flush;

#[derive(Debug, Args)]
pub(crate) struct FreshnessArgs {
    /// A walk, and a flush, so old will do [default: both begin now]
    #[arg(long, value_name = "DURATION", value_parser = parse_up_to_an_hour, allow_hyphen_values = true)]
    max_staleness: Option<Duration>,
    /// When the kernel's statistics are flushed before they are read
    #[arg(long, value_enum, value_name = "WHEN", default_value = "if-stale")]
    flush: Flush,
}

impl FreshnessArgs {
    pub(crate) fn max_staleness(&self) -> Option<prost_types::Duration> {
        self.max_staleness?.try_into().ok()
    }

    pub(crate) fn flush(&self) -> i32 {
        FlushMode::from(self.flush).into()
    }
}

fn parse_up_to_an_hour(text: &str) -> Result<Duration, InvalidWalkStaleness> {
    match parse_staleness(text) {
        Ok(staleness) if staleness <= STALENESS_MAX => Ok(staleness),
        Ok(_) | Err(InvalidStaleness) => Err(InvalidWalkStaleness),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a time with its unit (500ms, 5s, 2m), 0s to 1h")]
struct InvalidWalkStaleness;
