//! Requests to flush: what can be asked for, who waits for what, and how each is answered.
//!
//! Must not know how a cgroup is found or flushed: that is the engine's.

mod budget;
mod by_files;
mod ledger;
mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Engine, Target, WalkError, find::Found};
use ledger::{Asked, Performed, Verdict};

pub(super) use by_files::{flush_by_files, has_subsystem};
pub(super) use waiting::{Waiter, Waiting};

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
    fn file(self) -> &'static str {
        match self {
            Self::Cpu => "cpu.stat",
            Self::Memory => "memory.stat",
            Self::Io => "io.stat",
        }
    }

    /// What reading that file does: only mm/memcontrol.c, mem_cgroup_flush_stats, has a threshold.
    fn method_by_file(self) -> FlushMethod {
        match self {
            Self::Cpu | Self::Io => FlushMethod::File,
            Self::Memory => FlushMethod::FilePastThreshold,
        }
    }

    /// The root's cpu.stat and io.stat tell of the machine, and flush nothing (kernel/cgroup/rstat.c,
    /// cgroup_base_stat_cputime_show; block/blk-cgroup.c, blkcg_print_stat).
    fn is_flushed_by_the_roots_file(self) -> bool {
        self == Self::Memory
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
    /// When all of it had ended.
    pub flushed_at: SystemTime,
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
}

impl FlushSite {
    /// The site of a target, by the line from the target upward, which ends at the root or, if that is
    /// out of sight, below it.
    pub(super) fn new(found: Found, scope: FlushScope, mut line: Vec<u64>, ends_at_root: bool) -> Self {
        if scope == FlushScope::Ancestors {
            // All that is asked for is below the last cgroup under the root, if there is any.
            let topmost = line.len().checked_sub(if ends_at_root { 2 } else { 1 });
            line.drain(..topmost.unwrap_or(line.len()));
        }
        Self { found, scope, line }
    }
}

/// Answers all who ask for the same: at most one flush is performed for all of them.
pub(super) fn answer_all(engine: &mut Engine, ledger: &mut Ledger, spec: &FlushSpec, waiters: Vec<Waiter>) {
    let mut site = None;
    // A requester that has gone does not want the answer, nor the work for it.
    for waiter in waiters.into_iter().filter(|waiter| !waiter.answer.is_closed()) {
        let answer = answer(engine, ledger, spec, &mut site, &waiter);
        drop(waiter.answer.send(answer));
    }
}

fn answer(
    engine: &mut Engine,
    ledger: &mut Ledger,
    spec: &FlushSpec,
    site: &mut Option<FlushSite>,
    waiter: &Waiter,
) -> Result<FlushAnswer, WalkError> {
    let site = match site {
        Some(site) => site,
        None => site.insert(engine.find_to_flush(spec)?),
    };
    if site.line.is_empty() {
        return Ok(FlushAnswer::Skipped(None));
    }
    let hierarchy_id = site.found.hierarchy_id();
    let Waiter { asked_at, max_staleness, .. } = *waiter;
    let began_at = Instant::now();
    match ledger.judge(&Asked { hierarchy_id, line: &site.line, asked_at, max_staleness }, began_at) {
        Verdict::Coalesced(flush) => Ok(FlushAnswer::Coalesced(flush)),
        Verdict::Skipped(flush) => Ok(FlushAnswer::Skipped(Some(flush))),
        Verdict::RateLimited { retry_after } => Ok(FlushAnswer::RateLimited { retry_after }),
        Verdict::Perform => {
            let flushed = engine.flush(site).map_err(|error| error.at("target", &spec.target))?;
            let gone = || WalkError::NoSuchCgroup { field: "target", target: spec.target.to_text() };
            let flush = Arc::new(flushed.ok_or_else(gone)?);
            let (cgroup_id, ended_at) = (flush.cgroup_id, Instant::now());
            let flush_of_it = Arc::clone(&flush);
            ledger.performed(Performed { hierarchy_id, cgroup_id, began_at, ended_at, flush: flush_of_it });
            Ok(FlushAnswer::Performed(flush))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_upward_needs_the_last_cgroup_under_the_root() {
        let check = |scope, line: &[u64], ends_at_root, expect: &[u64]| {
            let site = FlushSite::new(Found::ById(7), scope, line.to_vec(), ends_at_root);
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
}
