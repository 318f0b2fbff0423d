//! What rstat keeps, and how each part of it is flushed.

use std::fmt;

/// What rstat keeps, by who in the kernel flushes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// CPU time of cgroup v2, which needs no controller.
    Cpu,
    /// The memory controller's.
    Memory,
    /// The io controller's.
    Io,
}

impl Subsystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }

    /// The file that the kernel flushes it for.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Cpu => "cpu.stat",
            Self::Memory => "memory.stat",
            Self::Io => "io.stat",
        }
    }

    /// What reading that file does: only mm/memcontrol.c, mem_cgroup_flush_stats, has a threshold.
    pub(super) fn method_by_file(self) -> FlushMethod {
        match self {
            Self::Cpu | Self::Io => FlushMethod::File,
            Self::Memory => FlushMethod::FilePastThreshold,
        }
    }

    /// The root's cpu.stat and io.stat tell of the machine, and flush nothing (kernel/cgroup/rstat.c,
    /// cgroup_base_stat_cputime_show; block/blk-cgroup.c, blkcg_print_stat).
    pub(super) fn is_flushed_by_the_roots_file(self) -> bool {
        self == Self::Memory
    }
}

/// A set of them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::walker) struct Subsystems(u8);

impl Subsystems {
    /// All of them.
    pub(in crate::walker) const ALL: Self = Self(0b111);

    pub(in crate::walker) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(in crate::walker) fn has(self, subsystem: Subsystem) -> bool {
        self.contain(Self::from_iter([subsystem]))
    }

    /// Whether all of the others are among these.
    pub(in crate::walker) fn contain(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl FromIterator<Subsystem> for Subsystems {
    fn from_iter<I: IntoIterator<Item = Subsystem>>(subsystems: I) -> Self {
        Self(subsystems.into_iter().fold(0, |set, subsystem| set | 1 << subsystem as u8))
    }
}

impl fmt::Debug for Subsystems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Subsystem::ALL.into_iter().filter(|subsystem| self.has(*subsystem))).finish()
    }
}

/// How a subsystem was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushMethod {
    /// By a program.
    Rstat,
    /// By reading a file.
    File,
    /// By reading a file, for which the kernel flushes only what is past a threshold.
    FilePastThreshold,
    /// Not at all.
    NotFlushed,
}

/// What became of one subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushedSubsystem {
    /// Which.
    pub subsystem: Subsystem,
    /// How it was flushed.
    pub method: FlushMethod,
    /// Why not by a program; empty if it was.
    pub reason: String,
}
