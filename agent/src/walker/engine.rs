//! Whoever can do a walk: the kernel side where there is BPF, the cgroup files everywhere. What is the same
//! for all of them is done here: conditions, read masks, names of workloads, and several hierarchies side by side.

use std::fmt;

use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkSummary};

use crate::{
    cgroupfs::Hierarchies,
    collectors::Collectors,
    kernel::{Kernel, Lifecycle},
    workloads::Workloads,
};

use super::{
    Description, Rows, WalkEngine, WalkError, WalkSpec, Walked,
    bpf::{BpfEngine, BpfWalk},
    files::FilesEngine,
    flush::{FlushSite, FlushSpec, FlushedSubtree, Freshening},
    join, naming,
    removals::{RemovalWatch, RemovedValues},
    sources,
};

/// What is walked in place of the host's cgroups, by tests of all that is above a walk. The product has none.
pub trait Tree: fmt::Debug + Send {
    /// Answers a walk in cgroup v2. What is told to be the same for all walks is done to its answer.
    fn walk(&mut self, spec: &WalkSpec) -> Result<Walked, WalkError>;

    /// The same for a feed.
    fn read(&mut self, spec: &WalkSpec) -> Result<(Rows, WalkSummary), WalkError>;
}

/// Runs walks and flushes.
#[derive(Debug)]
pub struct Engine {
    hierarchies: Hierarchies,
    /// Walked in place of the host's cgroups, if there is one.
    tree: Option<Box<dyn Tree>>,
    files: FilesEngine,
    /// The reason if there is none.
    bpf: Result<BpfEngine, String>,
    pub(super) collectors: Collectors,
    pub(super) removals: RemovalWatch,
    workloads: Workloads,
}

impl Engine {
    /// An engine over a loaded kernel side, or, for the given reason, over files alone. A walk returns at
    /// most `rows_max` cgroups.
    pub fn new(
        kernel: Result<Kernel, String>,
        collectors: Collectors,
        workloads: Workloads,
        hierarchies: &Hierarchies,
        rows_max: u32,
    ) -> Self {
        Self {
            hierarchies: hierarchies.clone(),
            tree: None,
            files: FilesEngine::new(hierarchies.clone(), rows_max),
            bpf: kernel.map(|kernel| BpfEngine::new(kernel, hierarchies.clone(), rows_max)),
            collectors,
            removals: RemovalWatch::none(),
            workloads,
        }
    }

    /// The same, which can watch removals: `kept_max` removed cgroups are kept until they are asked for, each
    /// with all that can be read of it.
    #[must_use]
    pub fn with_lifecycle(self, lifecycle: Lifecycle, kept_max: u32) -> Self {
        let removals = RemovalWatch::new(lifecycle, self.hierarchies.clone(), kept_max);
        Self { removals, ..self }
    }

    /// The same over this tree.
    #[must_use]
    pub fn over(self, tree: Option<Box<dyn Tree>>) -> Self {
        Self { tree, ..self }
    }

    pub(super) fn describe(&self) -> Result<Description, WalkError> {
        let memory_stat = self.bpf.as_ref().ok().map(BpfEngine::memory_stat);
        let sources = sources::sources(&self.hierarchies, memory_stat);
        Ok(Description { sources, collectors: self.collectors.list()? })
    }

    /// With what values removed cgroups can be told of; `None` if removals are not seen.
    pub fn removed_values(&self) -> Option<RemovedValues> {
        self.removals.values()
    }

    /// Every engine, and why it is not there or what is to be known of it.
    pub fn engines(&self) -> Vec<(WalkEngine, Result<&'static str, String>)> {
        let flushes_locked = self.bpf.as_ref().is_ok_and(BpfEngine::flushes_locked);
        let unlocked =
            if flushes_locked { "this kernel flushes under cgroup_mutex all the same" } else { "" };
        let by_bpf = |reason| self.bpf.as_ref().map(|_| reason).map_err(Clone::clone);
        vec![
            (WalkEngine::Unlocked, by_bpf(unlocked)),
            (WalkEngine::Locked, by_bpf("")),
            (WalkEngine::Files, Ok("")),
        ]
    }

