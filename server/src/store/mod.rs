//! Everything that is kept in Postgres: the only place that speaks SQL.
//!
//! Owns the connection pool, the schema's migrations and every statement. Must not know: gRPC,
//! agents, what a stream is doing, or what time it is.

mod cgroups;
pub mod codec;
mod compaction;
mod copy;
mod cursor;
mod database;
mod error;
mod history;
mod hosts;
mod latest;
mod partitions;
mod reader_role;
mod retention;
mod rollups;
mod ticks;
mod timestamp;

use std::{io, sync::Arc, time::Duration};

use sqlx::{
    Connection as _, Executor as _, PgConnection, PgPool, migrate::Migrator, postgres::PgPoolOptions,
};

use self::partitions::KnownPartitions;
pub use self::{
    compaction::{ChunkRow, CompactedWindow, HeadTick, HostProgress, MergeHours},
    cursor::{Cursor, Fence, OpenedStream},
    database::Database,
    error::StoreError,
    history::{
        CgroupFilter, CgroupSelector, HistoryEvent, HistoryReader, PageRead, ReadError, SeriesPage,
        StoredCgroup, TierRead, WorkloadNames, is_rolled_up,
    },
    hosts::{HostRecord, StoredHost},
    latest::StoredTick,
    partitions::{Partition, Tier},
    retention::{DropOutcome, StoredPartition},
    rollups::{COUNTERS, GAUGES, GaugeRollup, HourRow, MinuteRow, StoredMinutes},
    ticks::{CgroupIdentity, Gap, GoneCgroup, TickBatch, TickRow, WriteOutcome},
    timestamp::{
        TICKS_APART_MIN_USEC, from_unix_usec, same_utc_hour, start_of_utc_hour, truncate_to_usec, unix_usec,
    },
};

pub(crate) use self::timestamp::to_timestamptz;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Bounds on what the store asks of Postgres.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Connections that are open at one time.
    pub connections_max: u32,
    /// How long an operation may wait for a free connection, and the first connection to open.
    pub acquire_timeout: Duration,
    /// How long the transaction of one batch of ticks may take.
    pub write_timeout: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            connections_max: 16,
            acquire_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// The store. Clones share one pool.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    limits: StoreLimits,
    known_partitions: Arc<KnownPartitions>,
}

impl Store {
    /// Connects, brings the schema up to date, and opens the pool.
    pub async fn connect(database: &Database, limits: StoreLimits) -> Result<Self, StoreError> {
        let options = database.options()?;
        // One connection by hand first: a pool would hide why it cannot connect behind its timeout.
        let connecting = tokio::time::timeout(limits.acquire_timeout, PgConnection::connect_with(&options));
        let mut connection = connecting
            .await
            .unwrap_or_else(|_| {
                let waited = format!("no answer within {:?}", limits.acquire_timeout);
                Err(io::Error::new(io::ErrorKind::TimedOut, waited).into())
            })
            .map_err(|source| StoreError::Connect { at: database.to_string(), source })?;
        MIGRATIONS.run(&mut connection).await.map_err(|source| StoreError::Migrate { source })?;
        reader_role::grant(&mut connection).await?;
        connection.close().await.map_err(StoreError::during("close the first connection"))?;

        let pool = PgPoolOptions::new()
            .max_connections(limits.connections_max)
            .acquire_timeout(limits.acquire_timeout)
            // Postgres gives up too: a statement whose client went away would keep its locks.
            .after_connect(|connection, _| {
                Box::pin(
                    async move { connection.execute("set statement_timeout to '30s'").await.map(|_| ()) },
                )
            })
            .connect_lazy_with(options);
        Ok(Self { pool, limits, known_partitions: Arc::default() })
    }

    /// Closes every connection; operations under way finish first.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
