//! Partitions by time of every table that grows: made before a row needs them, told apart by their names.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use sqlx::{AssertSqlSafe, PgConnection};
use time::{Date, Month, OffsetDateTime, Time};

use super::{
    Store, StoreError,
    timestamp::{from_timestamptz, to_timestamptz},
};

/// Whoever makes partitions holds this advisory lock, so that two servers do not make the same one.
/// The number means nothing but must not change.
const PARTITIONS_LOCK: i64 = 0x6367_666c_6565_7401;

/// A table that is partitioned by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Ticks as they came. By the hour; servers before 0.2 made days, which still cover their hours.
    Head,
    /// Ticks as columns. By the day.
    Chunk,
    /// What was computed for each minute. By the day.
    RollupMinute,
    /// What was computed for each hour. By the month: it is kept for years.
    RollupHour,
}

impl Tier {
    /// Every tier, the finest first.
    pub const ALL: [Self; 4] = [Self::Head, Self::Chunk, Self::RollupMinute, Self::RollupHour];

    /// The table.
    pub fn table(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Chunk => "chunk",
            Self::RollupMinute => "rollup_minute",
            Self::RollupHour => "rollup_hour",
        }
    }
}

/// One partition: the time that its rows may have, and a name that says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    from: OffsetDateTime,
    /// `None` at the end of the calendar.
    until: Option<OffsetDateTime>,
    tier: Tier,
    name: String,
}

impl Partition {
    /// The partition that covers a moment.
    pub fn of(tier: Tier, at: SystemTime) -> Self {
        Self::at(tier, to_timestamptz(at))
    }

    fn at(tier: Tier, at: OffsetDateTime) -> Self {
        let date = at.date();
        let start_of = |date: Date| date.midnight().assume_utc();
        let (from, until) = match tier {
            Tier::Head => {
                let from = at.replace_time(Time::from_hms(at.hour(), 0, 0).unwrap_or(Time::MIDNIGHT));
                (from, from.checked_add(time::Duration::HOUR))
            }
            Tier::Chunk | Tier::RollupMinute => (start_of(date), date.next_day().map(start_of)),
            Tier::RollupHour => {
                let first = date.replace_day(1).unwrap_or(date);
                let year = first.year() + i32::from(first.month() == Month::December);
                let next = Date::from_calendar_date(year, first.month().next(), 1);
                (start_of(first), next.ok().map(start_of))
            }
        };
        let name = match tier {
            Tier::Head => format!("head_{}{:02}", digits(date), from.hour()),
            _ => format!("{}_{}", tier.table(), digits(from.date())),
        };
        Self { from, until, tier, name }
    }

    /// The one behind it; `None` at the end of the calendar.
    fn next(&self) -> Option<Self> {
        Some(Self::at(self.tier, self.until?))
    }

    /// The partition with this name, also one that an earlier version made; `None` if no version makes it.
    pub(super) fn named(tier: Tier, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(tier.table())?.strip_prefix('_')?;
        if !rest.is_ascii() || !matches!(rest.len(), 8 | 10) {
            return None;
        }
        let number = |text: &str| text.parse::<u8>().ok();
        let month = Month::try_from(number(rest.get(4..6)?)?).ok()?;
        let date =
            Date::from_calendar_date(rest.get(..4)?.parse().ok()?, month, number(rest.get(6..8)?)?).ok()?;
        if tier == Tier::Head && rest.len() == 8 {
            let until = date.next_day().map(|next| next.midnight().assume_utc());
            return Some(Self { from: date.midnight().assume_utc(), until, tier, name: name.to_owned() });
        }
        let hour = if rest.len() == 10 { number(rest.get(8..)?)? } else { 0 };
        let found = Self::at(tier, date.with_hms(hour, 0, 0).ok()?.assume_utc());
        (found.name == name).then_some(found)
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its table's tier.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The first moment that it covers.
    pub fn from(&self) -> SystemTime {
        from_timestamptz(self.from)
    }

    /// The first moment behind it; `None` at the end of the calendar.
    pub fn until(&self) -> Option<SystemTime> {
        self.until.map(from_timestamptz)
    }
}

fn digits(date: Date) -> String {
    format!("{:04}{:02}{:02}", date.year(), u8::from(date.month()), date.day())
}

/// Partitions that are known to exist, so that a batch does not have to ask.
#[derive(Debug, Default)]
pub(super) struct KnownPartitions(Mutex<BTreeSet<Partition>>);

impl KnownPartitions {
    fn missing_from(&self, partitions: &BTreeSet<Partition>) -> Vec<Partition> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.difference(&known).cloned().collect()
    }

    fn add(&self, partitions: Vec<Partition>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(partitions);
    }

