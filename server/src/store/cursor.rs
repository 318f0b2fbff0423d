//! The ingest cursor: what is known of a host's last stored tick, and who may write the next.

use std::time::SystemTime;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Store, StoreError, timestamp::from_timestamptz};

/// The right to write a host's ticks, until somebody opens the host's stream again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub(super) i64);

impl Fence {
    /// For whoever has to keep it outside of the process.
    pub(crate) fn number(self) -> i64 {
        self.0
    }

    /// The one that was kept.
    pub(crate) fn of_number(number: i64) -> Self {
        Self(number)
    }
}

/// A host's last stored tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The agent process that took it.
    pub epoch: Uuid,
    /// The sequence behind it.
    pub next_seq: u64,
    /// Its time by the server's clock.
    pub last_tick_at: SystemTime,
}

/// A host's stream as its opener finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedStream {
    /// To be presented with every write.
    pub fence: Fence,
    /// `None` if no tick of the host was ever stored.
    pub cursor: Option<Cursor>,
}

impl Store {
    /// Opens a host's stream: from here on, writes of everybody who opened it earlier store nothing.
    pub async fn open_stream(&self, host_id: Uuid) -> Result<OpenedStream, StoreError> {
        sqlx::query(
            "insert into ingest_cursor (host_id, fence)
             values ($1, 1)
             on conflict (host_id) do update set fence = ingest_cursor.fence + 1
             returning fence, epoch, next_seq, last_tick_at",
        )
        .bind(host_id)
        .try_map(|row: PgRow| opened_stream(&row))
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::during("open stream"))
    }
}

/// Where these hosts' streams stand, which nobody else changes until the transaction ends. Hosts whose stream was
/// never opened are left out. The order is that in which every batch takes the locks.
pub(super) async fn lock_cursors(
    connection: &mut PgConnection,
    host_ids: Vec<Uuid>,
) -> Result<Vec<(Uuid, OpenedStream)>, sqlx::Error> {
    sqlx::query(
        "select host_id, fence, epoch, next_seq, last_tick_at
         from ingest_cursor
         where host_id = any($1)
         order by host_id
         for update",
    )
    .bind(host_ids)
    .try_map(|row: PgRow| Ok((row.try_get("host_id")?, opened_stream(&row)?)))
    .fetch_all(connection)
    .await
}

fn opened_stream(row: &PgRow) -> Result<OpenedStream, sqlx::Error> {
    let epoch: Option<Uuid> = row.try_get("epoch")?;
    let next_seq: Option<i64> = row.try_get("next_seq")?;
    let last_tick_at: Option<_> = row.try_get("last_tick_at")?;
    // The table's constraint: all three or none.
    let cursor = epoch.zip(next_seq).zip(last_tick_at).map(|((epoch, next_seq), last_tick_at)| Cursor {
        epoch,
        next_seq: next_seq.cast_unsigned(),
        last_tick_at: from_timestamptz(last_tick_at),
    });
    Ok(OpenedStream { fence: Fence(row.try_get("fence")?), cursor })
}
