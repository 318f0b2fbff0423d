//! Walks by the kernel side: find the cgroups, flush, walk, name, and read from files what the kernel keeps
//! nowhere else.

mod decode;
mod flush;
mod learned;
mod locked;
mod memory_stat;
mod observe;
mod raw;
mod recorder;
mod tree;
mod unlocked;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant, SystemTime},
};

use cgfleet_ebpf::abi;
use cgfleet_model::{Metric, MetricGroup, MetricSet, unescape_path};
use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkSummary};
use nix::unistd::{SysconfVar, sysconf};

use crate::{
    cgroupfs::{Hierarchies, Hierarchy, read_metrics},
    kernel::{Kernel, WalkRequest},
};

use super::{
    Target, WalkEngine, WalkError, WalkSpec, Walked,
    find::{Found, find},
    flush::Freshening,
    sample_files::set_from_files,
};
use learned::Looks;
use recorder::{Cost, Recorded, Recorder, Row};
use tree::Named;

pub(super) use self::{
    decode::Decoder,
    memory_stat::MemoryStatIndex,
    raw::{RAWS, groups_of},
    recorder::BpfWalk,
};

/// Runs walks and flushes by the kernel side.
#[derive(Debug)]
pub(super) struct BpfEngine {
    recorder: Recorder,
    hierarchies: Hierarchies,
    rows_max: u32,
    /// For the places of memory.stat's keys.
    looks: Looks,
}

impl BpfEngine {
    /// An engine over a loaded kernel side; a walk returns at most `rows_max` cgroups.
    pub(super) fn new(kernel: Kernel, hierarchies: Hierarchies, rows_max: u32) -> Self {
        let recorder = Recorder::new(kernel, hierarchies.clone());
        let mut engine = Self { recorder, hierarchies, rows_max, looks: Looks::begun(Instant::now()) };
        engine.learn_memory_stat();
        engine
    }

    /// Where the kernel's memory statistics are.
    pub(super) fn memory_stat(&self) -> &MemoryStatIndex {
        &self.recorder.memory_stat
    }

    /// Whether flushes hold cgroup_mutex.
    pub(super) fn flushes_locked(&self) -> bool {
        self.recorder.kernel.flushes_locked()
    }

    /// What has to be done now and then.
    pub(super) fn tidy(&mut self) {
        self.recorder.tidy();
    }

    /// Walks; `needs_flush`: whether rstat is flushed in any case.
    pub(super) fn walk(
        &mut self,
        spec: &WalkSpec,
        engine: BpfWalk,
        needs_flush: bool,
        freshening: &mut Freshening<'_>,
    ) -> Result<Walked, WalkError> {
        let walked = self.try_walk(spec, engine, needs_flush, freshening);
        walked.map_err(|error| error.at("spec.target", &spec.target))
    }

    fn try_walk(
        &mut self,
        spec: &WalkSpec,
        engine: BpfWalk,
        needs_flush: bool,
        freshening: &mut Freshening<'_>,
    ) -> Result<Walked, WalkError> {
        if !self.without_place(spec.metrics).is_empty() {
            self.learn_memory_stat_when_due();
        }
        let found = self.find("spec.target", &spec.target)?;
        let stop_at = spec.stop_at_in(&self.hierarchies, found.hierarchy_id())?;
        let request = WalkRequest {
            start: found.start(),
            order: spec.order.to_abi(),
            groups: self.groups_of(spec.metrics),
            limit: if spec.limit == 0 { self.rows_max } else { spec.limit.min(self.rows_max) },
            stop_at_id: stop_at.map_or(0, |stop_at| stop_at.cgroup_id()),
            max_depth: spec.max_depth.unwrap_or(u32::MAX),
            stop_when: spec.stop_when.and_then(|condition| raw::stop_when(condition, found.hierarchy_id())),
            names_from: 0,
        };
        let mut cost = Cost::default();
        let flushed = self.freshen(&request, &found, needs_flush, freshening, &mut cost)?;
        let read_at = SystemTime::now();
        let recorded = self.recorder.record(&request, found.hierarchy_id(), engine, spec.metrics)?;
        let Recorded { rows, end, cost: walked } = recorded;
        cost.add_walk(&walked);
        let limited_by_us = end == WalkEnd::Limit && (spec.limit == 0 || spec.limit > self.rows_max);
        let (end, truncated_by) = match end {
            WalkEnd::Limit if limited_by_us => (WalkEnd::Truncated, "walk_rows_max"),
            end => (end, ""),
        };
        let groups = request.groups;
        let sample = |row| self.sample(row, spec.metrics, groups, &mut cost.files);
        let samples = rows.into_iter().filter_map(sample).collect();
        let of_flush = flushed.map(|(outcome, flush)| WalkSummary {
            flush_outcome: outcome.into(),
            flushed_cgroup_id: flush.cgroup_id,
            flushed_at: Some(flush.flushed_at.into()),
            flush_ns: flush.flush_ns,
            ..WalkSummary::default()
        });
        let summary = WalkSummary {
            engine: WalkEngine::from(engine).to_wire().into(),
            end: end.into(),
            cgroups_visited: cost.cgroups_visited,
            walk_ns: cost.walk_ns,
            cgroup_mutex_held_ns_max: cost.mutex_held_ns_max,
            truncated_by: truncated_by.to_owned(),
            unbroken_ns_max: cost.unbroken_ns_max,
            files_ns: u64::try_from(cost.files.as_nanos()).unwrap_or(u64::MAX),
            read_at: Some(read_at.into()),
            ..of_flush.unwrap_or_default()
        };
        Ok(Walked { samples, summary })
    }