    /// Asks Postgres again next time: somebody may have dropped a partition.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Store {
    /// Makes the partitions of a tier that these moments need and the one behind each, where they do not exist
    /// yet.
    pub(super) async fn ensure_partitions(
        &self,
        tier: Tier,
        moments: impl Iterator<Item = SystemTime>,
    ) -> Result<(), StoreError> {
        let mut ahead = BTreeSet::new();
        for at in moments {
            let partition = Partition::of(tier, at);
            // Most ticks of a batch are of one hour.
            if !ahead.contains(&partition) {
                ahead.extend(partition.next());
                ahead.insert(partition);
            }
        }
        let missing = self.known_partitions.missing_from(&ahead);
        if missing.is_empty() {
            return Ok(());
        }
        let failed = StoreError::during("make partitions");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        lock_partitions(&mut transaction).await.map_err(&failed)?;
        for partition in &missing {
            if !partition_exists(&mut transaction, partition).await.map_err(&failed)? {
                create_partition(&mut transaction, partition).await.map_err(&failed)?;
                attach_partition(&mut transaction, partition).await.map_err(&failed)?;
            }
        }
        transaction.commit().await.map_err(&failed)?;
        self.known_partitions.add(missing);
        Ok(())
    }
}

pub(super) async fn lock_partitions(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(PARTITIONS_LOCK).execute(connection).await?;
    Ok(())
}

/// Whether it is there, or the day of an earlier version that covers it.
async fn partition_exists(connection: &mut PgConnection, partition: &Partition) -> Result<bool, sqlx::Error> {
    let of_day = format!("head_{}", digits(partition.from.date()));
    sqlx::query_scalar("select to_regclass($1) is not null or ($3 and to_regclass($2) is not null)")
        .bind(&partition.name)
        .bind(of_day)
        .bind(partition.tier == Tier::Head)
        .fetch_one(connection)
        .await
}

// Made apart and then attached: that takes a lock on the table which readers and writers do not feel,
// where `create table … partition of` would wait for every reader and have every writer wait for it.

async fn create_partition(connection: &mut PgConnection, partition: &Partition) -> Result<(), sqlx::Error> {
    let (name, table) = (&partition.name, partition.tier.table());
    // Rows of rollups are compressed as far as it goes, where they are large at all.
    let options = match partition.tier {
        Tier::RollupMinute => " with (toast_tuple_target = 128)",
        _ => "",
    };
    let statement = format!("create table {name} (like {table} including all){options}");
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

async fn attach_partition(connection: &mut PgConnection, partition: &Partition) -> Result<(), sqlx::Error> {
    let moment = |at: OffsetDateTime| format!("'{} {:02}:00:00+00'", at.date(), at.hour());
    let from = moment(partition.from);
    let until = partition.until.map_or_else(|| "maxvalue".to_owned(), moment);
    let (name, table) = (&partition.name, partition.tier.table());
    let statement =
        format!("alter table {table} attach partition {name} for values from ({from}) to ({until})");
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(year: i32, month: u8, day: u8, hour: u8) -> OffsetDateTime {
        let date = Date::from_calendar_date(year, Month::try_from(month).unwrap(), day).unwrap();
        date.with_hms(hour, 34, 56).unwrap().assume_utc()
    }

    #[test]
    fn a_partition_is_named_after_its_time() {
        let check = |tier, at: OffsetDateTime, expect: &str, next: &str| {
            let partition = Partition::at(tier, at);
            assert_eq!(partition.name(), expect);
            assert!(partition.from <= at && at < partition.until.unwrap());
            assert_eq!(Partition::named(tier, expect), Some(partition.clone()));
            assert_eq!(partition.next().unwrap().name(), next);
        };
        check(Tier::Head, moment(2025, 11, 3, 7), "head_2025110307", "head_2025110308");
        check(Tier::Head, moment(2025, 12, 31, 23), "head_2025123123", "head_2026010100");
        check(Tier::Chunk, moment(1, 1, 1, 0), "chunk_00010101", "chunk_00010102");
        check(
            Tier::RollupMinute,
            moment(2024, 2, 28, 23),
            "rollup_minute_20240228",
            "rollup_minute_20240229",
        );
        check(Tier::RollupHour, moment(2025, 12, 24, 1), "rollup_hour_20251201", "rollup_hour_20260101");
        let last = Partition::at(Tier::Chunk, moment(9999, 12, 31, 23));
        assert_eq!((last.name(), last.next()), ("chunk_99991231", None));
    }

    #[test]
    fn a_name_that_no_version_makes_is_no_partition() {
        let check = |tier, name: &str| assert_eq!(Partition::named(tier, name), None, "{name}");
        check(Tier::Head, "head");
        check(Tier::Head, "head_202511");
        check(Tier::Head, "head_2025110325");
        check(Tier::Head, "head_20251303");
        check(Tier::Head, "chunk_20251103");
        check(Tier::Chunk, "chunk_2025110307");
        check(Tier::RollupHour, "rollup_hour_20251224");
        let day = Partition::named(Tier::Head, "head_20251103").unwrap();
        assert_eq!((day.from.hour(), day.until.unwrap().date().day()), (0, 4));
    }
}
