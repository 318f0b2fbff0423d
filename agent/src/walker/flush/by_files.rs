//! Flushes by reading files: where no program may flush, reading what is kept by rstat makes the kernel do it.

use std::{fs, io, path::Path};

use super::{FlushMethod, FlushedSubsystem, Subsystem};

/// Has the kernel flush these subsystems of a cgroup, each by its file. Those that the cgroup has not are
/// left out. `because` says why it has to be by files.
pub(in crate::walker) fn flush_by_files(
    directory: &Path,
    is_root: bool,
    subsystems: &[Subsystem],
    because: &str,
) -> Vec<FlushedSubsystem> {
    let flushed = subsystems.iter().filter_map(|subsystem| {
        let (file, method) = (subsystem.file(), subsystem.method_by_file());
        let (read, whose) = if is_root && !subsystem.is_flushed_by_the_roots_file() {
            (read_of_children(directory, file), " of the root's children")
        } else {
            (read(&directory.join(file)), "")
        };
        let (method, reason) = match read {
            Ok(true) => (method, format!("{file}{whose} was read: {because}")),
            Ok(false) => return None,
            Err(error) => (FlushMethod::NotFlushed, format!("{file}{whose} cannot be read: {error}")),
        };
        Some(FlushedSubsystem { subsystem: *subsystem, method, reason })
    });
    flushed.collect()
}

/// Whether the cgroup has the file by which a subsystem would be flushed.
pub(in crate::walker) fn has_subsystem(directory: &Path, subsystem: Subsystem) -> bool {
    directory.join(subsystem.file()).exists()
}

/// Reads a file; false if there is none, or its cgroup is gone.
fn read(file: &Path) -> io::Result<bool> {
    match fs::read(file) {
        Ok(_) => Ok(true),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads this file of each child; false if none has it.
fn read_of_children(directory: &Path, file: &str) -> io::Result<bool> {
    let mut is_there = false;
    for child in fs::read_dir(directory)? {
        let child = child?;
        if child.file_type()?.is_dir() {
            is_there |= read(&child.path().join(file))?;
        }
    }
    Ok(is_there)
}

fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a directory with these files (`!`: one that cannot be read).
    fn check(files: &[&str], is_root: bool, expect: &[(&str, FlushMethod)]) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file.trim_start_matches('!'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if file.starts_with('!') {
                // A directory cannot be read, by root neither.
                fs::create_dir(path).unwrap();
            } else {
                fs::write(path, "").unwrap();
            }
        }
        let flushed = flush_by_files(directory.path(), is_root, &Subsystem::ALL, "it has to be");
        let found: Vec<_> =
            flushed.iter().map(|flushed| (flushed.subsystem.name(), flushed.method)).collect();
        assert_eq!(found, expect, "{files:?}");
        assert!(
            flushed.iter().all(|flushed| flushed.reason.contains(flushed.subsystem.file())),
            "{flushed:?}"
        );
    }

    #[test]
    fn a_subsystem_is_flushed_by_its_file_and_one_without_is_not_there() {
        use FlushMethod::{File, FilePastThreshold, NotFlushed};
        check(&[], false, &[]);
        check(&["cpu.stat"], false, &[("cpu", File)]);
        check(
            &["cpu.stat", "memory.stat", "io.stat"],
            false,
            &[("cpu", File), ("memory", FilePastThreshold), ("io", File)],
        );
        check(&["cpu.stat", "!memory.stat"], false, &[("cpu", File), ("memory", NotFlushed)]);
        check(&["a/cpu.stat", "a/io.stat"], false, &[]);
    }

    #[test]
    fn the_roots_own_files_flush_memory_alone() {
        use FlushMethod::{File, FilePastThreshold, NotFlushed};
        check(&["cpu.stat", "memory.stat", "io.stat"], true, &[("memory", FilePastThreshold)]);
        check(&["a/cpu.stat", "b/io.stat", "b/memory.stat"], true, &[("cpu", File), ("io", File)]);
        check(&["a/cpu.stat", "!b/cpu.stat"], true, &[("cpu", NotFlushed)]);
    }
}
