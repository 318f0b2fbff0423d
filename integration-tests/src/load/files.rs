//! Loads of the page cache, of tmpfs and of the disk.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use memmap2::MmapMut;
use rustix::fs::{Advice, OFlags, fadvise};

use super::{MIB, Place, Round};

/// A file of this load's own.
fn path_in(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}-{}", std::process::id()))
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    opened.with_context(|| format!("make {}", path.display()))
}

fn rotating(directory: PathBuf, size: usize, files_max: usize) -> Round {
    let block = vec![7; size];
    let mut files = VecDeque::new();
    let mut count = 0_u64;
    Box::new(move || {
        count += 1;
        let path = path_in(&directory, &format!("rotating-{count}"));
        fs::write(&path, &block)?;
        files.push_back(path);
        if files.len() > files_max {
            let oldest = files.pop_front();
            oldest.map_or(Ok(()), fs::remove_file)?;
        }
        Ok(())
    })
}

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn tmpfs(place: &Place) -> Result<Round> {
    Ok(rotating(place.tmpfs.clone(), 2 * MIB, 2))
}

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn huge_tmpfs(place: &Place) -> Result<Round> {
    Ok(rotating(place.huge_tmpfs.clone(), 4 * MIB, 1))
}

pub(super) fn write(place: &Place) -> Result<Round> {
    let file = open(&path_in(&place.disk, "written"))?;
    let block = vec![7; 3 * MIB];
    Ok(Box::new(move || {
        file.write_all_at(&block, 0)?;
        // Begins to write back, and does not wait for it.
        fadvise(&file, 0, std::num::NonZero::new(2 * MIB as u64), Advice::DontNeed)?;
        file.write_all_at(&block[..MIB], 4 * MIB as u64)?;
        // Twice used is active.
        file.read_exact_at(&mut vec![0; MIB], 4 * MIB as u64)?;
        file.read_exact_at(&mut vec![0; MIB], 4 * MIB as u64)?;
        Ok(())
    }))
}

/// Any program of some size that is found on every host.
fn copy_of_perl(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = path_in(directory, name);
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let perl = std::env::split_paths(&directories).map(|directory| directory.join("perl"));
    let perl = perl.into_iter().find(|perl| perl.exists()).context("find perl")?;
    // Page cache is of the cgroup that filled it, so this is not copied in the kernel from cache to cache.
    fs::write(&path, fs::read(perl)?)?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    File::open(&path)?.sync_all()?;
    Ok(path)
}

pub(super) fn refault(place: &Place) -> Result<Round> {
    const SIZE: usize = 12 * MIB;
    const STEP: usize = 3 * MIB;
    let file = open(&path_in(&place.disk, "read"))?;
    for at in (0..SIZE).step_by(STEP) {
        file.write_all_at(&vec![7; STEP], at as u64)?;
        file.sync_data()?;
    }
    let program = copy_of_perl(&place.disk, "evicted")?;
    let mut at = 0;
    Ok(Box::new(move || {
        file.read_exact_at(&mut vec![0; STEP], at as u64)?;
        at = (at + STEP) % SIZE;
        if at == 0 {
            ensure!(Command::new(&program).args(["-e", "1"]).status()?.success(), "perl failed");
        }
        Ok(())
    }))
}

/// Programs that run until this is dropped.
struct Programs(Vec<Child>);

impl Drop for Programs {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

pub(super) fn mapped(place: &Place) -> Result<Round> {
    let mut programs = Programs(Vec::new());
    for number in 0..3 {
        let program = copy_of_perl(&place.disk, &format!("mapped-{number}"))?;
        // It ends with its standard input.
        let mut command = Command::new(program);
        programs.0.push(command.args(["-e", "<STDIN>"]).stdin(Stdio::piped()).spawn()?);
    }
    Ok(Box::new(move || {
        for program in &mut programs.0 {
            ensure!(program.try_wait()?.is_none(), "a program ended");
        }
        Ok(())
    }))
}

pub(super) fn direct(place: &Place) -> Result<Round> {
    const SIZE: usize = MIB / 4;
    let path = path_in(&place.disk, "direct");
    open(&path)?.set_len(4 * MIB as u64)?;
    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    // Whole pages, as direct I/O has it.
    let mut block = MmapMut::map_anon(SIZE)?;
    let mut at = 0;
    Ok(Box::new(move || {
        at = (at + SIZE) % (4 * MIB);
        file.write_all_at(&block, at as u64)?;
        file.read_exact_at(&mut block, at as u64)?;
        Ok(())
    }))
}

pub(super) fn active(place: &Place) -> Result<Round> {
    let file = open(&path_in(&place.disk, "active"))?;
    let mut block = vec![7; 4 * MIB];
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    let reclaim = place.cgroups.first().context("a load of a cgroup")?.join("memory.reclaim");
    Ok(Box::new(move || {
        for _ in 0..3 {
            file.read_exact_at(&mut block, 0)?;
        }
        if reclaim.exists() {
            // That less than so much could be reclaimed is no matter.
            let _ = fs::write(&reclaim, "3M");
        }
        Ok(())
    }))
}

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn discard(place: &Place) -> Result<Round> {
    let disk = place.disk.clone();
    let path = path_in(&disk, "discarded");
    Ok(Box::new(move || {
        let file = open(&path)?;
        file.write_all_at(&vec![7; MIB], 0)?;
        file.sync_all()?;
        fs::remove_file(&path)?;
        // Not every disk can.
        Command::new("fstrim").arg(&disk).stderr(Stdio::null()).status().context("run fstrim")?;
        Ok(())
    }))
}

pub(super) fn inodes(place: &Place) -> Result<Round> {
    let directory = path_in(&place.tmpfs, "inodes");
    fs::create_dir(&directory)?;
    let mut count = 0_u32;
    Ok(Box::new(move || {
        for _ in 0..100 {
            count += 1;
            File::create(directory.join(format!("{}", count % 2000)))?;
        }
        Ok(())
    }))
}
