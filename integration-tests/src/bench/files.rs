//! Readers of cgroup files, as frugal as each way of reading allows: the baselines of a walk.
//!
//! Each parses the first number of a file alone, and none but the readdir walk needs a path made while
//! it reads.

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

/// The file of the cpu group. It begins with usage_usec (kernel/cgroup/rstat.c, cgroup_base_stat_cputime_show).
pub(super) const CPU_STAT: &str = "cpu.stat";

/// More than any of the files has: memory.stat has the most.
const FILE_BYTES_MAX: usize = 8192;
/// Descriptors for everything but kept files.
const OTHER_FDS: u64 = 1024;

/// What a reader found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) files: u32,
    /// The sum of their first numbers, so that no reader gets away without parsing.
    pub(super) sum: u64,
}

impl Found {
    fn add(&mut self, text: &[u8]) {
        self.files += 1;
        self.sum = self.sum.wrapping_add(first_number(text).unwrap_or_default());
    }
}

/// Files of the cgroups of a tree.
pub(super) struct CgroupFiles {
    top: PathBuf,
    /// Of each cgroup.
    names: Vec<&'static str>,
    /// One cgroup's behind the other's.
    paths: Vec<PathBuf>,
    kept: Vec<File>,
}

impl CgroupFiles {
    /// These files of these cgroups, which are `top` and all below it, none of them open.
    pub(super) fn of(top: PathBuf, directories: &[PathBuf], names: &[&'static str]) -> Result<Self> {
        let of_one = |directory: &PathBuf| names.iter().map(|name| directory.join(name)).collect::<Vec<_>>();
        let paths: Vec<PathBuf> = directories.iter().flat_map(of_one).collect();
        if let Some(missing) = paths.iter().find(|path| !path.exists()) {
            anyhow::bail!("there is no {}", missing.display());
        }
        Ok(Self { top, names: names.to_vec(), paths, kept: Vec::new() })
    }

    /// Keeps the files of at most `cgroups_max` cgroups open; where RLIMIT_NOFILE forbids that, of as
    /// many as it allows. They are evenly spread.
    pub(super) fn keep_open(&mut self, cgroups_max: usize) -> Result<()> {
        let of_one = self.names.len();
        let count = self.paths.len() / of_one;
        let wanted = count.min(cgroups_max);
        let open_files_max = raise_open_files_max((wanted * of_one) as u64 + OTHER_FDS)?;
        let allowed = usize::try_from(open_files_max.saturating_sub(OTHER_FDS))? / of_one;
        let kept = wanted.min(allowed);
        let cgroups = (0..kept).map(|number| number * count / kept);
        let paths = cgroups.flat_map(|number| &self.paths[number * of_one..(number + 1) * of_one]);
        let open = |path: &PathBuf| File::open(path).with_context(|| format!("open {}", path.display()));
        self.kept = paths.map(open).collect::<Result<_>>()?;
        Ok(())
    }

    /// Of how many cgroups files are kept open.
    pub(super) fn kept_cgroups(&self) -> Result<u32> {
        Ok(u32::try_from(self.kept.len() / self.names.len())?)
    }

    /// One system call a file, a descriptor kept for each.
    pub(super) fn pread_kept(&self) -> Result<Found> {
        let (mut found, mut buffer) = (Found::default(), [0; FILE_BYTES_MAX]);
        for file in &self.kept {
            let length = file.read_at(&mut buffer, 0)?;
            found.add(&buffer[..length]);
        }
        Ok(found)
    }

    /// Three system calls a file, its path known. Reads every `step`th cgroup.
    pub(super) fn open_read_close(&self, step: usize) -> Result<Found> {
        let mut found = Found::default();
        let cgroups = self.paths.chunks(self.names.len()).step_by(step);
        cgroups.flatten().try_for_each(|path| read_one(path, &mut found))?;
        Ok(found)
    }

    /// Knows nothing but where the tree begins.
    pub(super) fn readdir_walk(&self) -> Result<Found> {
        let mut found = Found::default();
        self.read_below(&self.top, &mut found)?;
        Ok(found)
    }

    fn read_below(&self, directory: &Path, found: &mut Found) -> Result<()> {
        self.names.iter().try_for_each(|name| read_one(&directory.join(name), found))?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.read_below(&entry.path(), found)?;
            }
        }
        Ok(())
    }

    /// The first number of each file; a file without one is an error.
    pub(super) fn first_numbers(&self) -> Result<Vec<u64>> {
        let number = |path: &PathBuf| {
            let text = fs::read(path)?;
            first_number(&text).with_context(|| format!("{} has no number", path.display()))
        };
        self.paths.iter().map(number).collect()
    }
}

fn read_one(path: &Path, found: &mut Found) -> Result<()> {
    let mut buffer = [0; FILE_BYTES_MAX];
    let length = File::open(path)?.read(&mut buffer)?;
    found.add(&buffer[..length]);
    Ok(())
}

/// The first run of digits as a number; `None` for `max`, and for an empty file such as an idle io.stat.
fn first_number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(u8::is_ascii_digit)?;
    let digits = text[start..].split(|byte| !byte.is_ascii_digit()).next()?;
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
    fn the_first_number_of_a_file_is_read() {
        let check = |text: &str, expect| assert_eq!(first_number(text.as_bytes()), expect, "{text:?}");
        check("usage_usec 30\nuser_usec 10\n", Some(30));
        check("4096\n", Some(4096));
        check("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", Some(10));
        check("0", Some(0));
        check("max\n", None);
        check("", None);
    }
}
