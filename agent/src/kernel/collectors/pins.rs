//! Where collectors' maps outlive the agent: pinned in a directory of a BPF filesystem.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

/// Maps of another layout are swept, not read. Counts the changes of what they hold: `own` and `total` of
/// collector.h; `cg_key`, `cg_collector_state` and `cg_latency` of cgfleet.h.
const LAYOUT: &str = "collectors-1";

/// Maps cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The directory is not to be had.
    #[error("bpffs_dir: {path}: {source}")]
    Directory {
        /// It, or what is above it.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is not in a BPF filesystem.
    #[error("bpffs_dir: {path} is in no BPF filesystem; give a directory in one (/sys/fs/bpf/…)")]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// What is pinned there cannot be trusted.
    #[error("bpffs_dir: {path} is not a directory that only the agent's starter can write to; remove it")]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// Another agent has it.
    #[error("bpffs_dir: {path} is used by another agent; give each one of its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// The directory, locked while this lives.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    _lock: File,
}

impl Pins {
    /// Makes and locks `directory`. `/sys/fs/bpf` is mounted if nobody has.
    pub fn new(directory: &Path) -> Result<Self, PinError> {
        let at = |source| PinError::Directory { path: directory.to_owned(), source };
        mount_bpffs(directory).map_err(at)?;
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(at)?;
        if statfs(directory).map_err(io::Error::from).map_err(at)?.filesystem_type() != BPF_FS_MAGIC {
            return Err(PinError::NotBpffs { path: directory.to_owned() });
        }
        let found = fs::symlink_metadata(directory).map_err(at)?;
        if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(PinError::NotOurs { path: directory.to_owned() });
        }
        let lock = File::open(directory).map_err(at)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(PinError::InUse { path: directory.to_owned() }),
            Err(TryLockError::Error(source)) => Err(at(source)),
        }
    }

    /// Where a collector's maps are that are folded in this way: those of another way are no good.
    pub(super) fn of(&self, collector: &str, folding: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(LAYOUT).join(format!("{collector}-{folding}"));
        make_private(&path)?;
        Ok(path)
    }

    /// Removes what earlier agents left of other layouts, and of other ways to fold. Of collectors that
    /// `failed` all is kept: they may not the next time.
    pub(super) fn sweep(&self, wanted: &[PathBuf], failed: &[&str]) {
        let is_of_failed = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            failed.iter().any(|failed| name.rsplit_once('-').is_some_and(|(of, _)| of == *failed))
        };
        let unwanted = |path: &PathBuf| !wanted.contains(path) && !is_of_failed(path);
        let layouts = children(&self.directory).into_iter().filter(|path| is_layout(path));
        for layout in layouts {
            for collector in children(&layout).into_iter().filter(unwanted) {
                remove(&collector);
            }
            // Of this one, if nothing is in it.
            drop(fs::remove_dir(&layout));
        }
    }
}

fn is_layout(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix("collectors-"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Makes a directory that is this user's alone, with those above it.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a collector's directory.
pub(super) fn remove(collector: &Path) {
    for pin in children(collector) {
        drop(fs::remove_file(pin));
    }
    if let Err(error) = fs::remove_dir(collector) {
        tracing::warn!(path = %collector.display(), %error, "what an earlier agent pinned stays");
    }
}

/// As systemd and bpftool do.
fn mount_bpffs(directory: &Path) -> io::Result<()> {
    let bpffs = Path::new("/sys/fs/bpf");
    if !directory.starts_with(bpffs) || statfs(bpffs)?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    tracing::info!("mounting the BPF filesystem at /sys/fs/bpf");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("bpf"), bpffs, Some("bpf"), flags, Some("mode=700"))?)
}
