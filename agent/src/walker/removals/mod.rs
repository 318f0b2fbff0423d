//! Removed cgroups: watched while somebody wants to know, kept until they are asked for, as samples.
//!
//! Owns the programs that tell of them. Must not know who asks, or how often.

mod log;

use std::{
    os::fd::AsFd as _,
    time::{Duration, SystemTime},
};

use cgfleet_ebpf::abi::{cg_record, cg_walk};
use cgfleet_model::MetricSet;
use cgfleet_proto::v1::{self, CgroupSample};
use nix::time::{ClockId, clock_gettime};

use super::bpf::{Decoder, MemoryStatIndex, groups_of};
use crate::{
    cgroupfs::Hierarchies,
    kernel::{Drained, Lifecycle, Start},
};
use log::{Entry, Log, path, wall_clock};

/// How often what was told is looked at while nothing else is asked of the walker.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How much is known of a removed cgroup's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedValues {
    /// They are the last that it ever had: its CPU time was flushed after its removal.
    Final,
    /// Its CPU time is what was known when it was removed, for nothing held it until a flush: the kernel lets
    /// nothing hold it (6.1), it was displaced from its slot by a later one, or the flush failed. What was used
    /// in cgroups below it that were removed shortly before may be missing; the rest is exact, but on a kernel
    /// that hides `__per_cpu_offset`, where all that was not flushed is missing. Of a cgroup that is only known
    /// to be missing, all values are those of the last walk that met it.
    LastKnown,
}

impl RemovedValues {
    /// The wire's name of it.
    pub fn to_wire(self) -> v1::RemovedValues {
        match self {
            Self::Final => v1::RemovedValues::Final,
            Self::LastKnown => v1::RemovedValues::LastKnown,
        }
    }
}

/// A cgroup that was removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Removed {
    /// What it was and had. memory.stat and io are absent: what CPUs have of these, nobody can flush any more.
    pub sample: CgroupSample,
    /// How much its values say.
    pub values: RemovedValues,
    /// When it was made, if that was seen.
    pub created_at: Option<SystemTime>,
    /// When it was removed; `None` if it is only known to be missing.
    pub removed_at: Option<SystemTime>,
}

/// Cgroups that were removed: every one whose removal had begun when they were asked for is here or in an
/// earlier answer, once, or counted as lost. So whatever the walks before did not meet any more because it was
/// being removed has been told. Should the kernel refuse the session that waits for removals under way, which
/// is logged, these come with the next answer.
#[derive(Debug, Default)]
pub struct Removals {
    /// In the order of their removal.
    pub removed: Vec<Removed>,
    /// Removals of which nothing is known but that they were, since the last call: there was no room for the
    /// event, or among those that nobody had asked for yet, or the path is too long. A displaced cgroup is none
    /// of them: it is told, as last known.
    pub lost: u64,
}

/// Watches removals.
#[derive(Debug)]
pub(super) struct RemovalWatch(Option<Watch>);

#[derive(Debug)]
struct Watch {
    lifecycle: Lifecycle,
    hierarchies: Hierarchies,
    log: Log,
    kept_max: usize,
    /// Whether the last flush failed, and that was said.
    is_failing: bool,
    /// What was reported of the kernel side's counters.
    lost: u64,
    displaced: u64,
}

impl RemovalWatch {
    /// Of a host that cannot.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// With the loaded programs.
    pub(super) fn new(lifecycle: Lifecycle, hierarchies: Hierarchies, kept_max: u32) -> Self {
        let kept_max = kept_max as usize;
        let log = Log::new(kept_max);
        let (is_failing, lost, displaced) = (false, 0, 0);
        Self(Some(Watch { lifecycle, hierarchies, log, kept_max, is_failing, lost, displaced }))
    }

    /// With what values it would tell of cgroups; `None` if this host cannot.
    pub(super) fn values(&self) -> Option<RemovedValues> {
        let watch = self.0.as_ref()?;
        // Without cgroup v2 there is nothing to tell of.
        watch.hierarchies.by_id(0).filter(|hierarchy| hierarchy.root_id != 0)?;
        Some(if watch.lifecycle.holds() { RemovedValues::Final } else { RemovedValues::LastKnown })
    }

    /// Whether it watches.
    pub(super) fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|watch| watch.lifecycle.is_attached())
    }

    /// Begins or ends to watch; false if this host cannot.
    pub(super) fn watch(&mut self, on: bool) -> bool {
        match &mut self.0 {
            Some(watch) if on => watch.begin(),
            Some(watch) => watch.end(),
            None => false,
        }
    }

    /// What was removed since the last call.
    pub(super) fn take(&mut self) -> Removals {
        match &mut self.0 {
            Some(watch) if watch.lifecycle.is_attached() => watch.take(),
            _ => Removals::default(),
        }
    }

    /// Sees to it that there is room for what will be removed.
    pub(super) fn tidy(&mut self) {
        if let Some(watch) = self.0.as_mut().filter(|watch| watch.lifecycle.is_attached()) {
            watch.tidy();
        }
    }
}

