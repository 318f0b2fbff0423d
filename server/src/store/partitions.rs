//! Daily partitions of `head`, made before a tick needs them.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use sqlx::{AssertSqlSafe, PgConnection};
use time::Date;

use super::{Store, StoreError};

/// Whoever makes partitions holds this advisory lock, so that two servers do not make the same one.
/// The number means nothing but must not change.
const PARTITIONS_LOCK: i64 = 0x6367_666c_6565_7401;

/// Days whose partition is known to exist, so that a batch does not have to ask.
#[derive(Debug, Default)]
pub(super) struct KnownDays(Mutex<BTreeSet<Date>>);

impl KnownDays {
    fn missing_from(&self, days: &BTreeSet<Date>) -> Vec<Date> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        days.difference(&known).copied().collect()
    }

    fn add(&self, days: &[Date]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(days);
    }

    /// Asks Postgres again next time: somebody may have dropped a partition.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Store {
    /// Makes the partitions of these days and of the day behind each, where they do not exist yet.
    pub(super) async fn ensure_partitions(&self, days: impl Iterator<Item = Date>) -> Result<(), StoreError> {
        let ahead = days.flat_map(|day| [Some(day), day.next_day()]).flatten().collect::<BTreeSet<_>>();
        let missing = self.known_days.missing_from(&ahead);
        if missing.is_empty() {
            return Ok(());
        }
        let failed = StoreError::during("make partitions");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        lock_partitions(&mut transaction).await.map_err(&failed)?;
        for &day in &missing {
            if !partition_exists(&mut transaction, day).await.map_err(&failed)? {
                create_partition(&mut transaction, day).await.map_err(&failed)?;
                attach_partition(&mut transaction, day).await.map_err(&failed)?;
            }
        }
        transaction.commit().await.map_err(&failed)?;
        self.known_days.add(&missing);
        Ok(())
    }
}

fn partition_name(day: Date) -> String {
    format!("head_{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
}

async fn lock_partitions(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(PARTITIONS_LOCK).execute(connection).await?;
    Ok(())
}

async fn partition_exists(connection: &mut PgConnection, day: Date) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(partition_name(day))
        .fetch_one(connection)
        .await
}

// Made apart and then attached: that takes a lock on head which readers and writers do not feel,
// where `create table … partition of` would wait for every reader and have every writer wait for it.

async fn create_partition(connection: &mut PgConnection, day: Date) -> Result<(), sqlx::Error> {
    let statement = format!("create table {} (like head including all)", partition_name(day));
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

async fn attach_partition(connection: &mut PgConnection, day: Date) -> Result<(), sqlx::Error> {
    let name = partition_name(day);
    let until = day.next_day().map_or_else(|| "maxvalue".to_owned(), |next| format!("'{next} 00:00:00+00'"));
    let statement = format!(
        "alter table head attach partition {name} for values from ('{day} 00:00:00+00') to ({until})"
    );
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::Month;

    use super::*;

    #[test]
    fn a_partition_is_named_after_its_day() {
        let check = |year, month, day, expect| {
            assert_eq!(partition_name(Date::from_calendar_date(year, month, day).unwrap()), expect);
        };
        check(2025, Month::November, 3, "head_20251103");
        check(1, Month::January, 1, "head_00010101");
    }
}
