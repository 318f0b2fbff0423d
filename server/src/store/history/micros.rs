//! Moments as microseconds since the Unix epoch, without calendars: there are many of them.

use std::time::{Duration, SystemTime};

use sqlx::{
    Row as _, ValueRef as _,
    postgres::{PgRow, PgValueFormat},
};

use super::super::timestamp::micros_from_timestamptz;

/// Postgres counts from 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A timestamptz column.
pub(super) fn micros_of(row: &PgRow, column: usize) -> Result<i64, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() || value.format() != PgValueFormat::Binary {
        return Ok(micros_from_timestamptz(row.try_get(column)?));
    }
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    let since_2000 =
        bytes.try_into().map(i64::from_be_bytes).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(since_2000.saturating_add(POSTGRES_EPOCH))
}

/// The moment.
pub(super) fn system_time(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    let moved = if micros < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// In microseconds since the Unix epoch.
pub(super) fn micros_of_time(at: SystemTime) -> i64 {
    let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap_or(i64::MAX / 2);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => micros(after),
        Err(before) => -micros(before.duration()),
    }
}
