//! A walk from the request to the samples: find the cgroups, flush, walk, name, and read from files
//! what the kernel keeps nowhere else.

use std::{os::fd::AsFd as _, time::SystemTime};

use cgfleet_ebpf::abi::{self, cg_record};
use cgfleet_model::unescape_path;
use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkSummary};

use crate::{
    cgroupfs::{Hierarchies, LocateError, Located, read_cpu},
    kernel::{Flushed, Kernel, Start, WalkRequest},
};

use super::{
    FlushedSubtree, Order, Target, WalkError, WalkSpec, Walked, decode,
    recorder::{Cost, Recorded, Recorder},
};

/// Runs walks and flushes.
#[derive(Debug)]
pub struct Engine {
    recorder: Recorder,
    hierarchies: Hierarchies,
    rows_max: u32,
}

/// A target as the kernel takes it.
enum Found {
    ByPath(Located),
    ById(u64),
}

impl Found {
    fn start(&self) -> Start<'_> {
        match self {
            Self::ByPath(located) => Start::Directory(located.directory.as_fd()),
            Self::ById(id) => Start::Id(*id),
        }
    }

    fn cgroup_id(&self) -> u64 {
        match self {
            Self::ByPath(located) => located.cgroup_id,
            Self::ById(id) => *id,
        }
    }

    /// The kernel takes ids of cgroup v2 only.
    fn hierarchy_id(&self) -> u32 {
        match self {
            Self::ByPath(located) => located.hierarchy_id,
            Self::ById(_) => 0,
        }
    }
}

impl Engine {
    /// An engine over a loaded kernel side; a walk returns at most `rows_max` cgroups.
    pub fn new(kernel: Kernel, hierarchies: Hierarchies, rows_max: u32) -> Self {
        Self { recorder: Recorder::new(kernel, hierarchies.clone()), hierarchies, rows_max }
    }

    pub(super) fn walk(&mut self, spec: &WalkSpec) -> Result<Walked, WalkError> {
        self.try_walk(spec).map_err(|error| error.at("spec.target", &spec.target))
    }

    pub(super) fn flush(&mut self, target: &Target) -> Result<FlushedSubtree, WalkError> {
        self.try_flush(target).map_err(|error| error.at("target", target))
    }

    fn try_walk(&mut self, spec: &WalkSpec) -> Result<Walked, WalkError> {
        let found = self.find("spec.target", &spec.target)?;
        let stop_at = spec.stop_at.as_ref().map(|stop_at| self.find("spec.stop_at", stop_at)).transpose()?;
        if stop_at.as_ref().is_some_and(|stop_at| stop_at.hierarchy_id() != found.hierarchy_id()) {
            let stop_at = spec.stop_at.as_ref().map(Target::to_text).unwrap_or_default();
            return Err(WalkError::StopAtElsewhere { stop_at, target: spec.target.to_text() });
        }
        let request = WalkRequest {
            start: found.start(),
            order: spec.order.to_abi(),
            groups: decode::groups_of(spec.metrics),
            limit: if spec.limit == 0 { self.rows_max } else { spec.limit.min(self.rows_max) },
            stop_at_id: stop_at.map_or(0, |stop_at| stop_at.cgroup_id()),
            max_depth: spec.max_depth.unwrap_or(u32::MAX),
            names_from: 0,
        };
        // What rstat keeps and is not asked for need not be fresh; of v1 we read files alone.
        let flush = request.groups != 0 && found.hierarchy_id() == 0;
        let flushed = if flush { self.recorder.flush_topmost(&request)? } else { Flushed::default() };
        let flushed_at = (flushed.cgroup_id != 0).then(SystemTime::now);
        let Recorded { records, end, cost } =
            self.recorder.record(&request, found.hierarchy_id(), spec.engine)?;
        let limited_by_us = end == WalkEnd::Limit && (spec.limit == 0 || spec.limit > self.rows_max);
        let (end, truncated_by) = match end {
            WalkEnd::Limit if limited_by_us => (WalkEnd::Truncated, "walk_rows_max"),
            end => (end, ""),
        };
        let samples = records.iter().filter_map(|record| self.sample(record, spec)).collect();
        let summary = WalkSummary {
            engine: decode::wire_engine(spec.engine).into(),
            end: end.into(),
            cgroups_visited: cost.cgroups_visited,
            flushed_cgroup_id: flushed.cgroup_id,
            flushed_at: flushed_at.map(Into::into),
            flush_ns: flushed.flush_ns,
            walk_ns: cost.walk_ns,
            cgroup_mutex_held_ns_max: cost.mutex_held_ns_max.max(flushed.mutex_held_ns),
            truncated_by: truncated_by.to_owned(),
            unbroken_ns_max: cost.unbroken_ns_max,
        };
        Ok(Walked { samples, summary })
    }

    fn try_flush(&mut self, target: &Target) -> Result<FlushedSubtree, WalkError> {
        let found = self.find("target", target)?;
        // An answer that goes down from here is what a flush prepares.
        let order = Order::DescendantsPre.to_abi();
        let request = WalkRequest { order, limit: 1, ..WalkRequest::ancestors(found.start()) };
        let flushed = self.recorder.flush_topmost(&request)?;
        if flushed.cgroup_id == 0 {
            return Err(WalkError::NoSuchCgroup { field: "target", target: target.to_text() });
        }
        self.recorder.learn_names(&WalkRequest::ancestors(request.start), &mut Cost::default())?;
        let path = self.recorder.path(found.hierarchy_id(), flushed.cgroup_id);
        Ok(FlushedSubtree {
            cgroup_id: flushed.cgroup_id,
            path: path.as_deref().unwrap_or_default().to_owned(),
            flush_ns: flushed.flush_ns,
        })
    }

    /// What has to be done now and then.
    pub(super) fn tidy(&mut self) {
        self.recorder.tidy();
    }

    fn find(&mut self, field: &'static str, target: &Target) -> Result<Found, WalkError> {
        match target {
            Target::Id(id) if self.recorder.takes_ids => Ok(Found::ById(*id)),
            Target::Id(id) => match self.recorder.locate_id(*id)? {
                Some(located) => Ok(Found::ByPath(located)),
                None => Err(WalkError::NoSuchCgroup { field, target: target.to_text() }),
            },
            Target::Path { hierarchy, path } => match self.hierarchies.locate(hierarchy, path) {
                Ok(located) => Ok(Found::ByPath(located)),
                Err(LocateError::NoSuchCgroup(_)) => {
                    Err(WalkError::NoSuchCgroup { field, target: target.to_text() })
                }
                Err(cause) => Err(WalkError::Target { field, target: target.to_text(), cause }),
            },
        }
    }

    /// A record as a sample. `None` if an ancestor was removed before its name was read: then the
    /// cgroup is gone too.
    fn sample(&mut self, record: &cg_record, spec: &WalkSpec) -> Option<CgroupSample> {
        let path = self.recorder.path(record.hierarchy_id, record.id)?;
        let mut sample = decode::sample(record, &path);
        if sample.cpu.is_none() && decode::groups_of(spec.metrics) & abi::CG_GROUP_CPU != 0 {
            let hierarchy = self.hierarchies.by_id(record.hierarchy_id);
            let path = unescape_path(&path).ok()?;
            sample.cpu = hierarchy.and_then(|hierarchy| read_cpu(hierarchy, &path)).map(decode::cpu_of_file);
        }
        sample.keep_only(spec.metrics);
        Some(sample)
    }
}
