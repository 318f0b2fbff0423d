//! What can be asked of the walker, and how it can fail.

use std::time::Duration;

use cgfleet_ebpf::abi;
use cgfleet_model::{Condition, MetricSet, escape_path};
use cgfleet_proto::v1;

use super::Naming;
use crate::{
    cgroupfs::LocateError,
    collectors::CollectorError,
    kernel::{AttachError, KernelError},
};

/// The order of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// The target alone.
    SelfOnly,
    /// A parent before its children.
    DescendantsPre,
    /// Children before their parent.
    DescendantsPost,
    /// The target up to the root.
    AncestorsUp,
    /// The target's children, without the target.
    Children,
}

impl Order {
    /// Every order, for the capability table.
    pub const ALL: [Self; 5] =
        [Self::SelfOnly, Self::DescendantsPre, Self::DescendantsPost, Self::AncestorsUp, Self::Children];

    /// The kernel's number.
    pub fn to_abi(self) -> abi::cg_order {
        match self {
            Self::SelfOnly => abi::CG_ORDER_SELF_ONLY,
            Self::DescendantsPre => abi::CG_ORDER_DESCENDANTS_PRE,
            Self::DescendantsPost => abi::CG_ORDER_DESCENDANTS_POST,
            Self::AncestorsUp => abi::CG_ORDER_ANCESTORS_UP,
            Self::Children => abi::CG_ORDER_CHILDREN,
        }
    }
}

/// How a walk is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalkEngine {
    /// Under cgroup_mutex, at once or subtree by subtree.
    Locked,
    /// In slices under RCU.
    Unlocked,
    /// Through the cgroup filesystem, without BPF.
    Files,
}

impl WalkEngine {
    /// The wire's name of it.
    pub fn to_wire(self) -> v1::WalkEngine {
        match self {
            Self::Locked => v1::WalkEngine::Locked,
            Self::Unlocked => v1::WalkEngine::Unlocked,
            Self::Files => v1::WalkEngine::Files,
        }
    }
}

/// One cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// By path, in the hierarchy of this name (empty: cgroup v2).
    Path {
        /// The hierarchy's name.
        hierarchy: String,
        /// The path's bytes.
        path: Vec<u8>,
    },
    /// By id, in cgroup v2.
    Id(u64),
}

impl Target {
    /// The root of cgroup v2.
    pub fn v2_root() -> Self {
        Self::Path { hierarchy: String::new(), path: b"/".to_vec() }
    }

    /// The target as text, for errors.
    pub fn to_text(&self) -> String {
        match self {
            Self::Path { hierarchy, path } if hierarchy.is_empty() => escape_path(path),
            Self::Path { hierarchy, path } => format!("{hierarchy}:{}", escape_path(path)),
            Self::Id(id) => id.to_string(),
        }
    }
}

/// What to walk. Requests for the same share a walk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WalkSpec {
    /// Where it starts.
    pub target: Target,
    /// Which way it goes.
    pub order: Order,
    /// What is read of each cgroup.
    pub metrics: MetricSet,
    /// End after so many cgroups; 0 for never.
    pub limit: u32,
    /// End after this cgroup.
    pub stop_at: Option<Target>,
    /// Levels below the target that are visited; `None` for all.
    pub max_depth: Option<u32>,
    /// End after the first cgroup of which this is true.
    pub stop_when: Option<Condition>,
    /// How it is done; `None` for the best that there is.
    pub engine: Option<WalkEngine>,
    /// Whether the same path of every hierarchy is one row.
    pub joins_hierarchies: bool,
    /// Whether rows say what runs in their cgroups.
    pub naming: Naming,
}

impl WalkSpec {
    /// A walk of this cgroup alone, that reads nothing of it.
    pub fn alone(target: Target) -> Self {
        Self {
            target,
            order: Order::SelfOnly,
            metrics: MetricSet::default(),
            limit: 0,
            stop_at: None,
            max_depth: None,
            stop_when: None,
            engine: None,
            joins_hierarchies: false,
            naming: Naming::Unnamed,
        }
    }
}

/// A walk or a flush that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A cgroup of the request cannot be found.
    #[error("{field} {target}: {cause}")]
    Target {
        /// The request's field.
        field: &'static str,
        /// The cgroup as given.
        target: String,
        /// Why.
        cause: LocateError,
    },
    /// The cgroup is not there, or not any more.
    #[error("{field} {target}: no such cgroup; `cgctl query` lists those that exist")]
    NoSuchCgroup {
        /// The request's field.
        field: &'static str,
        /// The cgroup as given.
        target: String,
    },
    /// stop_at is in another hierarchy than target, where the walk never comes.
    #[error("stop_at {stop_at} is not in the hierarchy of target {target}")]
    StopAtElsewhere {
        /// stop_at as given.
        stop_at: String,
        /// target as given.
        target: String,
    },
    /// A cgroup in the walk's way is closed to the agent's user.
    #[error("go on at {path}: {source}")]
    Reopen {
        /// The cgroup.
        path: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A slice has no room for all of a cgroup's ancestors.
    #[error("the cgroup is deeper than one slice has room for; raise slice_rows_max and slice_names_max")]
    TooDeep,
    /// A locked walk was cut into subtrees, one in the other, too often.
    #[error(
        "{levels_max} levels of cgroups are each too large for one hold of cgroup_mutex; \
         raise locked_rows_max, or ask for the unlocked engine"
    )]
    TooManyLevels {
        /// The limit.
        levels_max: u32,
    },
    /// Cgroups were removed faster than the walk found its way among them.
    #[error(
        "the walk's place and all around it were removed {restarts} times; \
         try again, or ask for the locked engine"
    )]
    Restarted {
        /// How often it began again.
        restarts: u32,
    },
    /// The engine needs BPF, which this agent has not.
    #[error("engine {engine} is not to be had here: {reason}; leave it out, or ask for files")]
    NoSuchEngine {
        /// As the wire names it.
        engine: &'static str,
        /// Why there is no BPF.
        reason: String,
    },
    /// A collector does not do as it should.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// Too many requests wait.
    #[error("{queue_max} requests wait already (walk_queue_max); try again, or ask less often")]
    QueueFull {
        /// The limit.
        queue_max: usize,
    },
    /// Too many wait for walks.
    #[error("{waiters_max} requests wait for walks already (walk_waiters_max); try again")]
    WalkWaitersFull {
        /// The limit.
        waiters_max: usize,
    },
    /// The flush that the walk needs is one too many.
    #[error(
        "the walk needs a flush, and no more than {per_second_max} a second are performed \
         (flushes_per_second_max); allow one of late (max_staleness), or none (flush)"
    )]
    FlushRateLimited {
        /// The limit.
        per_second_max: u32,
        /// In what time one is to be had again.
        retry_after: Duration,
    },
    /// Too many wait for flushes.
    #[error("{waiters_max} requests wait for flushes already (flush_waiters_max); try again")]
    FlushWaitersFull {
        /// The limit.
        waiters_max: usize,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopped,
    /// The kernel refused something that ought to work.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl WalkError {
    /// Names the target, and its field, if the kernel said that the start is no cgroup (any more).
    pub(crate) fn at(self, field: &'static str, target: &Target) -> Self {
        match self {
            Self::Kernel(KernelError::Attach(AttachError::NotACgroup | AttachError::NoSuchCgroup)) => {
                Self::NoSuchCgroup { field, target: target.to_text() }
            }
            error => error,
        }
    }
}
