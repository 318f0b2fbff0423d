//! Loads the walk's programs and maps.

use std::{io, time::Duration};

use aya::{
    Btf, Ebpf,
    maps::Map,
    programs::{Iter, ProgramFd},
};
use cgfleet_ebpf::abi::{cg_details, cg_io_device, cg_memory_stat, cg_name, cg_record, cg_walk};

use super::{LoadError, Loader, mapped::MappedArray};

/// How large the maps are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most records of one slice.
    pub records_max: u32,
    /// The most cgroups that one session of the locked engine visits on its way downward.
    pub locked_visits_max: u32,
    /// The most names of one slice.
    pub names_max: u32,
    /// The longest that an unlocked walk keeps its CPU without a point to reschedule.
    pub slice_max: Duration,
}

/// The loaded programs, and their maps as memory.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) flush_locked: ProgramFd,
    /// `None` where the kernel does not know references to cgroups (6.1).
    pub(super) flush_unlocked: Option<UnlockedFlush>,
    pub(super) walk_locked: ProgramFd,
    pub(super) walk_unlocked: ProgramFd,
    pub(super) walk: MappedArray<cg_walk>,
    pub(super) records: MappedArray<cg_record>,
    /// At the places of their records, as are the next.
    pub(super) details: MappedArray<cg_details>,
    pub(super) memory_stats: MappedArray<cg_memory_stat>,
    pub(super) io_devices: MappedArray<cg_io_device>,
    pub(super) names: MappedArray<cg_name>,
    /// Keeps the programs loaded.
    _object: Ebpf,
}

impl Programs {
    pub(super) fn load(loader: &mut Loader<'_>, bounds: Bounds) -> Result<Self, LoadError> {
        loader
            .aya
            .map_max_entries("records", bounds.records_max)
            .map_max_entries("details", bounds.records_max)
            .map_max_entries("memory_stats", bounds.records_max)
            .map_max_entries("io_devices", bounds.records_max)
            .map_max_entries("names", bounds.names_max);
        let mut object = loader.load("the walk's maps", cgfleet_ebpf::WALK_OBJECT)?;
        let btf = loader.btf;
        // The typed one is faster; it needs a kernel that can be told what an address points to.
        let walk_unlocked = if loader.has_kfunc("bpf_rdonly_cast") { "walk_unlocked" } else { "walk_probed" };
        Ok(Self {
            flush_locked: load_iter(&mut object, "flush_locked", btf)?,
            flush_unlocked: UnlockedFlush::load(loader).or_else(do_without)?,
            walk_locked: load_iter(&mut object, "walk_locked", btf)?,
            walk_unlocked: load_iter(&mut object, walk_unlocked, btf)?,
            walk: mapped(&mut object, "walk")?,
            records: mapped(&mut object, "records")?,
            details: mapped(&mut object, "details")?,
            memory_stats: mapped(&mut object, "memory_stats")?,
            io_devices: mapped(&mut object, "io_devices")?,
            names: mapped(&mut object, "names")?,
            _object: object,
        })
    }
}

/// The flush without cgroup_mutex, with a control block of its own.
#[derive(Debug)]
pub(super) struct UnlockedFlush {
    pub(super) program: ProgramFd,
    pub(super) walk: MappedArray<cg_walk>,
    _object: Ebpf,
}

impl UnlockedFlush {
    fn load(loader: &mut Loader<'_>) -> Result<Option<Self>, LoadError> {
        if !loader.has_kfunc("bpf_cgroup_acquire") {
            return Ok(None);
        }
        let mut object = loader.load("the flush's maps", cgfleet_ebpf::FLUSH_UNLOCKED_OBJECT)?;
        Ok(Some(Self {
            program: load_iter(&mut object, "flush_unlocked", loader.btf)?,
            walk: mapped(&mut object, "walk")?,
            _object: object,
        }))
    }
}

/// What a kernel refuses and there is another way for is said and done without.
fn do_without(error: LoadError) -> Result<Option<UnlockedFlush>, LoadError> {
    match error {
        LoadError::Refused { what, cause } => {
            tracing::warn!(what, cause, "this kernel flushes under cgroup_mutex");
            Ok(None)
        }
        error => Err(error),
    }
}

pub(super) fn load_iter(object: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<ProgramFd, LoadError> {
    let program = object.program_mut(name).ok_or_else(|| missing(name))?;
    let iter: &mut Iter = program.try_into().map_err(|error| refused(name, &error))?;
    iter.load("cgroup", btf).map_err(|error| refused(name, &error))?;
    let fd = iter.fd().map_err(|error| refused(name, &error))?;
    fd.try_clone().map_err(|error| refused(name, &error))
}

pub(super) fn mapped<T: super::mapped::Shared>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<MappedArray<T>, LoadError> {
    let Map::Array(data) = take_map(object, name)? else { return Err(missing(name)) };
    MappedArray::new(&data).map_err(|source| LoadError::Map { map: name, source })
}

fn take_map(object: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    object.take_map(name).ok_or_else(|| missing(name))
}

pub(super) fn missing(name: &str) -> LoadError {
    LoadError::Refused { what: name.to_owned(), cause: "the BPF object has no such part".to_owned() }
}

/// A refusal in one line; permission is told apart because its mending is known.
pub(super) fn refused(what: &str, error: &(dyn std::error::Error + 'static)) -> LoadError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            // The verifier's own refusals are EACCES (kernel/bpf/verifier.c).
            .is_some_and(|error| error.raw_os_error() == Some(libc::EPERM))
        {
            return LoadError::NotPermitted;
        }
        cause = error.source();
    }
    let cause = chain(error);
    tracing::debug!(what, cause, "refused");
    LoadError::Refused { what: what.to_owned(), cause: without_log(&cause) }
}

/// A verifier's log is as long as the program; why it ended is in the lines before its statistics.
fn without_log(cause: &str) -> String {
    let Some((before, log)) = cause.split_once(" Verifier output: ") else { return cause.to_owned() };
    let is_reason = |line: &&str| {
        ![":", "verification time", "stack depth", "processed"].iter().any(|it| line.starts_with(it))
    };
    let reason = log.lines().rev().map(str::trim).filter(|line| !line.is_empty()).find(is_reason);
    format!("{before} {}", reason.unwrap_or_default())
}

/// An error and all of its causes.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