    pub(super) fn walk(
        &mut self,
        spec: &WalkSpec,
        freshening: &mut Freshening<'_>,
    ) -> Result<Walked, WalkError> {
        let asked = spec.metrics;
        let condition = spec.stop_when;
        let limit = spec.limit;
        let mut spec = spec.clone();
        spec.limit = spec.naming.walk_limit(limit);
        spec.metrics.extend(condition.map(|condition| condition.metric));
        let mut walked = if spec.joins_hierarchies {
            join::walk(&self.hierarchies.clone(), &spec, |spec| self.walk_one(spec, freshening))?
        } else {
            self.walk_one(&spec, freshening)?
        };
        // The kernel side has ended the walk already, unless the metric is none that it reads.
        let holds = |sample: &CgroupSample| {
            condition.is_some_and(|condition| condition.holds(sample.metric(condition.metric)))
        };
        if let Some(at) = walked.samples.iter().position(holds) {
            walked.samples.truncate(at + 1);
            walked.summary.set_end(WalkEnd::StopWhen);
            walked.summary.truncated_by.clear();
        }
        // A condition may have had more read than was asked for.
        if spec.metrics != asked {
            walked.samples.iter_mut().for_each(|sample| sample.keep_only(asked));
        }
        naming::name(&mut walked, &self.workloads, &spec.naming, limit);
        Ok(walked)
    }

    /// Walks for a feed.
    pub(super) fn read(
        &mut self,
        spec: &WalkSpec,
        freshening: &mut Freshening<'_>,
    ) -> Result<(Rows, WalkSummary), WalkError> {
        if let Some(tree) = &mut self.tree {
            return tree.read(spec);
        }
        let Walked { samples, summary } = self.walk(spec, freshening)?;
        Ok((Rows::Made(samples), summary))
    }

    /// Walks in one hierarchy.
    fn walk_one(&mut self, spec: &WalkSpec, freshening: &mut Freshening<'_>) -> Result<Walked, WalkError> {
        if let Some(tree) = &mut self.tree {
            return tree.walk(spec);
        }
        let walk = match spec.engine {
            Some(WalkEngine::Files) => return self.files.walk(spec),
            Some(WalkEngine::Locked) => BpfWalk::Locked,
            None if self.bpf.is_err() => return self.files.walk(spec),
            Some(WalkEngine::Unlocked) | None => BpfWalk::Unlocked,
        };
        match &mut self.bpf {
            Ok(bpf) => {
                let needs_flush = self.collectors.needs_flush(spec.metrics);
                let mut walked = bpf.walk(spec, walk, needs_flush, freshening)?;
                let flushed_id = walked.summary.flushed_cgroup_id;
                self.collectors.fill(&mut walked.samples, spec.metrics, flushed_id);
                Ok(walked)
            }
            Err(reason) => {
                let engine = WalkEngine::from(walk).to_wire().as_str_name();
                Err(WalkError::NoSuchEngine { engine, reason: reason.clone() })
            }
        }
    }

    /// Finds the cgroup to flush, and what is above it.
    pub(super) fn find_to_flush(&mut self, spec: &FlushSpec) -> Result<FlushSite, WalkError> {
        match &mut self.bpf {
            Ok(bpf) => bpf.find_to_flush(spec),
            Err(_) => self.files.find_to_flush(spec),
        }
    }

    /// Flushes; `None` if the cgroup was removed.
    pub(super) fn flush(&mut self, site: &FlushSite) -> Result<Option<FlushedSubtree>, WalkError> {
        match &mut self.bpf {
            Ok(bpf) => bpf.flush(site),
            Err(_) => self.files.flush(site),
        }
    }

    /// What has to be done now and then.
    pub(super) fn tidy(&mut self) {
        if let Ok(bpf) = &mut self.bpf {
            bpf.tidy();
        }
        self.removals.tidy();
    }
}
