//! What can go wrong with the store, and whose fault it is.

use std::time::{Duration, SystemTime};

use sqlx::migrate::MigrateError;
use uuid::Uuid;

use super::codec::{CgroupKey, CodecError};

/// A store operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// DATABASE_URL cannot be read.
    #[error("DATABASE_URL is not a Postgres URL (postgres://user:password@host:port/database): {reason}")]
    InvalidUrl {
        /// Why.
        reason: String,
    },
    /// No connection at start.
    #[error("cannot connect to Postgres database {at}: {source}; start it, or correct DATABASE_URL")]
    Connect {
        /// Which database, without password.
        at: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The schema cannot be brought up to date.
    #[error("cannot migrate the database: {source}{}", newer_schema_hint(source))]
    Migrate {
        /// Why.
        source: MigrateError,
    },
    /// A statement failed.
    #[error("store: {operation}: {source}")]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// An operation took too long. Whether it took effect is not known.
    #[error("store: {operation} took longer than {limit:?}")]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// How long it might have taken.
        limit: Duration,
    },
    /// A stored payload cannot be read.
    #[error("stored tick of host {host_id} at {}: {source}", super::timestamp::display(*tick_at))]
    Payload {
        /// The host.
        host_id: Uuid,
        /// The tick.
        tick_at: SystemTime,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A stored chunk cannot be read.
    #[error(
        "stored chunk of host {host_id}, hierarchy {}, cgroup {}, from {}: {source}",
        key.hierarchy_id, key.cgroup_id, super::timestamp::display(*first_at)
    )]
    Chunk {
        /// The host.
        host_id: Uuid,
        /// The cgroup; that of id 0 has the host's short-lived ones.
        key: CgroupKey,
        /// Its first tick.
        first_at: SystemTime,
        /// What is wrong with it.
        source: CodecError,
    },
}

fn newer_schema_hint(source: &MigrateError) -> &'static str {
    match source {
        MigrateError::VersionMissing(_) => {
            "; a newer cgfleet-server made it: run that version or a newer one"
        }
        _ => "",
    }
}

impl StoreError {
    /// Wraps what a statement of an operation returned.
    pub(super) fn during(operation: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Sql { operation, source }
    }

    /// Whether Postgres refused the data itself, so that trying again cannot help. Everything else
    /// (no connection, no space, a deadlock, a shutdown) may pass.
    pub fn blames_data(&self) -> bool {
        let Self::Sql { source, .. } = self else { return false };
        let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // Classes of SQLSTATE: 22 data exception, 23 integrity constraint, 54 program limit exceeded.
        // 23514 is also what Postgres says when a partition is missing, and that can be mended.
        code.is_some_and(|code| matches!(code.get(..2), Some("22" | "23" | "54")) && code != "23514")
    }
}
