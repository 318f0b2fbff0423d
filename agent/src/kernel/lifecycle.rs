//! Cgroups v2 as they come and go: programs on two tracepoints, attached while somebody watches, and sessions
//! that flush the CPU time of those that went and are still held.
//!
//! Must not know paths as text, metrics or who watches.

use std::{
    fmt,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, RingBuf},
    programs::{Program, ProgramFd},
};
use cgfleet_ebpf::abi::{self, cg_details, cg_final, cg_lifecycle, cg_made, cg_removed};

use super::{
    KernelError, LoadError, Loader, Start,
    collectors::Attached,
    kallsyms::Symbols,
    mapped::{MappedArray, read_value},
    programs::{chain, load_iter, mapped, missing, refused},
    session::{self, READ_BYTES},
};

/// The programs, and where they are attached.
const PROGRAMS: [(&str, &str); 2] = [("made", "cgroup_mkdir"), ("removed", "cgroup_rmdir")];

/// Where the kernel has what a CPU adds to an address of per-CPU memory (include/asm-generic/percpu.h).
const PER_CPU_OFFSETS: &str = "__per_cpu_offset";

/// Bytes of the ring buffer for each cgroup that can be held: for one that is made and removed, with about 80
/// bytes of names.
const EVENT_BYTES: u32 = 512;
/// The kernel takes powers of two, and no less than a page of any architecture.
const EVENTS_BYTES_MIN: u32 = 64 << 10;

/// What happened to a cgroup. Times are of CLOCK_BOOTTIME, in nanoseconds.
#[derive(Debug)]
pub enum LifecycleEvent {
    /// It was made.
    Made {
        /// The cgroup.
        cgroup_id: u64,
        /// When.
        at_ns: u64,
    },
    /// It was removed.
    Removed(Box<RemovedCgroup>),
}

/// What is known of a removed cgroup without a flush.
#[derive(Debug, Clone)]
pub struct RemovedCgroup {
    /// The cgroup.
    pub cgroup_id: u64,
    /// 0: none is above it.
    pub parent_id: u64,
    /// Levels below the real root.
    pub level: u32,
    /// When it was removed.
    pub at_ns: u64,
    /// How many were told of before.
    pub sequence: u64,
    /// `cg_group`s of the ABI that it holds.
    pub valid: abi::cg_group,
    /// As far as it is known without a flush.
    pub cpu_usage_ns: u64,
    /// The other groups.
    pub details: cg_details,
    /// Its name and those above it, up to the mount's root; each with a NUL behind it.
    pub names: Box<[u8]>,
}

/// The final CPU time of a removed cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalUsage {
    /// As in [`RemovedCgroup`].
    pub sequence: u64,
    /// The cgroup.
    pub cgroup_id: u64,
    /// In nanoseconds.
    pub cpu_usage_ns: u64,
}

/// The kernel does not let the programs be attached.
#[derive(Debug, thiserror::Error)]
#[error("attach to {tracepoint}: {cause}")]
pub struct WatchError {
    tracepoint: &'static str,
    cause: String,
}

/// Counters since the programs were loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LifecycleState {
    /// Removed cgroups that were told of.
    pub removed: u64,
    /// Of these, so many are held no longer.
    pub taken_to: u64,
    /// Removed cgroups that were not told of: the ring buffer was full, or the path too long.
    pub lost: u64,
    /// Those that were let go of before a flush, since there was no slot.
    pub displaced: u64,
}

/// The loaded programs.
pub struct Lifecycle {
    object: Ebpf,
    control: MappedArray<cg_lifecycle>,
    ring: OwnedFd,
    /// The ring buffer as memory while it is used: twice its size, to be read on over its end.
    events: Option<RingBuf<MapData>>,
    pass: ProgramFd,
    /// `None` where the kernel does not know references to cgroups (6.1).
    held: Option<Held>,
    slots: u32,
    per_cpu_offsets: u64,
    cpus: u32,
    attached: Vec<Attached>,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Held {
    take_finals: ProgramFd,
    finals: MappedArray<cg_final>,
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slots, holds, is_attached) = (self.slots, self.holds(), self.is_attached());
        let mut text = f.debug_struct("Lifecycle");
        text.field("slots", &slots).field("holds", &holds).field("is_attached", &is_attached);
        text.finish_non_exhaustive()
    }
}

