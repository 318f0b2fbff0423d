//! Moments as microseconds since the Unix epoch, without calendars: there are many of them.

use sqlx::{
    Row as _, ValueRef as _,
    postgres::{PgRow, PgValueFormat},
};

use super::super::timestamp::{from_timestamptz, unix_usec};

/// Postgres counts from 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A timestamptz column.
pub(super) fn micros_of(row: &PgRow, column: usize) -> Result<i64, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() || value.format() != PgValueFormat::Binary {
        return Ok(unix_usec(from_timestamptz(row.try_get(column)?)));
    }
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    let since_2000 =
        bytes.try_into().map(i64::from_be_bytes).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(since_2000.saturating_add(POSTGRES_EPOCH))
}
