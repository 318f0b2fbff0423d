//! Moments, times and numbers as they are given, and what is allowed of them.

use std::time::Duration;

use jiff::{Timestamp, Zoned};

use crate::moment::{InvalidMoment, parse_moment};

/// The longest `--timeout`: a call that may take longer is a mistake.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

pub(super) fn parse_moment_now(text: &str) -> Result<Timestamp, InvalidMoment> {
    parse_moment(text, &Zoned::now())
}

pub(super) fn parse_limit(text: &str) -> Result<u32, InvalidLimit> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or(InvalidLimit)
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a number of cgroups, 1 to {}", u32::MAX)]
pub(super) struct InvalidLimit;

pub(super) fn parse_top(text: &str) -> Result<u32, InvalidTop> {
    text.parse().ok().filter(|top| (1..=TOP_MAX).contains(top)).ok_or(InvalidTop)
}

/// The most series that the server gives as the top.
const TOP_MAX: u32 = 10_000;

#[derive(Debug, thiserror::Error)]
#[error("allowed: a number of series, 1 to {TOP_MAX}")]
pub(super) struct InvalidTop;

/// The longest step.
const STEP_MAX: Duration = Duration::from_hours(366 * 24);

pub(super) fn parse_step(text: &str) -> Result<Duration, InvalidStep> {
    let step = humantime::parse_duration(text).map_err(|_| InvalidStep)?;
    let is_whole = step.subsec_nanos() == 0 && !step.is_zero();
    if is_whole && step <= STEP_MAX { Ok(step) } else { Err(InvalidStep) }
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: whole seconds with their unit (10s, 1m, 1h), 1s to 366 days")]
pub(super) struct InvalidStep;

pub(super) fn parse_levels(text: &str) -> Result<u32, InvalidLevels> {
    text.parse().map_err(|_| InvalidLevels)
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a number of levels, 0 to {}", u32::MAX)]
pub(super) struct InvalidLevels;

pub(crate) fn parse_staleness(text: &str) -> Result<Duration, InvalidStaleness> {
    humantime::parse_duration(text).map_err(|_| InvalidStaleness)
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a time with its unit (500ms, 5s, 2m), or 0s")]
pub(crate) struct InvalidStaleness;

pub(super) fn parse_timeout(text: &str) -> Result<Duration, InvalidTimeout> {
    let timeout = humantime::parse_duration(text).map_err(|_| InvalidTimeout)?;
    if timeout.is_zero() || timeout > TIMEOUT_MAX { Err(InvalidTimeout) } else { Ok(timeout) }
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a time with its unit (500ms, 5s, 2m), more than 0 and at most 24h")]
pub(super) struct InvalidTimeout;