impl Lifecycle {
    /// Loads the programs, with slots for so many removed cgroups.
    pub fn load(loader: &mut Loader<'_>, slots: u32) -> Result<Self, LoadError> {
        if loader.has_kfunc("bpf_cgroup_acquire") {
            match Self::load_object(loader, cgfleet_ebpf::LIFECYCLE_OBJECT, slots, true) {
                Err(LoadError::Refused { what, cause }) => {
                    tracing::warn!(what, cause, "of removed cgroups, this kernel tells no final CPU time");
                }
                loaded => return loaded,
            }
        }
        Self::load_object(loader, cgfleet_ebpf::LIFECYCLE_UNHELD_OBJECT, slots, false)
    }

    fn load_object(
        loader: &mut Loader<'_>,
        object: &[u8],
        slots: u32,
        holds: bool,
    ) -> Result<Self, LoadError> {
        let bytes = slots.saturating_mul(EVENT_BYTES).max(EVENTS_BYTES_MIN);
        loader.aya.map_max_entries("events", bytes.next_power_of_two());
        loader.aya.map_max_entries("held", slots).map_max_entries("finals", slots);
        let mut object = loader.load("the maps of lifecycle", object)?;
        let btf = loader.btf;
        for (name, tracepoint) in PROGRAMS {
            let Some(Program::BtfTracePoint(program)) = object.program_mut(name) else {
                return Err(missing(name));
            };
            program.load(tracepoint, btf).map_err(|error| refused(name, &error))?;
        }
        let pass = load_iter(&mut object, "pass", btf)?;
        let held = holds.then(|| -> Result<Held, LoadError> {
            let take_finals = load_iter(&mut object, "take_finals", btf)?;
            Ok(Held { take_finals, finals: mapped(&mut object, "finals")? })
        });
        let Some(Map::RingBuf(events)) = object.take_map("events") else { return Err(missing("events")) };
        let unkept = |error: std::io::Error| refused("the ring buffer of lifecycle", &error);
        let symbols = Symbols::read(&[PER_CPU_OFFSETS]).unwrap_or_default();
        let cpus = aya::util::nr_cpus().unwrap_or_default();
        Ok(Self {
            control: mapped(&mut object, "lifecycle")?,
            ring: events.fd().as_fd().try_clone_to_owned().map_err(unkept)?,
            events: None,
            pass,
            held: held.transpose()?,
            object,
            slots,
            per_cpu_offsets: symbols.address(PER_CPU_OFFSETS).unwrap_or_default(),
            cpus: u32::try_from(cpus).unwrap_or_default(),
            attached: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        })
    }

    /// Whether final CPU time can be had, and not only what is known at the removal.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Removed cgroups that can be held at a time.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether anybody is told.
    pub fn is_attached(&self) -> bool {
        !self.attached.is_empty()
    }

    /// Tells from now on of cgroups below this one, with these groups. That takes no privilege, for the
    /// programs are loaded.
    pub fn attach(&mut self, root_id: u64, groups: abi::cg_group) -> Result<(), WatchError> {
        if self.is_attached() {
            return Ok(());
        }
        let unmapped = |cause: String| WatchError {
            tracepoint: PROGRAMS[0].1,
            cause: format!("map the ring buffer: {cause}"),
        };
        self.map_events().map_err(|error| unmapped(chain(&error)))?;
        // Of an earlier watch.
        self.drain(|_| ());
        let answered = self.control.get(0).unwrap_or_default();
        let (per_cpu_offsets, cpus, slots) = (self.per_cpu_offsets, self.cpus, self.slots);
        self.control.set_only(cg_lifecycle { root_id, per_cpu_offsets, groups, cpus, slots, ..answered });
        let mut attached = Vec::new();
        for (name, tracepoint) in PROGRAMS {
            let because = |cause| WatchError { tracepoint, cause };
            let program = self.object.program_mut(name).ok_or_else(|| because(missing(name).to_string()))?;
            attached.push(Attached::new(program).map_err(because)?);
        }
        self.attached = attached;
        Ok(())
    }

