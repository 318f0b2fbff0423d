//! The hosts that ever registered.

use std::time::SystemTime;

use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Gap, Store, StoreError, ticks::reason_of_text, timestamp::from_timestamptz};

/// What an agent says of its host and itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// Stays with the host.
    pub host_id: Uuid,
    /// The kernel's boot id.
    pub boot_id: Uuid,
    /// The agent process.
    pub agent_epoch: Uuid,
    /// The host's name; need not be unique.
    pub hostname: String,
    /// host:port at which the server reaches the agent.
    pub address: String,
    /// uname -r.
    pub kernel_release: String,
    /// The agent's version.
    pub agent_version: String,
}

/// A host as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHost {
    /// Its latest registration.
    pub record: HostRecord,
    /// When it first registered, by Postgres's clock.
    pub first_seen_at: SystemTime,
    /// When its record last changed, by Postgres's clock.
    pub registered_at: SystemTime,
    /// The newest stored tick, by the server's clock.
    pub last_tick_at: Option<SystemTime>,
}

impl Store {
    /// Writes a host's registration if it says anything new, and returns whether it did.
    pub async fn register_host(&self, host: &HostRecord) -> Result<bool, StoreError> {
        let written = sqlx::query(
            "insert into host
                 (host_id, boot_id, agent_epoch, hostname, address, kernel_release, agent_version)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (host_id) do update set
                 boot_id = excluded.boot_id,
                 agent_epoch = excluded.agent_epoch,
                 hostname = excluded.hostname,
                 address = excluded.address,
                 kernel_release = excluded.kernel_release,
                 agent_version = excluded.agent_version,
                 registered_at = now()
             where (host.boot_id, host.agent_epoch, host.hostname, host.address, host.kernel_release,
                    host.agent_version)
                 is distinct from
                   (excluded.boot_id, excluded.agent_epoch, excluded.hostname, excluded.address,
                    excluded.kernel_release, excluded.agent_version)",
        )
        .bind(host.host_id)
        .bind(host.boot_id)
        .bind(host.agent_epoch)
        .bind(&host.hostname)
        .bind(&host.address)
        .bind(&host.kernel_release)
        .bind(&host.agent_version)
        .execute(&self.pool)
        .await
        .map_err(StoreError::during("register host"))?;
        Ok(written.rows_affected() > 0)
    }

    /// Up to `limit` hosts behind `after` (a hostname and host id), ordered by hostname in byte order,
    /// then host id.
    pub async fn list_hosts(
        &self,
        after: Option<(&str, Uuid)>,
        limit: u32,
    ) -> Result<Vec<StoredHost>, StoreError> {
        // No hostname sorts before the empty one, and no agent has the nil uuid.
        let (hostname, host_id) = after.unwrap_or(("", Uuid::nil()));
        sqlx::query(
            "select host_id, boot_id, agent_epoch, hostname, address, kernel_release, agent_version,
                    first_seen_at, registered_at, last_tick_at
             from host left join ingest_cursor using (host_id)
             where (hostname, host_id) > ($1, $2)
             order by hostname, host_id
             limit $3",
        )
        .bind(hostname)
        .bind(host_id)
        .bind(i64::from(limit))
        .try_map(|row: PgRow| stored_host(&row))
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("list hosts"))
    }

    /// The newest gap of each host that has one.
    pub async fn last_gaps(&self) -> Result<Vec<(Uuid, Gap)>, StoreError> {
        sqlx::query(
            "select host_id, after_at, before_at, reason
             from host cross join lateral (
                 select after_at, before_at, reason
                 from gap
                 where gap.host_id = host.host_id
                 order by before_at desc
                 limit 1
             ) as newest",
        )
        .try_map(|row: PgRow| last_gap(&row))
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("find last gaps"))
    }
}

fn last_gap(row: &PgRow) -> Result<(Uuid, Gap), sqlx::Error> {
    let gap = Gap {
        after_at: from_timestamptz(row.try_get("after_at")?),
        before_at: from_timestamptz(row.try_get("before_at")?),
        reason: reason_of_text(row.try_get("reason")?),
    };
    Ok((row.try_get("host_id")?, gap))
}

fn stored_host(row: &PgRow) -> Result<StoredHost, sqlx::Error> {
    let last_tick_at: Option<_> = row.try_get("last_tick_at")?;
    Ok(StoredHost {
        record: HostRecord {
            host_id: row.try_get("host_id")?,
            boot_id: row.try_get("boot_id")?,
            agent_epoch: row.try_get("agent_epoch")?,
            hostname: row.try_get("hostname")?,
            address: row.try_get("address")?,
            kernel_release: row.try_get("kernel_release")?,
            agent_version: row.try_get("agent_version")?,
        },
        first_seen_at: from_timestamptz(row.try_get("first_seen_at")?),
        registered_at: from_timestamptz(row.try_get("registered_at")?),
        last_tick_at: last_tick_at.map(from_timestamptz),
    })
}
