//! What can be configured of the server.

use std::{fs, io, net::SocketAddr, path::PathBuf, time::Duration};

use cgfleet_config::{Checked, Daemon, DaemonCommand, HumanDuration, InvalidValue};
use cgfleet_rpc::trace::{self, LogFormat};

use crate::{compaction::RetentionLimits, private_postgres::PrivatePostgresOptions, store::Database};

/// The server as the configuration system knows it.
pub const DAEMON: Daemon = Daemon {
    name: "cgfleet-server",
    about: "Keeps the fleet's time series in Postgres and fans queries out to the agents.",
    version: env!("CARGO_PKG_VERSION"),
    env_prefix: "CGFLEET_SERVER_",
    default_file: "/etc/cgfleet/server.toml",
    commands: &[
        DaemonCommand {
            name: BACKUP,
            about: "Write all that the private Postgres holds to FILE, which must not exist; the server may run",
        },
        DaemonCommand { name: RESTORE, about: "Make the private Postgres anew, from FILE" },
    ],
};

/// The command that writes a backup of the private Postgres.
pub const BACKUP: &str = "backup";
/// The command that makes the private Postgres from a backup.
pub const RESTORE: &str = "restore";

/// The server's configuration.
#[derive(Clone, confique::Config)]
pub struct ServerConfig {
    /// The address to serve gRPC on.
    #[config(default = "127.0.0.1:7400")]
    pub listen_address: SocketAddr,
    /// Serve other hosts without TLS. Without it, only a loopback address is allowed.
    #[config(default = false)]
    pub insecure: bool,
    /// The directory that keeps the private Postgres and the spool. Created if it is missing.
    #[config(default = "/var/lib/cgfleet-server")]
    pub state_dir: PathBuf,
    /// The user that a server started as root becomes at once, and its private Postgres with it. The
    /// package postgresql makes the user postgres.
    #[config(default = "postgres")]
    pub user: String,
    /// The Postgres to use (postgres://user:password@host:port/database). Unset means a private one
    /// in state_dir. Its parameters sslmode (disable, allow, prefer, require, verify-ca, verify-full),
    /// sslrootcert, sslcert and sslkey say how TLS is used; without them it is used where the
    /// database offers it, and nobody's certificate is checked.
    #[config(env = "DATABASE_URL")]
    pub database_url: Option<String>,
    /// A file whose first line is the password for database_url. It is read once, before privileges are
    /// given up.
    pub database_password_file: Option<PathBuf>,
    /// Where initdb and postgres are, for the private Postgres. Unset means the usual places.
    pub postgres_bin_dir: Option<PathBuf>,
    /// The most connections to Postgres; 2 to 1000.
    #[config(default = 16)]
    pub postgres_connections_max: u32,
    /// Bytes on disk, in state_dir, of ticks that Postgres does not take, until it does; 0 for none, or 1048576 to
    /// 1099511627776. Beyond it streams wait, and agents keep what their history has room for.
    #[config(default = 1_073_741_824)]
    pub spool_bytes_max: u64,
    /// How long Postgres may take to take ticks before they are spooled; 100ms to 10m.
    #[config(default = "2s")]
    pub spool_after: HumanDuration,
    /// Bytes that the spool leaves free on the file system of state_dir; 0 to 1099511627776. With less than the half
    /// of it, the private Postgres gets no ticks either: it goes down where it cannot write its log.
    #[config(default = 134_217_728)]
    pub state_free_bytes_min: u64,
    /// How often agents are told to call; 100ms to 10m. A host is lost after three missing calls.
    #[config(default = "5s")]
    pub heartbeat_interval: HumanDuration,
    /// How long one host may take to answer a query that does not say; 10ms to 5m.
    #[config(default = "5s")]
    pub host_timeout: HumanDuration,
    /// The most hosts that may register; 1 to 1000000.
    #[config(default = 10000)]
    pub hosts_max: u32,
    /// The most hosts that one query asks at the same time; 1 to 65536.
    #[config(default = 256)]
    pub fanout_hosts_max: u32,
    /// The most subscriptions to the fleet at a time; more are refused. 1 to 128. Each is one subscriber more
    /// of every agent that it chose, and may hold 256 KiB a host if it is not read.
    #[config(default = 32)]
    pub subscriptions_max: u32,
    /// The most hosts whose ticks are compacted at the same time; 1 to 64. Each keeps a CPU busy now and then, and
    /// takes up to 256 MiB for a host of many thousand cgroups that all change.
    #[config(default = 1)]
    pub compaction_tasks_max: u32,
    /// The most questions on the past that are answered at a time; others wait, and are refused after 5s. 1 to 1000.
    #[config(default = 8)]
    pub history_queries_max: u32,
    /// The most series that the answer to one question on the past may hold at a time, and the most cgroups that it
    /// may choose by their names; 1 to 10000000.
    #[config(default = 100_000)]
    pub history_series_max: u32,
    /// The most values that the answer to one question on the past may hold at a time, about 20 bytes each; 1000 to
    /// 1000000000.
    #[config(default = 4_000_000)]
    pub history_values_max: u32,
    /// How long ticks stay as they came, once they are compacted into chunks: for the time since the last
    /// compaction they stay always. 10m to 30d.
    #[config(default = "3h")]
    pub retention_head: HumanDuration,
    /// How long chunks are kept, which have every tick; 1d to 100y.
    #[config(default = "30d")]
    pub retention_chunks: HumanDuration,
    /// How long what was computed for each minute is kept; 1d to 100y.
    #[config(default = "90d")]
    pub retention_rollup_minute: HumanDuration,
    /// How long what was computed for each hour is kept; as long as retention_rollup_minute, to 100y. A whole
    /// month goes at a time.
    #[config(default = "2y")]
    pub retention_rollup_hour: HumanDuration,
    /// Bytes of the database above which the oldest goes before its time: first of the head, then of chunks, then
    /// of minutes, and never what is not compacted. 0 for no such budget, else from 1073741824 (1 GiB) on.
    #[config(default = 0)]
    pub disk_budget_bytes: u64,
    /// What to log: a level (error, warn, info, debug, trace), or target=level,…
    #[config(default = "info")]
    pub log: String,
    /// How log lines look: text or json.
    #[config(default = "text")]
    pub log_format: LogFormat,
}

