//! Loads collectors: in the way that this kernel allows, and on the maps that an earlier agent left.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{Btf, Ebpf, maps::MapData, programs::Program};
use cgfleet_ebpf::{COLLECTOR_OBJECTS, abi};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use object::{Object as _, ObjectSection as _, ObjectSymbol};

use super::{
    Attached, Collector, Folding, Pins,
    maps::{CgroupKey, State, Words},
    pins,
};
use crate::kernel::{
    LoadError,
    loader::Loader,
    programs::{missing, refused},
};

/// Where fold is attached.
const FOLD_HOOK: &str = "bpf_rstat_flush";
const FOLD: &str = "fold";
/// The maps that stay.
const MAPS: [&str; 3] = ["own", "totals", "state"];
/// What has to be attached before anything counts, and for as long as there are sums.
const UPKEEP: [&str; 2] = [FOLD, "release"];

/// Loads every collector, or says why one cannot be used here. Each has places for `cgroups_max` cgroups.
/// Without pins, what is counted is lost with the agent. Nothing else can be loaded by the same loader from then on.
pub fn load_all(
    loader: &mut Loader<'_>,
    cgroups_max: u32,
    pins: Option<&Pins>,
) -> Vec<(&'static str, Result<Collector, LoadError>)> {
    let folds = try_fold(loader);
    let mut load = Loading { loader, folds: &folds, cgroups_max, pins, has_pins: false };
    let mut pinned = Vec::new();
    let loaded =
        COLLECTOR_OBJECTS.iter().map(|(name, object)| (*name, load.collector(name, object, &mut pinned)));
    let loaded: Vec<(_, Result<Collector, LoadError>)> = loaded.collect();
    if let Err(error) = warm_up(loaded.iter().filter_map(|(_, collector)| collector.as_ref().ok())) {
        tracing::warn!(%error, "the first events of new cgroups may be counted in their ancestors");
    }
    if let Some(pins) = pins {
        let failed = loaded.iter().filter(|(_, collector)| collector.is_err()).map(|(name, _)| *name);
        pins.sweep(&pinned, &failed.collect::<Vec<&str>>());
    }
    loaded
}

/// Whether this kernel lets a program be attached to the flush of rstat; some refuse every trampoline.
fn try_fold(loader: &mut Loader<'_>) -> Result<(), String> {
    let with_fold = COLLECTOR_OBJECTS.iter().find_map(|(name, object)| {
        let loaded = loader.load(name, object).ok()?;
        loaded.program(FOLD).is_some().then_some(loaded)
    });
    let Some(mut object) = with_fold else { return Err("no collector folds".to_owned()) };
    let program = object.program_mut(FOLD).ok_or_else(|| missing(FOLD).to_string())?;
    load_program(FOLD, program, loader.btf, &[]).map_err(|error| match error {
        // The other programs may be loaded, so it is not the agent that may not.
        LoadError::NotPermitted => format!("this kernel lets no program be attached to {FOLD_HOOK} (EPERM)"),
        error => format!("fentry on {FOLD_HOOK}: {error}"),
    })?;
    let attached = Attached::new(program);
    attached.map(drop).map_err(|cause| format!("fentry on {FOLD_HOOK}: {cause}"))
}

struct Loading<'a, 'btf> {
    loader: &'a mut Loader<'btf>,
    /// Why not, if the kernel does not fold.
    folds: &'a Result<(), String>,
    cgroups_max: u32,
    pins: Option<&'a Pins>,
    /// Whether the loader was told where a collector's maps are pinned.
    has_pins: bool,
}

