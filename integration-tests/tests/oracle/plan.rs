//! Which cgroups there are, with which limits, and what is done in each: as data.

use integration_tests::load::Load;

/// What a host must have for a cgroup to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// The memory controller on cgroup v2.
    MemoryOnV2,
    /// Swap, and the memory controller on cgroup v2 to limit it.
    SwapOnV2,
    /// The io controller on cgroup v2.
    /// And a disk of the tests' own: what is done to it is done to nobody's filesystem.
    IoOnV2,
}

/// Cgroups of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    /// Of more than one, each gets a number.
    pub(crate) name: &'static str,
    pub(crate) count: u32,
    pub(crate) load: Option<Load>,
    /// Files of cgroup v2, and what is written there before the load starts.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    pub(crate) needs: Needs,
    /// Whether it has children, and so no processes of its own.
    pub(crate) is_inner: bool,
}

const fn leaf(name: &'static str, count: u32, load: Load) -> Planned {
    Planned { name, count, load: Some(load), settings: &[], needs: Needs::Nothing, is_inner: false }
}

impl Planned {
    const fn with(self, settings: &'static [(&'static str, &'static str)]) -> Self {
        Self { settings, ..self }
    }

    const fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    const fn inner(self) -> Self {
        Self { is_inner: true, ..self }
    }
}

/// A cgroup that is frozen once its load has started.
pub(crate) const FROZEN: &str = "frozen";

/// In `io.max`, the device of the stage's disk.
pub(crate) const DEVICE: &str = "DEVICE";

/// Parents come before their children.
pub(crate) const PLAN: &[Planned] = &[
    leaf("busy", 5, Load::Busy).with(&[("pids.max", "100")]),
    leaf("throttled", 4, Load::Busy).with(&[("cpu.max", "5000 100000")]),
    leaf(FROZEN, 1, Load::Busy),
    leaf("fork", 4, Load::Fork),
    leaf("threads", 3, Load::Threads),
    leaf("sockets", 3, Load::Sockets),
    leaf("file-table", 1, Load::FileTable).needs(Needs::MemoryOnV2),
    leaf("anonymous", 5, Load::Anonymous).with(&[("memory.min", "1048576"), ("memory.swap.max", "8388608")]),
    leaf("huge", 2, Load::Huge),
    leaf("cold", 2, Load::Cold),
    leaf("lazy-free", 2, Load::LazyFree),
    leaf("locked", 2, Load::Locked),
    leaf("tmpfs", 3, Load::Tmpfs),
    leaf("huge-tmpfs", 1, Load::HugeTmpfs),
    leaf("inodes", 2, Load::Inodes),
    leaf("write", 4, Load::Write),
    leaf("write-slowly", 2, Load::Write).with(&[("io.max", "DEVICE wbps=1048576")]).needs(Needs::IoOnV2),
    leaf("refault", 3, Load::Refault).with(&[("memory.max", "12582912")]),
    leaf("active", 2, Load::Active),
    leaf("mapped", 3, Load::Mapped),
    leaf("direct", 3, Load::Direct),
    leaf("discard", 1, Load::Discard).needs(Needs::IoOnV2),
    // Below a maximum, what is being swapped out might leave no room, and have them killed.
    leaf("thrash", 4, Load::Thrash).with(&[("memory.high", "8388608")]).needs(Needs::SwapOnV2),
    // All of it is protected, so reclaim takes of what is.
    Planned { load: None, ..leaf("low", 1, Load::Thrash) }
        .with(&[("memory.high", "8388608")])
        .needs(Needs::SwapOnV2)
        .inner(),
    leaf("low/inside", 1, Load::Thrash).with(&[("memory.low", "16777216")]).needs(Needs::SwapOnV2),
    leaf("killed", 1, Load::OutOfMemory)
        .with(&[("memory.max", "6291456"), ("memory.swap.max", "0")])
        .needs(Needs::SwapOnV2),
    leaf("killed-as-a-whole", 1, Load::OutOfMemory)
        .with(&[("memory.max", "6291456"), ("memory.swap.max", "0"), ("memory.oom.group", "1")])
        .needs(Needs::SwapOnV2),
    leaf("dying", 1, Load::Dying).inner(),
];

/// Where cgroup v1 has such a setting, in the hierarchy of the same controller, and how it writes the value.
pub(crate) fn on_v1(file: &str, value: &str) -> Vec<(&'static str, String)> {
    match file {
        "memory.max" => vec![("memory.limit_in_bytes", value.to_owned())],
        "pids.max" => vec![("pids.max", value.to_owned())],
        "cpu.max" => {
            let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
            vec![("cpu.cfs_period_us", period.to_owned()), ("cpu.cfs_quota_us", quota.to_owned())]
        }
        _ => Vec::new(),
    }
}