impl ServerConfig {
    /// The database that is configured, with its password, if its file can be read.
    pub fn database(&self) -> Result<Option<Database>, PasswordFileError> {
        let Some(url) = self.database_url.clone() else { return Ok(None) };
        let password = self.database_password_file.as_ref().map(|path| {
            let failed = |source| PasswordFileError { path: path.clone(), source };
            let text = fs::read_to_string(path).map_err(failed)?;
            let empty = || failed(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty"));
            text.lines().next().filter(|line| !line.is_empty()).map(str::to_owned).ok_or_else(empty)
        });
        Ok(Some(Database::Url { url, password: password.transpose()? }))
    }

    /// What the private Postgres needs.
    pub fn private_postgres(&self) -> PrivatePostgresOptions {
        PrivatePostgresOptions { state_dir: self.state_dir.clone(), bin_dir: self.postgres_bin_dir.clone() }
    }
}

/// The file of the database's password cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("database_password_file: read {}: {source}; it must hold the password in its first line", path.display())]
pub struct PasswordFileError {
    path: PathBuf,
    source: io::Error,
}

impl Checked for ServerConfig {
    fn check(&self) -> Result<(), InvalidValue> {
        let within = |field, value: u32, min: u32, max: u32| {
            let allowed = || InvalidValue::new(field, format!("{min} to {max}"));
            if (min..=max).contains(&value) { Ok(()) } else { Err(allowed()) }
        };
        within("postgres_connections_max", self.postgres_connections_max, 2, 1000)?;
        self.check_spool()?;
        within("hosts_max", self.hosts_max, 1, 1_000_000)?;
        within("fanout_hosts_max", self.fanout_hosts_max, 1, 65_536)?;
        // All of them are streams of one connection to each agent, of which HTTP/2 servers allow 200.
        within("subscriptions_max", self.subscriptions_max, 1, 128)?;
        within("compaction_tasks_max", self.compaction_tasks_max, 1, 64)?;
        within("history_queries_max", self.history_queries_max, 1, 1000)?;
        within("history_series_max", self.history_series_max, 1, 10_000_000)?;
        within("history_values_max", self.history_values_max, 1000, 1_000_000_000)?;
        if !trace::is_filter(&self.log) {
            return Err(InvalidValue::new("log", trace::FILTER_ALLOWED));
        }
        if self.database_url.clone().is_some_and(|url| Database::url(url).check().is_err()) {
            return Err(InvalidValue::new("database_url", "postgres://user:password@host:port/database"));
        }
        if self.database_password_file.is_some() && self.database_url.is_none() {
            return Err(InvalidValue::new("database_password_file", "unset without database_url"));
        }
        self.check_retention()?;
        let heartbeat_ms = self.heartbeat_interval.get().as_millis();
        if !(100..=600_000).contains(&heartbeat_ms) {
            return Err(InvalidValue::new("heartbeat_interval", "100ms to 10m"));
        }
        let timeout_ms = self.host_timeout.get().as_millis();
        if !(10..=300_000).contains(&timeout_ms) {
            return Err(InvalidValue::new("host_timeout", "10ms to 5m"));
        }
        Ok(())
    }
}

impl ServerConfig {
    /// How long what is stored is kept.
    pub fn retention(&self) -> RetentionLimits {
        RetentionLimits {
            head: self.retention_head.get(),
            chunks: self.retention_chunks.get(),
            minutes: self.retention_rollup_minute.get(),
            hours: self.retention_rollup_hour.get(),
            disk_budget_bytes: Some(self.disk_budget_bytes).filter(|bytes| *bytes > 0),
        }
    }