impl<'btf> Loading<'_, 'btf> {
    fn collector(
        &mut self,
        name: &'static str,
        object: &[u8],
        pinned: &mut Vec<PathBuf>,
    ) -> Result<Collector, LoadError> {
        let tracepoints = tracepoints(object);
        let has_fold = tracepoints.iter().any(|(program, _)| program == FOLD);
        let object = self.loader.bound(object)?;
        let mut reason = match self.folds {
            Err(reason) if has_fold => reason.clone(),
            _ => "what it counts has no cgroup that the kernel takes as an argument".to_owned(),
        };
        if has_fold && self.folds.is_ok() {
            for mark in self.marks() {
                match self.load(name, &object, &tracepoints, Folding::Rstat, mark, pinned) {
                    Ok(collector) => return Ok(collector),
                    Err(LoadError::NotPermitted) => return Err(LoadError::NotPermitted),
                    Err(error) => reason = error.to_string(),
                }
            }
        }
        self.load(name, &object, &tracepoints, Folding::Reader(reason), &abi::CG_MARK_NONE, pinned)
    }

    /// Ways to tell rstat of a cgroup, the best first.
    fn marks(&self) -> Vec<&'static abi::cg_mark> {
        let acquired = self.loader.has_kfunc("bpf_cgroup_acquire").then_some(&abi::CG_MARK_ACQUIRED);
        acquired.into_iter().chain([&abi::CG_MARK_POINTER]).collect()
    }

    fn load(
        &mut self,
        name: &'static str,
        object: &[u8],
        tracepoints: &[(String, String)],
        folding: Folding,
        mark: &'btf abi::cg_mark,
        pinned: &mut Vec<PathBuf>,
    ) -> Result<Collector, LoadError> {
        let directory = self.pins.and_then(|pins| {
            let way = if folding == Folding::Rstat { "rstat" } else { "reader" };
            let directory = pins.of(name, way);
            directory
                .inspect_err(|error| tracing::warn!(name, %error, "the collector's maps are not kept"))
                .ok()
        });
        if let Some(directory) = &directory {
            self.check_pinned(directory);
            for map in MAPS {
                self.loader.aya.map_pin_path(map, directory.join(map));
            }
            self.has_pins = true;
        } else if self.has_pins {
            // Another collector's pins cannot be unsaid.
            self.loader.renew();
            self.has_pins = false;
        }
        let aya = &mut self.loader.aya;
        aya.override_global("mark_by", mark, true);
        aya.map_max_entries("own", self.cgroups_max).map_max_entries("totals", self.cgroups_max);
        let what = format!("collector {name}");
        let mut object = aya.load(object).map_err(|error| refused(&what, &error))?;
        for (program_name, program) in wanted_programs(&mut object, &folding) {
            load_program(program_name, program, self.loader.btf, tracepoints)?;
        }
        let mut map = |map: &'static str| object.take_map(map).ok_or_else(|| missing(map));
        let (own, totals, state) = (map("own")?, map("totals")?, map("state")?);
        let on_since = map("on_since_ns")?;
        let unread = |source| LoadError::Map { map: "own, totals or state", source };
        let collector = Collector {
            name,
            folding,
            own: Words::of(own).map_err(unread)?,
            totals: Words::of(totals).map_err(unread)?,
            state: State::of(state).map_err(unread)?,
            object,
            cgroups_max: self.cgroups_max,
            on_since: Words::of(on_since).map_err(unread)?,
            upkeep: Vec::new(),
            counters: Vec::new(),
        };
        pinned.extend(directory);
        Ok(collector)
    }

    /// Maps of another size cannot be used on.
    fn check_pinned(&self, directory: &Path) {
        let max_entries = |map: &str| {
            let map = MapData::from_pin(directory.join(map)).ok()?;
            Some(map.info().ok()?.max_entries())
        };
        let found = [max_entries("own"), max_entries("totals")];
        if found != [None; 2] && found != [Some(self.cgroups_max); 2] {
            tracing::warn!(path = %directory.display(), ?found, "collector_cgroups_max changed: it counts from 0");
            pins::remove(directory);
            if let Err(error) = pins::make_private(directory) {
                tracing::warn!(path = %directory.display(), %error, "the collector's maps are not kept");
            }
        }
    }
}

/// Whether a program keeps the sums right, and does not count.
pub(super) fn is_upkeep(program: &str) -> bool {
    UPKEEP.contains(&program)
}

/// The programs of a collector that is folded in this way.
pub(super) fn wanted_programs<'a>(
    object: &'a mut Ebpf,
    folding: &Folding,
) -> impl Iterator<Item = (&'a str, &'a mut Program)> {
    let folds = *folding == Folding::Rstat;
    object.programs_mut().filter(move |(name, _)| folds || *name != FOLD)
}

/// Has the kernel lay in memory for new entries on every CPU. A map begins with four of them, fewer than a
/// cgroup has ancestors, and where a program takes the last, more come after it has ended
/// (kernel/bpf/memalloc.c, prefill_mem_cache, unit_alloc).
fn warm_up<'a>(collectors: impl Iterator<Item = &'a Collector>) -> io::Result<()> {
    let itself = Pid::from_raw(0);
    let before = sched_getaffinity(itself)?;
    let nobody = CgroupKey { hierarchy_id: u32::MAX, cgroup_id: u64::MAX };
    let collectors: Vec<&Collector> = collectors.collect();
    let mut warmed = Ok(());
    for cpu in (0..CpuSet::count()).filter(|cpu| before.is_set(*cpu) == Ok(true)) {
        let mut only = CpuSet::new();
        let moved = only.set(cpu).and_then(|()| sched_setaffinity(itself, &only));
        warmed = warmed.and(moved.map_err(io::Error::from)).and(
            collectors.iter().flat_map(|it| [&it.own, &it.totals]).try_for_each(|map| {
                match map.set(nobody, &vec![0; map.words()]) {
                    // An earlier agent's, and full: there will be no new entries.
                    Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(()),
                    set => set.and_then(|()| map.remove(nobody).map(drop)),
                }
            }),
        );
    }
    sched_setaffinity(itself, &before)?;
    warmed
}

fn load_program(
    name: &str,
    program: &mut Program,
    btf: &Btf,
    tracepoints: &[(String, String)],
) -> Result<(), LoadError> {
    match program {
        Program::BtfTracePoint(program) => {
            let found = tracepoints.iter().find(|(of, _)| of == name);
            let (_, tracepoint) = found.ok_or_else(|| missing(name))?;
            program.load(tracepoint, btf).map_err(|error| refused(name, &error))
        }
        Program::FEntry(program) => program.load(FOLD_HOOK, btf).map_err(|error| refused(name, &error)),
        _ => Err(missing(name)),
    }
}

/// Each program of an object, and the tracepoint or function that its section names: aya drops these.
fn tracepoints(object: &[u8]) -> Vec<(String, String)> {
    let Ok(file) = object::File::parse(object) else { return Vec::new() };
    let of_symbol = |symbol: object::Symbol<'_, '_>| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let (_, hook) = section.name().ok()?.split_once('/')?;
        Some((symbol.name().ok()?.to_owned(), hook.to_owned()))
    };
    file.symbols().filter(object::ObjectSymbol::is_definition).filter_map(of_symbol).collect()
}
