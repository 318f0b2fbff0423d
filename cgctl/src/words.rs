//! The words for the enums of `cgfleet.v1`, in arguments and in output alike.
//!
//! A word is the proto's name in lower case without its prefix; only the orders of a walk have
//! shorter ones.

use std::collections::BTreeSet;

use cgfleet_model::{Comparison, Condition, MetricGroup};
use cgfleet_proto::v1::{
    self, CgroupLayout, CgroupOrder, CgroupSample, CollectorFolding, CollectorState, FlushMethod, FlushMode,
    FlushOutcome, GapReason, HierarchyJoin, HostChangeKind, HostState, MetricKind, RemovedValues, Source,
    WalkEnd, WalkEngine,
};

/// The order of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// The cgroup alone
    #[value(name = "self")]
    SelfOnly,
    /// The cgroup and its descendants, a parent before its children
    Pre,
    /// The cgroup and its descendants, children before their parent
    Post,
    /// The cgroup, its parent, and so on to the root
    Ancestors,
    /// The cgroup's children, without the cgroup
    Children,
}

/// How a walk is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// All at once, under cgroup_mutex
    Locked,
    /// In slices, without cgroup_mutex
    Unlocked,
    /// Through the cgroup filesystem, without BPF
    Files,
}

impl From<Engine> for WalkEngine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Locked => Self::Locked,
            Engine::Unlocked => Self::Unlocked,
            Engine::Files => Self::Files,
        }
    }
}

/// When a walk flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flush {
    /// Not at all: values are as old as the kernel's last flush
    Never,
    /// Unless a flush of late will do
    IfStale,
    /// By a flush that begins now
    Always,
}

impl From<Flush> for FlushMode {
    fn from(flush: Flush) -> Self {
        match flush {
            Flush::Never => Self::Never,
            Flush::IfStale => Self::IfStale,
            Flush::Always => Self::Always,
        }
    }
}

/// What becomes of one path in several hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Join {
    /// One row, with each group from the first hierarchy that has it
    Path,
}

impl From<Join> for HierarchyJoin {
    fn from(join: Join) -> Self {
        match join {
            Join::Path => Self::Path,
        }
    }
}

/// A condition as the wire has it.
pub(crate) fn condition(Condition { metric, comparison, value }: Condition) -> v1::Condition {
    let comparison = match comparison {
        Comparison::Less => v1::Comparison::Less,
        Comparison::LessOrEqual => v1::Comparison::LessOrEqual,
        Comparison::Greater => v1::Comparison::Greater,
        Comparison::GreaterOrEqual => v1::Comparison::GreaterOrEqual,
    };
    v1::Condition { metric: metric.name().to_owned(), comparison: comparison.into(), value }
}

const ORDERS: [(Order, CgroupOrder, &str); 5] = [
    (Order::SelfOnly, CgroupOrder::SelfOnly, "self"),
    (Order::Pre, CgroupOrder::DescendantsPre, "pre"),
    (Order::Post, CgroupOrder::DescendantsPost, "post"),
    (Order::Ancestors, CgroupOrder::AncestorsUp, "ancestors"),
    (Order::Children, CgroupOrder::Children, "children"),
];

impl From<Order> for CgroupOrder {
    fn from(order: Order) -> Self {
        ORDERS.iter().find(|entry| entry.0 == order).map_or(Self::Unspecified, |entry| entry.1)
    }
}

/// The word for an order; `None` if it is unspecified or newer than this version.
pub(crate) fn order(number: i32) -> Option<String> {
    ORDERS.iter().find(|entry| entry.1 as i32 == number).map(|entry| entry.2.to_owned())
}

/// Each gives the word for a value; `None` if it is unspecified or newer than this version.
macro_rules! words {
    ($($function:ident($enum:ident, $prefix:literal);)*) => {$(
        pub(crate) fn $function(number: i32) -> Option<String> {
            let name = $enum::try_from(number).ok().filter(|value| *value != $enum::Unspecified)?.as_str_name();
            Some(name.strip_prefix($prefix).unwrap_or(name).to_ascii_lowercase())
        }
    )*};
}

words! {
    source(Source, "SOURCE_");
    walk_end(WalkEnd, "WALK_END_");
    walk_engine(WalkEngine, "WALK_ENGINE_");
    host_state(HostState, "HOST_STATE_");
    gap_reason(GapReason, "GAP_REASON_");
    metric_kind(MetricKind, "METRIC_KIND_");
    cgroup_layout(CgroupLayout, "CGROUP_LAYOUT_");
    collector_state(CollectorState, "COLLECTOR_STATE_");
    collector_folding(CollectorFolding, "COLLECTOR_FOLDING_");
    flush_outcome(FlushOutcome, "FLUSH_OUTCOME_");
    flush_method(FlushMethod, "FLUSH_METHOD_");
    host_change(HostChangeKind, "HOST_CHANGE_KIND_");
    removed_values(RemovedValues, "REMOVED_VALUES_");
}

/// Where the groups of a sample were read: `bpf`, `file`, `rstat`, `fold`, or several, such as `bpf+file`.
pub(crate) fn sources_of(sample: &CgroupSample) -> Option<String> {
    let sources = MetricGroup::ALL.iter().filter_map(|group| sample.source(*group));
    let words: BTreeSet<String> = sources.filter_map(|found| source(found.into())).collect();
    (!words.is_empty()).then(|| words.into_iter().collect::<Vec<_>>().join("+"))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn an_order_has_one_word_in_arguments_and_output() {
        for variant in Order::value_variants() {
            let word = variant.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(order(CgroupOrder::from(*variant) as i32), word);
        }
        assert_eq!(order(0), None);
    }

    #[test]
    fn a_word_is_the_name_without_its_prefix() {
        assert_eq!(walk_end(WalkEnd::StopAt as i32).as_deref(), Some("stop_at"));
        assert_eq!(source(Source::Bpf as i32).as_deref(), Some("bpf"));
        assert_eq!(gap_reason(GapReason::AgentRestarted as i32).as_deref(), Some("agent_restarted"));
        assert_eq!(host_state(0), None, "unspecified");
        assert_eq!(host_state(99), None, "newer than this version");
    }
}
