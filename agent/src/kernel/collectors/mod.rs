//! Collectors: programs that count events of cgroups, loaded before privileges are given up, switched on
//! and off without any.
//!
//! Owns their programs, links and maps. Must not know what their numbers mean.

mod load;
mod maps;
mod pins;

use std::io;

use aya::{
    Ebpf,
    programs::{Program, ProgramError, fentry::FEntryLink, tp_btf::BtfTracePointLink},
};

use self::maps::{State, Words};
pub use self::{
    load::load_all,
    maps::{CgroupKey, CollectorState},
    pins::{PinError, Pins},
};
use super::programs::chain;

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
    links: Vec<Attached>,
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
}

/// Its numbers of one cgroup alone, of each CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The cgroup.
    pub key: CgroupKey,
    /// The numbers, of one CPU after the other.
    pub cpus: Vec<Vec<u64>>,
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
        !self.links.is_empty()
    }

    /// Has it count. That takes no privilege, for its programs are loaded
    /// (kernel/bpf/syscall.c, bpf_raw_tracepoint_open).
    pub fn switch_on(&mut self) -> Result<(), SwitchError> {
        if !self.is_on() {
            let programs = load::wanted_programs(&mut self.object, &self.folding);
            let attached: Result<Vec<_>, _> = programs.map(|(_, program)| Attached::new(program)).collect();
            self.links = attached.map_err(|cause| SwitchError { name: self.name, cause })?;
        }
        Ok(())
    }

    /// Has it count no more. What it counted stays.
    pub fn switch_off(&mut self) {
        self.links.clear();
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
        // struct total: the parent, the numbers, and those that are pending.
        (self.totals.words() - 1) / 2
    }

    /// What was folded of one cgroup; `None` if nothing was ever counted in it or below it.
    pub fn total(&self, key: CgroupKey) -> io::Result<Option<Total>> {
        Ok(self.totals.get(key)?.map(|words| self.to_total(&words)))
    }

    /// What was folded, of every cgroup that has a place.
    pub fn totals(&self) -> io::Result<Vec<(CgroupKey, Total)>> {
        let entries = self.totals.entries()?;
        Ok(entries.into_iter().map(|(key, words)| (key, self.to_total(&words))).collect())
    }

    /// What was counted in each cgroup that has a place.
    pub fn own(&self) -> io::Result<Vec<Own>> {
        let entries = self.own.entries()?;
        // struct own: the numbers, and what of them was folded.
        let cpus = |words: &[u64]| {
            words.chunks_exact(2 * self.words()).map(|cpu| cpu[..self.words()].to_vec()).collect()
        };
        Ok(entries.into_iter().map(|(key, words)| Own { key, cpus: cpus(&words) }).collect())
    }

    /// Gives a root its total, so that whatever has no room can be counted there.
    pub fn admit_root(&self, key: CgroupKey) -> io::Result<()> {
        if self.totals.get(key)?.is_some() {
            return Ok(());
        }
        self.totals.set(key, &vec![0; self.totals.words()])?;
        let state = self.state.get()?;
        let cgroups = state.cgroups + 1;
        self.state.set(CollectorState { cgroups, cgroups_peak: state.cgroups_peak.max(cgroups), ..state })
    }

    /// Gives back the places of a cgroup that was freed while nobody saw it. What of it was not handed to
    /// its parent, `merge` adds to what that has pending. Only while it is switched off.
    pub fn release(&self, key: CgroupKey, merge: impl Fn(&mut [u64], &[u64])) -> io::Result<()> {
        let Some(total) = self.totals.get(key)?.map(|words| self.to_total(&words)) else { return Ok(()) };
        let parent = CgroupKey { cgroup_id: total.parent_id, ..key };
        if let Some(mut of_parent) = self.totals.get(parent)? {
            let words = self.words();
            let pending = &mut of_parent[1 + words..];
            merge(pending, &total.pending);
            for cpu in self.own.get(key)?.unwrap_or_default().chunks_exact(2 * words) {
                let (counts, folded) = cpu.split_at(words);
                let left = counts.iter().zip(folded).map(|(counts, folded)| counts.wrapping_sub(*folded));
                merge(pending, &left.collect::<Vec<u64>>());
            }
            self.totals.set(parent, &of_parent)?;
        }
        self.own.remove(key)?;
        self.totals.remove(key)?;
        let state = self.state.get()?;
        self.state.set(CollectorState { cgroups: state.cgroups.saturating_sub(1), ..state })
    }

    fn to_total(&self, words: &[u64]) -> Total {
        let (counts, pending) = words[1..].split_at(self.words());
        Total { parent_id: words[0], words: counts.to_vec(), pending: pending.to_vec() }
    }
}

/// A program that is attached until this is dropped.
#[derive(Debug)]
enum Attached {
    Tracepoint(#[allow(dead_code, reason = "held, not read")] BtfTracePointLink),
    Function(#[allow(dead_code, reason = "held, not read")] FEntryLink),
}

impl Attached {
    fn new(program: &mut Program) -> Result<Self, String> {
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
