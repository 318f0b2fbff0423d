//! Collectors: programs that count events of cgroups, loaded before privileges are given up, switched on
//! and off without any.
//!
//! Owns their programs, links and maps. Must not know what their numbers mean.

mod load;
mod maps;
mod pins;

use std::{io, time::Duration};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, fentry::FEntryLink, tp_btf::BtfTracePointLink},
};

use nix::time::{ClockId, clock_gettime};

use self::maps::{State, Words};
pub use self::{
    load::load_all,
    maps::{CgroupKey, CollectorState},
    pins::{PinError, Pins},
};
use super::programs::chain;

/// Words of `struct total` before its numbers: the parent, and whether it is partial.
const TOTAL_HEAD: usize = 2;

/// How what was counted in a cgroup becomes its ancestors' too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folding {
    /// By the program on bpf_rstat_flush, when rstat is flushed.
    Rstat,
    /// By whoever reads, from what each cgroup has of its own; and why.
    Reader(String),
}

/// A collector that was loaded.
#[derive(Debug)]
pub struct Collector {
    name: &'static str,
    folding: Folding,
    object: Ebpf,
    own: Words,
    totals: Words,
    state: State,
    cgroups_max: u32,
    /// When it was switched on, for its programs.
    on_since: Words,
    /// What keeps the sums right, whether or not it counts: from the first time that it is switched on.
    upkeep: Vec<Attached>,
    /// What counts, while it is on.
    counters: Vec<Attached>,
}

/// Its numbers of one cgroup and all below it, as far as they were folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// The cgroup's parent; 0 of a root.
    pub parent_id: u64,
    /// The numbers.
    pub words: Vec<u64>,
    /// What is to be added to them, and to those of all ancestors.
    pub pending: Vec<u64>,
    /// Whether events that are missing here may be counted at an ancestor.
    pub is_partial: bool,
}

/// A collector that could not be switched.
#[derive(Debug, thiserror::Error)]
#[error("switch collector {name}: {cause}")]
pub struct SwitchError {
    name: &'static str,
    cause: String,
}

impl Collector {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How its numbers are folded.
    pub fn folding(&self) -> &Folding {
        &self.folding
    }

    /// Whether it counts.
    pub fn is_on(&self) -> bool {
        !self.counters.is_empty()
    }

    /// Whether it counts or has counted something: then its sums are kept right, and are worth reading.
    pub fn is_kept_up(&self) -> bool {
        !self.upkeep.is_empty()
    }

    /// Has it count. That takes no privilege, for its programs are loaded
    /// (kernel/bpf/syscall.c, bpf_raw_tracepoint_open).
    pub fn switch_on(&mut self) -> Result<(), SwitchError> {
        if self.is_on() {
            return Ok(());
        }
        self.keep_up()?;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(io::Error::from);
        let since = now.and_then(|now| {
            let ns = Duration::from(now).as_nanos();
            self.on_since.set_only(&[u64::try_from(ns).unwrap_or(u64::MAX)])
        });
        since.map_err(|error| SwitchError { name: self.name, cause: error.to_string() })?;
        self.counters = self.attach(|program| !load::is_upkeep(program))?;
        Ok(())
    }

    /// Has it count no more. What it counted stays, and goes up as before when cgroups are removed.
    pub fn switch_off(&mut self) {
        self.counters.clear();
    }

    /// Has the sums kept right, though it does not count: of what an earlier agent had it count.
    pub fn keep_up(&mut self) -> Result<(), SwitchError> {
        if self.upkeep.is_empty() {
            self.upkeep = self.attach(load::is_upkeep)?;
        }
        Ok(())
    }

