//! Why the private Postgres does not run: one line each, with what is missing and how to mend it.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// The private Postgres cannot be started, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum PrivatePostgresError {
    /// Something in the state directory cannot be made, opened or read.
    #[error("{operation} {}: {source}; state_dir must be a directory that the server may write to", path.display())]
    StateDir {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another live server holds the state directory.
    #[error(
        "another cgfleet-server runs in state directory {}: stop it, or give this one its own state directory",
        state_dir.display()
    )]
    InUse {
        /// The directory.
        state_dir: PathBuf,
    },
    /// Postgres is not installed.
    #[error(
        "no Postgres here (initdb and postgres not found in {searched}): install the package postgresql, \
         set postgres_bin_dir to the directory of its binaries, or set DATABASE_URL"
    )]
    BinariesMissing {
        /// Where was looked.
        searched: String,
    },
    /// A program does not say which version it is.
    #[error("{} --version says {answer:?}, which names no Postgres version", program.display())]
    VersionUnreadable {
        /// The program.
        program: PathBuf,
        /// What it says.
        answer: String,
    },
    /// The data is of a version that is not installed.
    #[error(
        "data directory {} is of Postgres {found}, and the one in {} is Postgres {installed}: install the package \
         postgresql-{found}; to go on with Postgres {installed}, write a backup with both installed, move the \
         directory away and restore the backup (docs/postgres.md)",
        data_dir.display(),
        bin_dir.display()
    )]
    OtherMajor {
        /// The data directory.
        data_dir: PathBuf,
        /// The major version that it is of.
        found: String,
        /// The major version of the binaries.
        installed: String,
        /// Where they are.
        bin_dir: PathBuf,
    },
    /// Something else is where the data should be.
    #[error("{} is no Postgres data directory (it has no PG_VERSION): move it away", data_dir.display())]
    NotDataDirectory {
        /// What is there.
        data_dir: PathBuf,
    },
    /// There is no data yet.
    #[error("nothing to back up: there is no data directory {}", data_dir.display())]
    NothingToBackUp {
        /// Where it would be.
        data_dir: PathBuf,
    },
    /// There is data already.
    #[error("data directory {} exists: move it away, a backup is restored into a new one", data_dir.display())]
    NotEmpty {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A client program is not installed.
    #[error("{} not found: install the package postgresql-client of the same major version", program.display())]
    ClientMissing {
        /// The program.
        program: PathBuf,
    },
    /// The file of a backup cannot be written.
    #[error("write the backup: {source}")]
    BackupFile {
        /// Why.
        source: io::Error,
    },
    /// The kernel bounds the path of a socket.
    #[error(
        "socket path {} has {bytes} bytes, more than the {limit} that a socket may have: configure a shorter \
         state directory",
        socket.display()
    )]
    SocketPathTooLong {
        /// The path.
        socket: PathBuf,
        /// Its length.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// A program could not be run.
    #[error("run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Making the data directory failed.
    #[error("{program} failed ({status}): {log}")]
    Setup {
        /// Which program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// Postgres ended although nobody stopped it.
    #[error("Postgres ended by itself ({status}); its log ends: {log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It does not stay up.
    #[error("Postgres was started {times} times within {within:?} and ended each time; at last: {last}")]
    GivenUp {
        /// How often.
        times: usize,
        /// In which time.
        within: Duration,
        /// How it ended the last time.
        last: String,
    },
    /// Something takes too long.
    #[error("{operation} took longer than {limit:?}; the Postgres log ends: {log}")]
    Timeout {
        /// What.
        operation: &'static str,
        /// How long it might have taken.
        limit: Duration,
        /// The end of the log.
        log: String,
    },
}
