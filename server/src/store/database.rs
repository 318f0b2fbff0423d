//! Which database: a URL that somebody gave, or the server's private Postgres.

use std::{fmt, path::PathBuf, str::FromStr as _};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::StoreError;

/// A Postgres database to connect to. Its text names the place and never the password.
#[derive(Clone)]
pub enum Database {
    /// A `postgres://` URL.
    Url {
        /// The URL.
        url: String,
        /// The password, if it is not in the URL.
        password: Option<String>,
    },
    /// A Postgres on this host that trusts whoever can reach its socket.
    Socket {
        /// The directory that holds the socket.
        socket_dir: PathBuf,
        /// The port that is part of the socket's name.
        port: u16,
        /// The role to connect as.
        role: String,
        /// The database's name.
        name: String,
    },
}

impl Database {
    /// The database of a `postgres://` URL.
    pub fn url(url: impl Into<String>) -> Self {
        Self::Url { url: url.into(), password: None }
    }

    /// Refuses a URL that no connection can be made with.
    pub fn check(&self) -> Result<(), StoreError> {
        self.options().map(drop)
    }

    pub(super) fn options(&self) -> Result<PgConnectOptions, StoreError> {
        let options = match self {
            Self::Url { url, password } => {
                // sqlx would take any scheme, and half a URL as the name of a database.
                if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
                    return Err(StoreError::InvalidUrl {
                        reason: "it does not begin with postgres://".to_owned(),
                    });
                }
                let options = PgConnectOptions::from_str(url)
                    .map_err(|source| StoreError::InvalidUrl { reason: source.to_string() })?;
                match password {
                    Some(password) => options.password(password),
                    None => options,
                }
            }
            Self::Socket { socket_dir, port, role, name } => PgConnectOptions::new_without_pgpass()
                .socket(socket_dir)
                .port(*port)
                .username(role)
                .database(name)
                .ssl_mode(PgSslMode::Disable),
        };
        // pgbouncer refuses extra_float_digits, which binary values do not need.
        Ok(options.application_name("cgfleet-server").extra_float_digits(None))
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { .. } => match self.options() {
                Ok(options) => {
                    let name = options.get_database().unwrap_or_else(|| options.get_username());
                    match options.get_socket() {
                        Some(socket) => write!(f, "{name} at {}", socket.display()),
                        None => write!(f, "{name} at {}:{}", options.get_host(), options.get_port()),
                    }
                }
                Err(_) => f.write_str("an invalid URL"),
            },
            Self::Socket { socket_dir, name, .. } => write!(f, "{name} at {}", socket_dir.display()),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let check = |url: &str, expect: &str| {
            let database = Database::Url { url: url.to_owned(), password: Some("secret".to_owned()) };
            assert_eq!(database.to_string(), expect);
            let error = database.options().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!format!("{database:?}{error}").contains("secret"), "{database:?} {error}");
        };
        check("postgres://me:secret@db.example:6432/fleet", "fleet at db.example:6432");
        check("postgres://me:secret@db.example", "me at db.example:5432");
        check("postgres://me:secret@db.example:port/fleet", "an invalid URL");
        check("postgres:/me:secret", "an invalid URL");
        check("secret", "an invalid URL");
    }
}