    fn attach(&mut self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Attached>, SwitchError> {
        let programs = load::wanted_programs(&mut self.object, &self.folding);
        let attached =
            programs.filter(|(name, _)| is_wanted(name)).map(|(_, program)| Attached::new(program));
        let attached: Result<Vec<_>, _> = attached.collect();
        attached.map_err(|cause| SwitchError { name: self.name, cause })
    }

    /// What it says of itself.
    pub fn state(&self) -> io::Result<CollectorState> {
        self.state.get()
    }

    /// The most cgroups that have places in its maps.
    pub fn cgroups_max(&self) -> u32 {
        self.cgroups_max
    }

    /// Bytes that a cgroup takes, once and for each CPU. What the kernel's allocator and hash tables add is
    /// not in it.
    pub fn bytes_per_cgroup(&self) -> (usize, usize) {
        (self.totals.words() * size_of::<u64>(), 2 * self.words() * size_of::<u64>())
    }

    /// How many numbers it has of a cgroup.
    pub fn words(&self) -> usize {
        (self.totals.words() - TOTAL_HEAD) / 2
    }

    /// What was folded of one cgroup; `None` if nothing was ever counted in it or below it.
    pub fn total(&self, key: CgroupKey) -> io::Result<Option<Total>> {
        Ok(self.totals.get(key)?.map(|words| self.to_total(&words)))
    }

    /// What was folded, of every cgroup that has a place.
    pub fn totals(&self) -> io::Result<Vec<(CgroupKey, Total)>> {
        self.totals.entries(|key, words| (key, self.to_total(words)))
    }

    /// What was counted in each cgroup that has a place of its own, its CPUs put together by `merge`.
    pub fn own(&self, merge: impl Fn(&mut [u64], &[u64])) -> io::Result<Vec<(CgroupKey, Vec<u64>)>> {
        self.own.entries(|key, words| {
            let mut merged = vec![0; self.words()];
            // struct own: the numbers, and what of them was folded.
            words.chunks_exact(2 * self.words()).for_each(|cpu| merge(&mut merged, &cpu[..self.words()]));
            (key, merged)
        })
    }

    /// Gives a root its total, so that whatever has no room can be counted there.
    pub fn admit_root(&self, key: CgroupKey) -> io::Result<()> {
        if self.totals.get(key)?.is_some() {
            return Ok(());
        }
        self.totals.set(key, &vec![0; self.totals.words()])
    }

    /// Says anew how many cgroups have a place. Only while nothing is attached.
    pub fn count_cgroups(&self) -> io::Result<u64> {
        let cgroups = self.totals.entries(|_, _| ())?.len() as u64;
        let state = self.state.get()?;
        let cgroups_peak = state.cgroups_peak.max(cgroups);
        self.state.set(CollectorState { cgroups, cgroups_peak, ..state })?;
        Ok(cgroups)
    }

    /// Folds what was counted while no program folded, which nobody marks: `keys` with children first. Only
    /// while nothing is attached.
    pub fn settle(&self, keys: &[CgroupKey], merge: impl Fn(&mut [u64], &[u64])) -> io::Result<()> {
        if self.folding != Folding::Rstat {
            return Ok(());
        }
        let words = self.words();
        for key in keys {
            let Some(mut total) = self.totals.get(*key)? else { continue };
            let mut left = self.to_total(&total).pending;
            let mut own = self.own.get(*key)?.unwrap_or_default();
            self.take_left(&mut own, &mut left, &merge);
            if left.iter().all(|number| *number == 0) {
                continue;
            }
            let (head, pending) = total.split_at_mut(TOTAL_HEAD + words);
            merge(&mut head[TOTAL_HEAD..], &left);
            pending.fill(0);
            let parent = CgroupKey { cgroup_id: total[0], ..*key };
            self.totals.set(*key, &total)?;
            if !own.is_empty() {
                self.own.set(*key, &own)?;
            }
            self.add_pending(parent, &left, &merge)?;
        }
        Ok(())
    }

    /// Adds what is left to fold of each CPU, and says in `own` that it was.
    fn take_left(&self, own: &mut [u64], left: &mut [u64], merge: impl Fn(&mut [u64], &[u64])) {
        for cpu in own.chunks_exact_mut(2 * self.words()) {
            let (counts, folded) = cpu.split_at_mut(self.words());
            let of_cpu: Vec<u64> =
                counts.iter().zip(&*folded).map(|(counts, folded)| counts.wrapping_sub(*folded)).collect();
            merge(left, &of_cpu);
            folded.copy_from_slice(counts);
        }
    }

    fn add_pending(
        &self,
        key: CgroupKey,
        numbers: &[u64],
        merge: impl Fn(&mut [u64], &[u64]),
    ) -> io::Result<()> {
        let Some(mut total) = self.totals.get(key)? else { return Ok(()) };
        merge(&mut total[TOTAL_HEAD + self.words()..], numbers);
        self.totals.set(key, &total)
    }

    /// Gives back the places of a cgroup that was freed while nobody saw it. What of it was not handed to
    /// its parent, `merge` adds to what that has pending. Only while nothing is attached.
    pub fn release(&self, key: CgroupKey, merge: impl Fn(&mut [u64], &[u64])) -> io::Result<()> {
        let Some(total) = self.totals.get(key)?.map(|words| self.to_total(&words)) else { return Ok(()) };
        let parent = CgroupKey { cgroup_id: total.parent_id, ..key };
        let mut left = total.pending;
        self.take_left(&mut self.own.get(key)?.unwrap_or_default(), &mut left, &merge);
        self.own.remove(key)?;
        self.totals.remove(key)?;
        self.add_pending(parent, &left, &merge)
    }

    fn to_total(&self, words: &[u64]) -> Total {
        let (counts, pending) = words[TOTAL_HEAD..].split_at(self.words());
        Total {
            parent_id: words[0],
            is_partial: words[1] != 0,
            words: counts.to_vec(),
            pending: pending.to_vec(),
        }
    }
}

/// A program that is attached until this is dropped.
#[derive(Debug)]
pub(super) enum Attached {
    Tracepoint(#[allow(dead_code, reason = "held, not read")] BtfTracePointLink),
    Function(#[allow(dead_code, reason = "held, not read")] FEntryLink),
}

impl Attached {
    pub(super) fn new(program: &mut Program) -> Result<Self, String> {
        let refused = |error: ProgramError| chain(&error);
        match program {
            Program::BtfTracePoint(program) => {
                let link = program.attach().map_err(refused)?;
                Ok(Self::Tracepoint(program.take_link(link).map_err(refused)?))
            }
            Program::FEntry(program) => {
                let link = program.attach().map_err(refused)?;
                Ok(Self::Function(program.take_link(link).map_err(refused)?))
            }
            _ => Err("a program of a kind that collectors have not".to_owned()),
        }
    }
}
