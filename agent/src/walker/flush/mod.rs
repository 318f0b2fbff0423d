//! Requests to flush: what can be asked for, who waits for what, and how each is answered.
//!
//! Must not know how a cgroup is found or flushed: that is the engine's.

mod budget;
mod by_files;
mod freshening;
mod ledger;
mod subsystem;

use std::{
    slice,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::oneshot;

use super::{Engine, Target, WalkError, find::Found};
use ledger::{Asked, Performed, Verdict};

pub(super) use by_files::{flush_by_files, has_subsystem};
pub(super) use freshening::{FlushRule, Freshened, Freshening, ToFlush};
pub(super) use ledger::{FlushDemand, MetBy};
pub(super) use subsystem::Subsystems;
pub use subsystem::{FlushMethod, FlushedSubsystem, Subsystem};

/// The flushes that were performed, and how many more may be.
pub(super) type Ledger = ledger::Ledger<Arc<FlushedSubtree>>;

/// What a flush makes current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlushScope {
    /// The target and all below it.
    Subtree,
    /// The target and all above it, but for the root.
    Ancestors,
}

/// What to flush.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlushSpec {
    /// The cgroup.
    pub target: Target,
    /// What of the tree around it.
    pub scope: FlushScope,
}

/// A flush that was performed.
#[derive(Debug)]
pub struct FlushedSubtree {
    /// The cgroup whose subtree was flushed.
    pub cgroup_id: u64,
    /// Its path as text; empty if it is not known.
    pub path: String,
    /// Time in the flush by a program, in nanoseconds.
    pub flush_ns: u64,
    /// Time for the files that were read.
    pub files: Duration,
    /// Time for which cgroup_mutex was held, in nanoseconds.
    pub mutex_held_ns: u64,
    /// When all of it had ended.
    pub flushed_at: SystemTime,
    /// When it began and ended, by a clock that is not set.
    pub times: (Instant, Instant),
    /// What was flushed.
    pub subsystems: Vec<FlushedSubsystem>,
}

/// How a request was met.
#[derive(Debug)]
pub enum FlushAnswer {
    /// This flush was performed for it.
    Performed(Arc<FlushedSubtree>),
    /// This flush was performed for another request that waited with it.
    Coalesced(Arc<FlushedSubtree>),
    /// This flush is not too old; `None` if nothing has to be flushed.
    Skipped(Option<Arc<FlushedSubtree>>),
    /// None was performed: too many were.
    RateLimited {
        /// In what time one is to be had again.
        retry_after: Duration,
    },
}

/// A cgroup to be flushed, found.
#[derive(Debug)]
pub(super) struct FlushSite {
    pub(super) found: Found,
    pub(super) scope: FlushScope,
    /// The cgroup whose subtree is to be flushed, and all above it; empty if nothing has to be.
    pub(super) line: Vec<u64>,
    /// What is to be flushed of it: all that its hierarchy has.
    pub(super) subsystems: Subsystems,
}

impl FlushSite {
    /// The site of a target, by the line from the target upward, which ends at the root or, if that is
    /// out of sight, below it.
    pub(super) fn new(
        found: Found,
        scope: FlushScope,
        line: Vec<u64>,
        ends_at_root: bool,
        subsystems: Subsystems,
    ) -> Self {
        let line = match scope {
            FlushScope::Subtree => line,
            FlushScope::Ancestors => upward(line, 0, 0, ends_at_root),
        };
        Self { found, scope, line, subsystems }
    }
}

/// Of a line from a cgroup upward, the part from the topmost cgroup on that an answer upward has (see
/// `is_topmost` in ebpf/src/control.h), but for the root; empty if the root is all that there is. 0 for no limit,
/// or no cgroup to stop at.
pub(super) fn upward(mut line: Vec<u64>, limit: u32, stop_at_id: u64, ends_at_root: bool) -> Vec<u64> {
    let Some(last) = line.len().checked_sub(if ends_at_root { 2 } else { 1 }) else { return Vec::new() };
    let ends =
        |(place, id): (usize, &u64)| *id == stop_at_id || Some(place + 1) == usize::try_from(limit).ok();
    let topmost = line.iter().enumerate().position(ends).map_or(last, |place| place.min(last));
    line.drain(..topmost);
    line
}

/// Somebody who waits for a flush.
#[derive(Debug)]
pub(super) struct FlushWaiter {
    pub(super) demand: FlushDemand,
    pub(super) answer: oneshot::Sender<Result<FlushAnswer, WalkError>>,
}

