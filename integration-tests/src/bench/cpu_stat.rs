//! Readers of cpu.stat files, as frugal as each way of reading allows: the baselines of a walk.
//!
//! Each parses usage_usec alone, and none but the readdir walk needs a path made while it reads.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};

/// More than a cpu.stat has.
const FILE_BYTES_MAX: usize = 4096;
/// Descriptors for everything but kept files.
const OTHER_FDS: u64 = 1024;

/// What a reader found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) cgroups: u32,
    /// Summed over the cgroups, so that no reader gets away without parsing.
    pub(super) usage_usec: u64,
}

impl Found {
    fn add(&mut self, text: &[u8]) -> Result<()> {
        self.cgroups += 1;
        self.usage_usec += parse_usage_usec(text).context("a cpu.stat does not begin with usage_usec")?;
        Ok(())
    }
}

/// The cpu.stat files of a tree.
pub(super) struct CpuStatFiles {
    top: PathBuf,
    paths: Vec<PathBuf>,
    kept: Vec<File>,
}

impl CpuStatFiles {
    /// The files of these cgroups, which are `top` and all below it. Keeps each open; where
    /// RLIMIT_NOFILE forbids that, as many as it allows, evenly spread.
    pub(super) fn open(top: PathBuf, directories: &[PathBuf]) -> Result<Self> {
        let paths: Vec<PathBuf> = directories.iter().map(|directory| directory.join("cpu.stat")).collect();
        let count = paths.len();
        let open_files_max = raise_open_files_max(count as u64 + OTHER_FDS)?;
        let kept_count = count.min(usize::try_from(open_files_max.saturating_sub(OTHER_FDS))?);
        let open = |path: &PathBuf| File::open(path).with_context(|| format!("open {}", path.display()));
        let kept = (0..kept_count).map(|number| open(&paths[number * count / kept_count]));
        let kept = kept.collect::<Result<_>>()?;
        Ok(Self { top, paths, kept })
    }

    /// How many files are kept open.
    pub(super) fn kept_count(&self) -> Result<u32> {
        Ok(u32::try_from(self.kept.len())?)
    }

    /// One system call a cgroup, a descriptor kept for each.
    pub(super) fn pread_kept(&self) -> Result<Found> {
        let (mut found, mut buffer) = (Found::default(), [0; FILE_BYTES_MAX]);
        for file in &self.kept {
            let length = file.read_at(&mut buffer, 0)?;
            found.add(&buffer[..length])?;
        }
        Ok(found)
    }

    /// Three system calls a cgroup, its path known.
    pub(super) fn open_read_close(&self) -> Result<Found> {
        let mut found = Found::default();
        self.paths.iter().try_for_each(|path| read_one(path, &mut found))?;
        Ok(found)
    }

    /// Knows nothing but where the tree begins.
    pub(super) fn readdir_walk(&self) -> Result<Found> {
        let mut found = Found::default();
        read_below(&self.top, &mut found)?;
        Ok(found)
    }
}

fn read_below(directory: &Path, found: &mut Found) -> Result<()> {
    read_one(&directory.join("cpu.stat"), found)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            read_below(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn read_one(path: &Path, found: &mut Found) -> Result<()> {
    let mut buffer = [0; FILE_BYTES_MAX];
    let length = File::open(path)?.read(&mut buffer)?;
    found.add(&buffer[..length])
}

/// cpu.stat begins with usage_usec (kernel/cgroup/rstat.c, cgroup_base_stat_cputime_show).
fn parse_usage_usec(text: &[u8]) -> Option<u64> {
    let value = text.strip_prefix(b"usage_usec ")?;
    let digits = value.split(|byte| *byte == b'\n').next()?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Raises the soft limit to what is needed, the hard one too where that is allowed (CAP_SYS_RESOURCE);
/// gives the soft limit that came of it.
fn raise_open_files_max(needed: u64) -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(soft);
    }
    let raise = |soft, hard| setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map(|()| soft);
    let raised = match raise(needed, hard.max(needed)) {
        Err(Errno::EPERM) => raise(hard, hard),
        raised => raised,
    };
    raised.with_context(|| format!("raise RLIMIT_NOFILE from {soft}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_begins_with_usage_usec_is_read() {
        let check = |text: &str, expect| assert_eq!(parse_usage_usec(text.as_bytes()), expect, "{text:?}");
        check("usage_usec 30\nuser_usec 10\n", Some(30));
        check("usage_usec 0", Some(0));
        check("user_usec 10\nusage_usec 30\n", None);
        check("usage_usec \n", None);
        check("", None);
    }
}