    /// Finds a target; by id in the tree that is mounted, where the kernel does not take all ids.
    fn find(&mut self, field: &'static str, target: &Target) -> Result<Found, WalkError> {
        match target {
            Target::Id(id) if !self.recorder.takes_ids => match self.recorder.locate_id(*id)? {
                Some(located) => Ok(Found::ByPath(located)),
                None => Err(WalkError::NoSuchCgroup { field, target: target.to_text() }),
            },
            target => find(&self.hierarchies, field, target),
        }
    }

    /// The record groups for these metrics. memory.stat is read from the kernel's arrays only if all that
    /// is asked of it has a place there: a group has one source. What no file shows does not count.
    fn groups_of(&self, metrics: MetricSet) -> abi::cg_group {
        let memory_stat = metrics.intersection(MetricSet::of_group(MetricGroup::MemoryStat));
        let memory_stat = memory_stat.without(self.memory_stat().unshown());
        let is_known = self.without_place(metrics).is_empty();
        let of_arrays = if is_known && !memory_stat.is_empty() { abi::CG_GROUP_MEMORY_STAT } else { 0 };
        raw::groups_of(metrics) | of_arrays
    }

    /// What is asked of memory.stat and has no place in the kernel's arrays, as far as is known.
    fn without_place(&self, metrics: MetricSet) -> MetricSet {
        let asked = metrics.intersection(MetricSet::of_group(MetricGroup::MemoryStat));
        asked.without(self.memory_stat().unshown()).without(self.memory_stat().metrics())
    }

    /// A row as a whole sample. `None` if an ancestor was removed before its name was read: then the
    /// cgroup is gone too.
    fn sample(
        &mut self,
        row: Row,
        metrics: MetricSet,
        groups: abi::cg_group,
        files: &mut Duration,
    ) -> Option<CgroupSample> {
        let Row { record, mut sample } = row;
        let Named { cgroup_id, parent_id, path } = self.recorder.tree.named(&record)?;
        let hierarchy = self.hierarchies.by_id(record.hierarchy_id);
        let is_root = record.level == 0;
        if let Some(hierarchy) = hierarchy {
            let mut from_files = metrics_of_files(hierarchy, is_root, &sample, metrics, groups);
            if hierarchy.is_v2() && !self.hierarchies.has_on_v2("memory") {
                // No cgroup there has the file.
                from_files = from_files.without(MetricSet::of_group(MetricGroup::MemoryStat));
            }
            if !from_files.is_empty() {
                // What is above the mount has no files here.
                if let Some(directory) = hierarchy.directory(&unescape_path(&path).ok()?) {
                    let started = Instant::now();
                    let read = read_metrics(hierarchy, &directory, is_root, from_files);
                    *files += started.elapsed();
                    // Another cgroup may have its path by now.
                    if fs::metadata(&directory).is_ok_and(|found| found.ino() == cgroup_id) {
                        set_from_files(&mut sample, read);
                    }
                }
            }
        }
        (sample.cgroup_id, sample.parent_id) = (cgroup_id, parent_id);
        path.as_ref().clone_into(&mut sample.path);
        Some(sample)
    }
}

/// The metrics of the groups that have to be read from files: those of a root that the kernel does not
/// keep in the cgroup, CPU time of cgroup v1, and what of memory.stat has no known place.
fn metrics_of_files(
    hierarchy: &Hierarchy,
    is_root: bool,
    sample: &CgroupSample,
    metrics: MetricSet,
    groups: abi::cg_group,
) -> MetricSet {
    let reads_memory_stat =
        metrics.touches(MetricGroup::MemoryStat) && groups & abi::CG_GROUP_MEMORY_STAT == 0;
    // As are nearly all rows.
    if hierarchy.is_v2() && !is_root && !reads_memory_stat {
        return MetricSet::default();
    }
    let is_of_file = |group: &&MetricGroup| match group {
        MetricGroup::Cpu if !hierarchy.is_v2() => hierarchy.has_controller("cpuacct"),
        // Where the kernel was asked, a cgroup without it has no memory controller.
        MetricGroup::MemoryStat => reads_memory_stat,
        group => is_root && decode::is_absent(sample, metrics, **group),
    };
    let groups = MetricGroup::ALL.iter().filter(|group| metrics.touches(**group)).filter(is_of_file);
    groups
        .fold(MetricSet::default(), |set, group| set.union(metrics.intersection(MetricSet::of_group(*group))))
}

impl From<BpfWalk> for WalkEngine {
    fn from(walk: BpfWalk) -> Self {
        match walk {
            BpfWalk::Locked => Self::Locked,
            BpfWalk::Unlocked => Self::Unlocked,
        }
    }
}

/// The kernel's CPUs, and not those that this process may use: what lies unflushed depends on them.
fn online_cpus() -> usize {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|cpus| usize::try_from(cpus).ok()).unwrap_or(1)
}

/// Whether a program reads the metric of an ordinary cgroup v2 cgroup.
pub(super) fn is_read_by_bpf(metric: Metric, memory_stat: &MemoryStatIndex) -> bool {
    match metric.info().group {
        MetricGroup::MemoryStat => memory_stat.metrics().contains(metric),
        _ => !decode::NEVER_BY_BPF.contains(&metric),
    }
}
