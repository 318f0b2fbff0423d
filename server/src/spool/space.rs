//! How much room the state directory's file system has left.

use std::{io, path::PathBuf};

/// A directory whose file system is not to be filled up.
#[derive(Debug, Clone)]
pub struct StateSpace {
    dir: PathBuf,
    free_bytes_min: u64,
}

/// There is too little room, or it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// Too little.
    #[error(
        "the file system of state directory {} is full: {free_bytes} bytes are free, and {free_bytes_min} stay free \
         (state_free_bytes_min); make room",
        dir.display()
    )]
    Low {
        /// The directory.
        dir: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What stays free.
        free_bytes_min: u64,
    },
    /// It cannot be told.
    #[error("look how much room state directory {} has: {source}", dir.display())]
    Look {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl StateSpace {
    /// The file system of `dir`, of which this much stays free.
    pub fn new(dir: PathBuf, free_bytes_min: u64) -> Self {
        Self { dir, free_bytes_min }
    }

    /// Whether something may be written.
    pub fn check(&self) -> Result<(), SpaceError> {
        let found = rustix::fs::statvfs(&self.dir)
            .map_err(|error| SpaceError::Look { dir: self.dir.clone(), source: error.into() })?;
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        if free_bytes >= self.free_bytes_min {
            return Ok(());
        }
        Err(SpaceError::Low { dir: self.dir.clone(), free_bytes, free_bytes_min: self.free_bytes_min })
    }
}