    fn check_retention(&self) -> Result<(), InvalidValue> {
        const DAY: Duration = Duration::from_hours(24);
        const LONGEST: Duration = Duration::from_hours(24 * 366 * 100);
        let within = |field, value: HumanDuration, min: Duration, max: Duration, allowed: &str| {
            let refused = || InvalidValue::new(field, allowed);
            if (min..=max).contains(&value.get()) { Ok(()) } else { Err(refused()) }
        };
        within("retention_head", self.retention_head, Duration::from_mins(10), 30 * DAY, "10m to 30d")?;
        within("retention_chunks", self.retention_chunks, DAY, LONGEST, "1d to 100y")?;
        within("retention_rollup_minute", self.retention_rollup_minute, DAY, LONGEST, "1d to 100y")?;
        // The hours of cgroups that do not change are their minutes too.
        let hours_min = self.retention_rollup_minute.get();
        let allowed = "retention_rollup_minute to 100y";
        within("retention_rollup_hour", self.retention_rollup_hour, hours_min, LONGEST, allowed)?;
        match self.disk_budget_bytes {
            0 | 0x4000_0000.. => Ok(()),
            _ => Err(InvalidValue::new("disk_budget_bytes", "0, or 1073741824 and more")),
        }
    }

    fn check_spool(&self) -> Result<(), InvalidValue> {
        const BYTES_LIMIT: u64 = 1 << 40;
        if self.spool_bytes_max != 0 && !(1 << 20..=BYTES_LIMIT).contains(&self.spool_bytes_max) {
            return Err(InvalidValue::new("spool_bytes_max", "0, or 1048576 to 1099511627776"));
        }
        if self.state_free_bytes_min > BYTES_LIMIT {
            return Err(InvalidValue::new("state_free_bytes_min", "0 to 1099511627776"));
        }
        if !(100..=600_000).contains(&self.spool_after.get().as_millis()) {
            return Err(InvalidValue::new("spool_after", "100ms to 10m"));
        }
        Ok(())
    }
}
