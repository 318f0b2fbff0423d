//! Requests as they arrive, parsed: behind this point there are no bad ones.

use cgfleet_model::{Comparison, Condition, Metric, UnknownMetric, unescape_path};
use cgfleet_proto::{
    metrics_of_read_mask,
    v1::{
        CgroupOrder, CgroupTarget, Comparison as WireComparison, Condition as WireCondition,
        FlushMode as WireFlush, HierarchyJoin, WalkEngine as WireEngine, WalkSpec as WireSpec,
    },
};
use cgfleet_rpc::{duration, wire_error::WireError, workload};

use crate::walker::{FlushMode, Freshness, Naming, Order, Target, WalkEngine, WalkSpec};

/// What the orders are called in errors.
const ORDERS: &str = "CGROUP_ORDER_SELF_ONLY (1), CGROUP_ORDER_DESCENDANTS_PRE (2), \
                      CGROUP_ORDER_DESCENDANTS_POST (3), CGROUP_ORDER_ANCESTORS_UP (4), \
                      CGROUP_ORDER_CHILDREN (5)";

/// What the engines are called in errors.
const ENGINES: &str = "WALK_ENGINE_UNSPECIFIED (0), WALK_ENGINE_LOCKED (1), WALK_ENGINE_UNLOCKED (2), \
                       WALK_ENGINE_FILES (3)";

/// What the modes are called in errors.
const FLUSH_MODES: &str = "FLUSH_MODE_UNSPECIFIED (0), FLUSH_MODE_NEVER (1), FLUSH_MODE_IF_STALE (2), \
                           FLUSH_MODE_ALWAYS (3)";

/// Parses what to walk, and how fresh the answer has to be.
pub(super) fn walk_request(spec: Option<WireSpec>) -> Result<(WalkSpec, Freshness), WireError> {
    let spec = spec.ok_or_else(|| WireError::invalid_field("spec", "", "a walk's specification"))?;
    let freshness = Freshness {
        max_staleness: duration::staleness("spec.max_staleness", spec.max_staleness)?,
        flush: flush_mode(spec.flush)?,
    };
    Ok((walk_spec(spec)?, freshness))
}

fn walk_spec(spec: WireSpec) -> Result<WalkSpec, WireError> {
    let order = order("spec.order", spec.order)?;
    let engine = engine(spec.engine)?;
    if spec.max_depth.is_some() && order == Order::AncestorsUp {
        let allowed = "unset with CGROUP_ORDER_ANCESTORS_UP, which has limit and stop_at";
        return Err(WireError::invalid_field("spec.max_depth", spec.max_depth.unwrap_or_default(), allowed));
    }
    let target = target_or_root("spec.target", spec.target)?;
    Ok(WalkSpec {
        joins_hierarchies: joins_hierarchies(spec.join, &target)?,
        target,
        order,
        engine,
        max_depth: if order == Order::Children { Some(1) } else { spec.max_depth },
        metrics: metrics_of_read_mask(spec.read_mask.as_ref())?,
        limit: spec.limit,
        stop_at: spec.stop_at.map(|stop_at| parse_target("spec.stop_at", stop_at)).transpose()?,
        stop_when: spec.stop_when.as_ref().map(condition).transpose()?,
        naming: workload::filter("spec.workload", spec.workload.as_ref())?
            .map_or(Naming::Named, Naming::Chosen),
    })
}

/// Parses a cgroup; unset means the root of cgroup v2.
pub(super) fn target_or_root(field: &str, wire: Option<CgroupTarget>) -> Result<Target, WireError> {
    wire.map_or_else(|| Ok(Target::v2_root()), |wire| parse_target(field, wire))
}

fn parse_target(field: &str, wire: CgroupTarget) -> Result<Target, WireError> {
    let CgroupTarget { path, cgroup_id, hierarchy } = wire;
    if cgroup_id == 0 {
        let path = if path.is_empty() { "/" } else { &path };
        let allowed = "a path with \\xHH for bytes that text cannot hold";
        let path = unescape_path(path)
            .map_err(|_| WireError::invalid_field(&format!("{field}.path"), path, allowed))?;
        return Ok(Target::Path { hierarchy, path });
    }
    if !path.is_empty() {
        let allowed = format!("path or cgroup_id, not both (cgroup_id is {cgroup_id})");
        return Err(WireError::invalid_field(&format!("{field}.path"), path, allowed));
    }
    if !hierarchy.is_empty() {
        let allowed = "empty with cgroup_id: the kernel finds ids in cgroup v2 only";
        return Err(WireError::invalid_field(&format!("{field}.hierarchy"), hierarchy, allowed));
    }
    Ok(Target::Id(cgroup_id))
}