/// Answers all who ask for the same: at most one flush is performed for all of them.
pub(super) fn answer_all(
    engine: &mut Engine,
    ledger: &mut Ledger,
    spec: &FlushSpec,
    waiters: Vec<FlushWaiter>,
) {
    let mut site = None;
    // A requester that has gone does not want the answer, nor the work for it.
    for waiter in waiters.into_iter().filter(|waiter| !waiter.answer.is_closed()) {
        let answer = answer(engine, ledger, spec, &mut site, &waiter.demand);
        drop(waiter.answer.send(answer));
    }
}

fn answer(
    engine: &mut Engine,
    ledger: &mut Ledger,
    spec: &FlushSpec,
    site: &mut Option<FlushSite>,
    demand: &FlushDemand,
) -> Result<FlushAnswer, WalkError> {
    let site = match site {
        Some(site) => site,
        None => site.insert(engine.find_to_flush(spec)?),
    };
    if site.line.is_empty() {
        return Ok(FlushAnswer::Skipped(None));
    }
    let hierarchy_id = site.found.hierarchy_id();
    let (subsystems, demands) = (site.subsystems, slice::from_ref(demand));
    match ledger.judge(&Asked { hierarchy_id, line: &site.line, subsystems, demands }, Instant::now()) {
        Verdict::Met(MetBy::Beginning, flush) => Ok(FlushAnswer::Coalesced(flush)),
        Verdict::Met(MetBy::Staleness, flush) => Ok(FlushAnswer::Skipped(Some(flush))),
        Verdict::RateLimited { retry_after } => Ok(FlushAnswer::RateLimited { retry_after }),
        Verdict::Perform => {
            let flushed = engine.flush(site).map_err(|error| error.at("target", &spec.target))?;
            let gone = || WalkError::NoSuchCgroup { field: "target", target: spec.target.to_text() };
            let flush = Arc::new(flushed.ok_or_else(gone)?);
            enter(ledger, hierarchy_id, subsystems, &flush);
            Ok(FlushAnswer::Performed(flush))
        }
    }
}

/// Enters a flush that was performed.
fn enter(ledger: &mut Ledger, hierarchy_id: u32, subsystems: Subsystems, flush: &Arc<FlushedSubtree>) {
    let (cgroup_id, (began_at, ended_at)) = (flush.cgroup_id, flush.times);
    let flush = Arc::clone(flush);
    ledger.performed(Performed { hierarchy_id, cgroup_id, subsystems, began_at, ended_at, flush });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_upward_needs_the_last_cgroup_under_the_root() {
        let check = |scope, line: &[u64], ends_at_root, expect: &[u64]| {
            let site = FlushSite::new(Found::ById(7), scope, line.to_vec(), ends_at_root, Subsystems::ALL);
            assert_eq!(site.line, expect, "{scope:?} of {line:?}");
        };
        for line in [&[1][..], &[2, 1], &[200, 20, 2, 1]] {
            check(FlushScope::Subtree, line, true, line);
            check(FlushScope::Subtree, line, false, line);
        }
        check(FlushScope::Ancestors, &[1], true, &[]);
        check(FlushScope::Ancestors, &[2, 1], true, &[2, 1]);
        check(FlushScope::Ancestors, &[200, 20, 2, 1], true, &[2, 1]);
        check(FlushScope::Ancestors, &[200, 20, 2], false, &[2]);
        check(FlushScope::Ancestors, &[2], false, &[2]);
    }

    #[test]
    fn an_answer_upward_may_end_before_that() {
        let check = |limit, stop_at_id, expect: &[u64]| {
            assert_eq!(upward(vec![200, 20, 2, 1], limit, stop_at_id, true), expect, "{limit} {stop_at_id}");
        };
        check(1, 0, &[200, 20, 2, 1]);
        check(2, 0, &[20, 2, 1]);
        check(3, 0, &[2, 1]);
        check(4, 0, &[2, 1]);
        check(9, 0, &[2, 1]);
        check(0, 200, &[200, 20, 2, 1]);
        check(0, 20, &[20, 2, 1]);
        check(0, 1, &[2, 1]);
        check(0, 7, &[2, 1]);
        check(1, 20, &[200, 20, 2, 1]);
        check(3, 20, &[20, 2, 1]);
        assert!(upward(vec![1], 1, 1, true).is_empty());
    }
}
