//! Who this agent is: a host id that stays with the host, the boot, and this process.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Stays with the host; kept in the state directory.
    pub host_id: Uuid,
    /// The kernel's id of this boot.
    pub boot_id: Uuid,
    /// This process (uuid version 7).
    pub agent_epoch: Uuid,
    /// The host's name.
    pub hostname: String,
    /// uname -r.
    pub kernel_release: String,
}

/// Keeps another agent from using the same state directory while it lives.
#[derive(Debug)]
pub struct StateLock(#[allow(dead_code, reason = "held, not read")] File);

impl Identity {
    /// Reads the host's id from `state_dir`, or makes one there, and locks the directory.
    pub fn load(state_dir: &Path, hostname: Option<String>) -> Result<(Self, StateLock), IdentityError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { path, source }
        };
        let lock = lock(state_dir)?;
        let host_id = load_or_make_host_id(&state_dir.join("host-id"))?;
        let boot_id = read_uuid(Path::new("/proc/sys/kernel/random/boot_id"))?;
        let read = |path: &str| fs::read_to_string(path).map_err(at(Path::new(path)));
        let hostname = hostname.map_or_else(|| read("/proc/sys/kernel/hostname"), Ok)?;
        let identity = Self {
            host_id,
            boot_id,
            agent_epoch: Uuid::now_v7(),
            hostname: hostname.trim().to_owned(),
            kernel_release: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        };
        Ok((identity, lock))
    }
}

fn lock(state_dir: &Path) -> Result<StateLock, IdentityError> {
    let path = state_dir.join("lock");
    let file = File::create(&path).map_err(|source| IdentityError::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(StateLock(file)),
        Err(TryLockError::WouldBlock) => Err(IdentityError::InUse { state_dir: state_dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(IdentityError::File { path, source }),
    }
}

fn load_or_make_host_id(path: &Path) -> Result<Uuid, IdentityError> {
    if path.exists() {
        return read_uuid(path);
    }
    let at = |source| IdentityError::File { path: path.to_owned(), source };
    let host_id = Uuid::new_v4();
    // Renamed into place when it is whole and on disk: half an id would be refused for ever.
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished).map_err(at)?;
    writeln!(file, "{host_id}").and_then(|()| file.sync_all()).map_err(at)?;
    fs::rename(&unfinished, path).map_err(at)?;
    Ok(host_id)
}

fn read_uuid(path: &Path) -> Result<Uuid, IdentityError> {
    let text =
        fs::read_to_string(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })?;
    let text = text.trim();
    Uuid::parse_str(text)
        .map_err(|_| IdentityError::NotAUuid { path: path.to_owned(), text: text.to_owned() })
}

/// An agent that cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{}: {source}; state_dir must be a directory that the agent may write to", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {text:?} is not a uuid; restore it, or delete the file to give this host a new identity", path.display())]
    NotAUuid {
        /// Which.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
    /// Another agent lives there.
    #[error("state_dir {} is in use by another agent; stop that one or choose another directory", state_dir.display())]
    InUse {
        /// The directory.
        state_dir: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_id_stays_and_the_epoch_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (first, lock) = Identity::load(dir.path(), None).unwrap();
        let refused = Identity::load(dir.path(), None).unwrap_err();
        assert!(matches!(refused, IdentityError::InUse { .. }), "{refused}");
        drop(lock);
        let (second, _lock) = Identity::load(dir.path(), Some("other".to_owned())).unwrap();
        assert_eq!(first.host_id, second.host_id);
        assert_eq!(first.boot_id, second.boot_id);
        assert_ne!(first.agent_epoch, second.agent_epoch);
        assert_eq!(second.hostname, "other");
    }

    #[test]
    fn a_damaged_host_id_is_not_replaced_silently() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("host-id"), "half").unwrap();
        let refused = Identity::load(dir.path(), None).unwrap_err();
        assert!(refused.to_string().contains(r#""half" is not a uuid"#), "{refused}");
    }
}
