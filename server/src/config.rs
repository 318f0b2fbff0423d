//! What can be configured of the server.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use cgfleet_config::{Checked, Daemon, DaemonCommand, HumanDuration, InvalidValue};
use cgfleet_rpc::trace::{self, LogFormat};

use crate::{private_postgres::PrivatePostgresOptions, store::Database};

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
    /// The directory that keeps the private Postgres. Created if it is missing.
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
    /// The most hosts whose ticks are compacted at the same time; 1 to 64. Each keeps a CPU busy now and then, and
    /// takes up to 256 MiB for a host of many thousand cgroups that all change.
    #[config(default = 1)]
    pub compaction_tasks_max: u32,
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
        within("hosts_max", self.hosts_max, 1, 1_000_000)?;
        within("fanout_hosts_max", self.fanout_hosts_max, 1, 65_536)?;
        // All of them are streams of one connection to each agent, of which HTTP/2 servers allow 200.
        within("subscriptions_max", self.subscriptions_max, 1, 128)?;
        within("history_queries_max", self.history_queries_max, 1, 1000)?;
        within("history_series_max", self.history_series_max, 1, 10_000_000)?;
        within("history_values_max", self.history_values_max, 1000, 1_000_000_000)?;
        within("compaction_tasks_max", self.compaction_tasks_max, 1, 64)?;
        if !trace::is_filter(&self.log) {
            return Err(InvalidValue::new("log", trace::FILTER_ALLOWED));
        }
        if self.database_url.clone().is_some_and(|url| Database::url(url).check().is_err()) {
            return Err(InvalidValue::new("database_url", "postgres://user:password@host:port/database"));
        }
        if self.database_password_file.is_some() && self.database_url.is_none() {
            return Err(InvalidValue::new("database_password_file", "unset without database_url"));
        }
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