    /// Tells no more, and lets go of all that is held.
    pub fn detach(&mut self, root: Start<'_>) -> Result<(), KernelError> {
        if !self.is_attached() {
            return Ok(());
        }
        self.attached.clear();
        // A program may be under way still, and hold a cgroup.
        self.await_removals(root)?;
        self.take_finals(root, |_| ())?;
        self.drain(|_| ());
        self.events = None;
        Ok(())
    }

    /// That takes no privilege, for the map is there.
    fn map_events(&mut self) -> Result<(), MapError> {
        let ring = self.ring.try_clone().map_err(MapError::IoError)?;
        self.events = Some(Map::RingBuf(MapData::from_fd(ring)?).try_into()?);
        Ok(())
    }

    /// Its counters.
    pub fn state(&self) -> LifecycleState {
        let cg_lifecycle { removed, taken_to, lost, displaced, .. } = self.control.get(0).unwrap_or_default();
        let taken_to = if self.holds() { taken_to } else { removed };
        LifecycleState { removed, taken_to, lost, displaced }
    }

    /// What happened since the last call, in its order.
    pub fn drain(&mut self, mut told: impl FnMut(LifecycleEvent)) {
        let Some(events) = &mut self.events else { return };
        while let Some(entry) = events.next() {
            if let Some(event) = parse(&entry) {
                told(event);
            }
        }
    }

    /// Returns when every removal that has begun is told of, be it only for the next [`Self::drain`].
    ///
    /// A cgroup is offline, so that a walk skips it, from early in its rmdir on, but its tracepoint is hit at
    /// the end (kernel/cgroup/cgroup.c, `cgroup_destroy_locked` and `cgroup_rmdir`). Both are in one section of
    /// `cgroup_mutex`, and a session takes it: behind that, whoever was seen offline before has been told of.
    pub fn await_removals(&mut self, root: Start<'_>) -> Result<(), KernelError> {
        session::run(&self.pass, abi::CG_ORDER_SELF_ONLY, root, &mut self.buffer)
    }

    /// Flushes below `root`, which is to be all that is told of, and lets go of every cgroup that was removed
    /// before this call. `told` gets the final CPU time of those that were held, also where a later flush
    /// fails; gives the first sequence that has not been looked at.
    pub fn take_finals(
        &mut self,
        root: Start<'_>,
        mut told: impl FnMut(FinalUsage),
    ) -> Result<u64, KernelError> {
        let removed = self.state().removed;
        let Some(held) = &self.held else { return Ok(removed) };
        loop {
            let from = self.control.get(0).unwrap_or_default().taken_to;
            if from >= removed {
                return Ok(from);
            }
            session::run(&held.take_finals, abi::CG_ORDER_SELF_ONLY, root, &mut self.buffer)?;
            let answer = self.control.get(0).unwrap_or_default();
            if answer.taken_to == from {
                // Its program did not run.
                return Err(KernelError::Unfinished { end: 0 });
            }
            if answer.flushed == 0 {
                continue;
            }
            let taken = (answer.taken_from..answer.taken_to).filter_map(|sequence| {
                let slot = u32::try_from(sequence % u64::from(self.slots)).ok()?;
                let cg_final { sequence: sought, id: cgroup_id, cpu_usage_ns } = held.finals.get(slot)?;
                (sought == sequence).then_some(FinalUsage { sequence, cgroup_id, cpu_usage_ns })
            });
            taken.for_each(&mut told);
        }
    }
}

/// An entry of the ring buffer; `None` if it is none of ours.
fn parse(entry: &[u8]) -> Option<LifecycleEvent> {
    let event = u32::from_ne_bytes(*entry.first_chunk()?);
    if event == abi::CG_EVENT_MADE {
        let made: cg_made = read_value(entry)?;
        return Some(LifecycleEvent::Made { cgroup_id: made.id, at_ns: made.at_ns });
    }
    if event != abi::CG_EVENT_REMOVED {
        return None;
    }
    let removed: cg_removed = read_value(entry)?;
    let names = entry.get(size_of::<cg_removed>()..)?.get(..removed.names_bytes as usize)?;
    Some(LifecycleEvent::Removed(Box::new(RemovedCgroup {
        cgroup_id: removed.id,
        parent_id: removed.parent_id,
        level: removed.level,
        at_ns: removed.at_ns,
        sequence: removed.sequence,
        valid: removed.valid,
        cpu_usage_ns: removed.cpu_usage_ns,
        details: removed.details,
        names: names.into(),
    })))
}
