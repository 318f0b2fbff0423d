//! The directory of the views' files: made by root, used by the agent's user.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
};

use crate::kernel::{PinnedView, ViewError};

/// Its name in bpffs_dir.
const NAME: &str = "views";

/// Files made in it get its group: the agent, once it is not root, cannot give them to one it is not in
/// (kernel/bpf/inode.c, bpf_get_inode; fs/inode.c, inode_init_owner).
const MODE: u32 = 0o2755;

/// Where views are pinned.
#[derive(Debug)]
pub(crate) struct ViewDirectory {
    path: PathBuf,
    /// Whoever is not root may not come here by its path: /sys/fs/bpf is closed.
    opened: File,
    /// Of each file.
    mode: u32,
}

impl ViewDirectory {
    /// Makes it anew, without what an earlier agent left there.
    pub(crate) fn make(
        bpffs_dir: &Path,
        (owner, group): (Option<u32>, Option<u32>),
        mode: u32,
    ) -> io::Result<Self> {
        let path = bpffs_dir.join(NAME);
        // An earlier agent's user had a hand in it: this follows no link.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        chown(&path, owner, group)?;
        fs::set_permissions(&path, Permissions::from_mode(MODE))?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        Ok(Self { path, opened, mode })
    }

    /// The path of a view, for others.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Gives a view its file.
    pub(crate) fn pin(&self, view: &PinnedView, name: &str) -> Result<(), ViewError> {
        let file = self.by_descriptor(name);
        view.pin(&file)?;
        fs::set_permissions(&file, Permissions::from_mode(self.mode)).map_err(|error| {
            self.unpin(name);
            ViewError::Pin(error)
        })
    }

    /// Removes a view's file.
    pub(crate) fn unpin(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.by_descriptor(name)) {
            tracing::warn!(view = name, %error, "the file of the view stays");
        }
    }

    fn by_descriptor(&self, name: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.opened.as_raw_fd().to_string()).join(name)
    }
}