pub(super) fn order(field: &str, wire: i32) -> Result<Order, WireError> {
    let refused = || {
        let name = CgroupOrder::try_from(wire)
            .map_or_else(|_| wire.to_string(), |order| order.as_str_name().to_owned());
        WireError::invalid_field(field, name, ORDERS)
    };
    match CgroupOrder::try_from(wire).map_err(|_| refused())? {
        CgroupOrder::Unspecified => Err(refused()),
        CgroupOrder::SelfOnly => Ok(Order::SelfOnly),
        CgroupOrder::DescendantsPre => Ok(Order::DescendantsPre),
        CgroupOrder::DescendantsPost => Ok(Order::DescendantsPost),
        CgroupOrder::AncestorsUp => Ok(Order::AncestorsUp),
        CgroupOrder::Children => Ok(Order::Children),
    }
}

/// The engine that was asked for; `None` leaves it to the agent.
fn engine(wire: i32) -> Result<Option<WalkEngine>, WireError> {
    match WireEngine::try_from(wire) {
        Ok(WireEngine::Unspecified) => Ok(None),
        Ok(WireEngine::Unlocked) => Ok(Some(WalkEngine::Unlocked)),
        Ok(WireEngine::Locked) => Ok(Some(WalkEngine::Locked)),
        Ok(WireEngine::Files) => Ok(Some(WalkEngine::Files)),
        Err(_) => Err(WireError::invalid_field("spec.engine", wire, ENGINES)),
    }
}

/// Whether rstat is flushed.
fn flush_mode(wire: i32) -> Result<FlushMode, WireError> {
    match WireFlush::try_from(wire) {
        Ok(WireFlush::Never) => Ok(FlushMode::Never),
        Ok(WireFlush::Unspecified | WireFlush::IfStale) => Ok(FlushMode::IfStale),
        Ok(WireFlush::Always) => Ok(FlushMode::Always),
        Err(_) => Err(WireError::invalid_field("spec.flush", wire, FLUSH_MODES)),
    }
}

/// Whether a walk is done in every hierarchy.
fn joins_hierarchies(wire: i32, target: &Target) -> Result<bool, WireError> {
    match HierarchyJoin::try_from(wire) {
        Ok(HierarchyJoin::Unspecified) => Ok(false),
        Ok(HierarchyJoin::Path) => match target {
            Target::Path { hierarchy, .. } if hierarchy.is_empty() => Ok(true),
            other => {
                let allowed = "a path without a hierarchy, when join is HIERARCHY_JOIN_PATH";
                Err(WireError::invalid_field("spec.target", other.to_text(), allowed))
            }
        },
        Err(_) => {
            let allowed = "HIERARCHY_JOIN_UNSPECIFIED (0), HIERARCHY_JOIN_PATH (1)";
            Err(WireError::invalid_field("spec.join", wire, allowed))
        }
    }
}

fn condition(wire: &WireCondition) -> Result<Condition, WireError> {
    let metric = Metric::from_name(&wire.metric).ok_or_else(|| {
        WireError::invalid_field("spec.stop_when.metric", &wire.metric, UnknownMetric::allowed())
    })?;
    let comparison = match WireComparison::try_from(wire.comparison) {
        Ok(WireComparison::Less) => Comparison::Less,
        Ok(WireComparison::LessOrEqual) => Comparison::LessOrEqual,
        Ok(WireComparison::Greater) => Comparison::Greater,
        Ok(WireComparison::GreaterOrEqual) => Comparison::GreaterOrEqual,
        Ok(WireComparison::Unspecified) | Err(_) => {
            let allowed = "COMPARISON_LESS (1), COMPARISON_LESS_OR_EQUAL (2), COMPARISON_GREATER (3), \
                           COMPARISON_GREATER_OR_EQUAL (4)";
            return Err(WireError::invalid_field("spec.stop_when.comparison", wire.comparison, allowed));
        }
    };
    Ok(Condition { metric, comparison, value: wire.value })
}

/// The wire's name of an order.
pub(crate) fn wire_order(order: Order) -> CgroupOrder {
    match order {
        Order::SelfOnly => CgroupOrder::SelfOnly,
        Order::DescendantsPre => CgroupOrder::DescendantsPre,
        Order::DescendantsPost => CgroupOrder::DescendantsPost,
        Order::AncestorsUp => CgroupOrder::AncestorsUp,
        Order::Children => CgroupOrder::Children,
    }
}
