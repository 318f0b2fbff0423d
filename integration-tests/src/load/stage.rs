//! Filesystems for the loads: of a disk, and tmpfs.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::Place;
use crate::daemon::state_dir;

/// Directories that are removed on drop, and unmounted before.
#[derive(Debug)]
pub struct Stage {
    mounts: Vec<PathBuf>,
    directory: TempDir,
    /// Whether the disk is one of the tests' own, and not a directory of the machine's.
    pub has_disk: bool,
}

impl Stage {
    /// Makes and mounts them.
    pub fn make() -> Result<Self> {
        let mut stage = Self { mounts: Vec::new(), directory: state_dir()?, has_disk: false };
        let disk = stage.subdirectory("disk")?;
        // A guest has a disk for tests to write to; any other machine has one below /tmp.
        if fs::read_to_string("/sys/block/vda/serial").is_ok_and(|serial| serial.trim() == "data") {
            run(Command::new("mke2fs").arg("/dev/vda").stdout(Stdio::null()))?;
            stage.mount(&disk, &["-t", "ext2", "/dev/vda"])?;
            stage.has_disk = true;
        }
        for (name, options) in [("tmpfs", "size=96m"), ("huge-tmpfs", "size=64m,huge=always")] {
            let point = stage.subdirectory(name)?;
            stage.mount(&point, &["-t", "tmpfs", "-o", options, "none"])?;
        }
        Ok(stage)
    }

    fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    fn mount(&mut self, point: &Path, arguments: &[&str]) -> Result<()> {
        run(Command::new("mount").args(arguments).arg(point))?;
        self.mounts.push(point.to_owned());
        Ok(())
    }

    /// The place of a load in these cgroups.
    pub fn place(&self, cgroups: Vec<PathBuf>) -> Place {
        let below = |name| self.directory.path().join(name);
        Place { disk: below("disk"), tmpfs: below("tmpfs"), huge_tmpfs: below("huge-tmpfs"), cgroups }
    }

    /// The disk's device as cgroup files call it: `MAJOR:MINOR`.
    pub fn device(&self) -> Result<String> {
        let device = fs::metadata(self.directory.path().join("disk"))?.dev();
        Ok(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for point in &self.mounts {
            if let Err(error) = run(Command::new("umount").arg(point)) {
                eprintln!("{} stays mounted: {error:#}", point.display());
            }
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
