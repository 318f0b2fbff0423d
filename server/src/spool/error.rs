//! Why ticks cannot be spooled, or the spool not be read.

use std::{fmt, io, path::PathBuf};

use super::space::SpaceError;

/// The spool cannot be used, now or at all.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It holds as much as it may.
    #[error("the spool is full: it may have {bytes_max} bytes (spool_bytes_max)")]
    Full {
        /// The bound.
        bytes_max: u64,
    },
    /// The file system is full.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A tick has more bytes than a record may.
    #[error("a tick has more bytes than the spool's records may, which is 4 GiB")]
    TooLong,
    /// A file operation failed.
    #[error("spool: {operation} {}: {source}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another live server has it.
    #[error("another cgfleet-server has the spool {}: stop it, or give this one its own state directory", dir.display())]
    InUse {
        /// Its directory.
        dir: PathBuf,
    },
    /// A newer server wrote it.
    #[error(
        "spool segment {} is of version {version}: a newer cgfleet-server made it; run that version or a newer one",
        path.display()
    )]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The task that was at it died.
    #[error("the spool is broken: what worked on it ended early")]
    Broken,
}

impl SpoolError {
    /// Wraps what an operation on a file returned.
    pub(super) fn during(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

/// Bytes of a segment that hold no record that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub path: PathBuf,
    /// Where they begin.
    pub at: u64,
    /// How many.
    pub bytes: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, at, bytes, what } = self;
        write!(f, "spool segment {} is damaged: {bytes} bytes at byte {at}: {what}", path.display())
    }
}