impl Watch {
    fn begin(&mut self) -> bool {
        if self.lifecycle.is_attached() {
            return true;
        }
        let Some(root) = self.hierarchies.by_id(0).filter(|hierarchy| hierarchy.root_id != 0) else {
            return false;
        };
        self.log = Log::new(self.kept_max);
        let state = self.lifecycle.state();
        (self.lost, self.displaced) = (state.lost, state.displaced);
        match self.lifecycle.attach(root.root_id, groups_of(MetricSet::all())) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "removed cgroups are not reported");
                false
            }
        }
    }

    fn end(&mut self) -> bool {
        let hierarchies = &self.hierarchies;
        let root = hierarchies.locate_in(0, b"/");
        // The kernel's own idea of the root serves where the mount is closed.
        let start = root.as_ref().map_or(Start::Id(0), |root| Start::Directory(root.directory.as_fd()));
        if let Err(error) = self.lifecycle.detach(start) {
            tracing::warn!(%error, "removed cgroups that were held are freed when the agent ends");
        }
        self.log = Log::new(self.kept_max);
        true
    }

    /// Flushes what is held, lets go of it, and takes in what was told of every removal that has begun; gives
    /// the first sequence that waits for a later call.
    fn settle(&mut self) -> u64 {
        let root = self.hierarchies.locate_in(0, b"/");
        let start = root.as_ref().map_or(Start::Id(0), |root| Start::Directory(root.directory.as_fd()));
        let mut finals = Vec::new();
        let waited = self.lifecycle.await_removals(start);
        let taken = self.lifecycle.take_finals(start, |usage| finals.push(usage));
        // Whoever is held was told of.
        self.lifecycle.drain(|event| self.log.add(event));
        for usage in finals {
            self.log.set_final(usage);
        }
        let was_failing = self.is_failing;
        self.is_failing = waited.is_err() || taken.is_err();
        if let Some(error) = waited.err().filter(|_| !was_failing) {
            tracing::warn!(%error, "removals of cgroups that are under way are not waited for");
        }
        taken.unwrap_or_else(|error| {
            if !was_failing {
                tracing::warn!(%error, "the CPU time of removed cgroups is as it was last known");
            }
            // With what is known: to be flushed later, it would have to be told later than it is missing.
            u64::MAX
        })
    }

    fn tidy(&mut self) {
        self.lifecycle.drain(|event| self.log.add(event));
        let state = self.lifecycle.state();
        if state.removed - state.taken_to >= u64::from(self.lifecycle.slots() / 2) {
            self.settle();
        }
    }

    fn take(&mut self) -> Removals {
        let to = self.settle();
        let entries = self.log.take_before(to);
        let state = self.lifecycle.state();
        if state.displaced > self.displaced {
            let count = state.displaced - self.displaced;
            tracing::warn!(count, "cgroups were removed faster than they were flushed (removed_slots_max)");
        }
        let lost = state.lost - self.lost + self.log.take_dropped();
        (self.lost, self.displaced) = (state.lost, state.displaced);
        let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
        let now = (SystemTime::now(), boottime.unwrap_or_default());
        Removals { removed: Self::to_removed(entries, now), lost }
    }

    fn to_removed(entries: Vec<Entry>, now: (SystemTime, Duration)) -> Vec<Removed> {
        // As it is nearly always.
        if entries.is_empty() {
            return Vec::new();
        }
        let (recorded, memory_stat) = (recorded(&entries), MemoryStatIndex::default());
        let decoder = Decoder::new(MetricSet::all(), &memory_stat);
        let removed = entries.into_iter().enumerate().filter_map(|(slot, entry)| {
            let Entry { cgroup, made_at_ns, is_flushed } = entry;
            let mut sample = decoder.sample(&recorded, slot)?;
            (sample.cgroup_id, sample.parent_id) = (cgroup.cgroup_id, cgroup.parent_id);
            sample.path = path(&cgroup.names);
            Some(Removed {
                sample,
                values: if is_flushed { RemovedValues::Final } else { RemovedValues::LastKnown },
                created_at: made_at_ns.map(|at_ns| wall_clock(now, at_ns)),
                removed_at: Some(wall_clock(now, cgroup.at_ns)),
            })
        });
        removed.collect()
    }
}

/// As if a walk had met them.
fn recorded(entries: &[Entry]) -> Drained {
    let record = |Entry { cgroup, .. }: &Entry| cg_record {
        level: cgroup.level,
        valid: cgroup.valid,
        cpu_usage_ns: cgroup.cpu_usage_ns,
        ..cg_record::default()
    };
    Drained {
        records: entries.iter().map(record).collect(),
        details: entries.iter().map(|entry| entry.cgroup.details).collect(),
        memory_stats: Vec::new(),
        io_devices: Vec::new(),
        names: Vec::new(),
        walk: cg_walk::default(),
        cursor: None,
    }
}
