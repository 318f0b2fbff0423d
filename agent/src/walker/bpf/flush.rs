//! Flushes by the kernel side, and by files of what no program may flush.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use cgfleet_model::{MetricSet, unescape_path};

use super::{BpfEngine, BpfWalk, RSTAT_GROUPS};
use crate::{
    kernel::{Flushed, WalkRequest},
    walker::{
        Order, WalkError,
        flush::{
            FlushMethod, FlushScope, FlushSite, FlushSpec, FlushedSubsystem, FlushedSubtree, Subsystem,
            flush_by_files, has_subsystem,
        },
    },
};

/// Why a controller's statistics are flushed by its file: kernel/cgroup/rstat.c, css_rstat_flush.
pub(super) const BY_SUBSYSTEM: &str =
    "on this kernel a program's flush leaves that controller's statistics alone, and cannot reach them";

impl BpfEngine {
    /// Finds the cgroup to flush, and what is above it.
    pub(in crate::walker) fn find_to_flush(&mut self, spec: &FlushSpec) -> Result<FlushSite, WalkError> {
        self.try_find_to_flush(spec).map_err(|error| error.at("target", &spec.target))
    }

    fn try_find_to_flush(&mut self, spec: &FlushSpec) -> Result<FlushSite, WalkError> {
        let found = self.find("target", &spec.target)?;
        let upward = WalkRequest::ancestors(found.start());
        let recorded =
            self.recorder.record(&upward, found.hierarchy_id(), BpfWalk::Unlocked, MetricSet::default())?;
        if recorded.rows.is_empty() {
            return Err(WalkError::NoSuchCgroup { field: "target", target: spec.target.to_text() });
        }
        let tree = &mut self.recorder.tree;
        let line = recorded.rows.iter().filter_map(|row| Some(tree.named(&row.record)?.cgroup_id)).collect();
        // A walk upward leaves the cgroup namespace, and ends nowhere else.
        Ok(FlushSite::new(found, spec.scope, line, true))
    }

    /// Flushes; `None` if the cgroup was removed.
    pub(in crate::walker) fn flush(&mut self, site: &FlushSite) -> Result<Option<FlushedSubtree>, WalkError> {
        let hierarchy_id = site.found.hierarchy_id();
        let order = match site.scope {
            FlushScope::Subtree => Order::DescendantsPre,
            FlushScope::Ancestors => Order::AncestorsUp,
        };
        let start = site.found.start();
        let request = WalkRequest { groups: RSTAT_GROUPS, ..WalkRequest::of(start, order.to_abi()) };
        let flushed = self.recorder.flush_topmost(&request)?;
        if flushed.cgroup_id == 0 {
            return Ok(None);
        }
        let path = self.recorder.path(hierarchy_id, flushed.serial);
        let path = path.as_deref().unwrap_or_default().to_owned();
        let started = Instant::now();
        let directory = self.directory_of(hierarchy_id, flushed.cgroup_id, &path);
        let subsystems = self.flush_the_rest(&flushed, hierarchy_id, directory.as_deref(), path == "/");
        Ok(Some(FlushedSubtree {
            cgroup_id: flushed.cgroup_id,
            path,
            flush_ns: flushed.flush_ns,
            files: started.elapsed(),
            flushed_at: SystemTime::now(),
            subsystems,
        }))
    }

    /// Where a cgroup's files are; `None` if it is above what is mounted, or was removed.
    fn directory_of(&self, hierarchy_id: u32, cgroup_id: u64, path: &str) -> Option<PathBuf> {
        let path = unescape_path(path).ok().filter(|path| !path.is_empty())?;
        let directory = self.hierarchies.by_id(hierarchy_id)?.directory(&path)?;
        let is_it = fs::metadata(&directory).is_ok_and(|found| found.ino() == cgroup_id);
        is_it.then_some(directory)
    }

    /// Flushes what the program did not, and says what became of each subsystem that the cgroup has.
    fn flush_the_rest(
        &self,
        by_programs: &Flushed,
        hierarchy_id: u32,
        directory: Option<&Path>,
        is_root: bool,
    ) -> Vec<FlushedSubsystem> {
        let by_program =
            |subsystem| FlushedSubsystem { subsystem, method: FlushMethod::Rstat, reason: String::new() };
        // CPU time of cgroup v1 is not in rstat.
        let is_v2 = hierarchy_id == 0;
        let mut flushed: Vec<_> = is_v2.then(|| by_program(Subsystem::Cpu)).into_iter().collect();
        let mut controllers = self.controllers_of(hierarchy_id);
        if by_programs.memory {
            flushed.push(by_program(Subsystem::Memory));
            controllers.retain(|subsystem| *subsystem != Subsystem::Memory);
        }
        let by_subsystem = self.recorder.kernel.facts().flushes_by_subsystem;
        match directory {
            Some(directory) if by_subsystem => {
                flushed.extend(flush_by_files(directory, is_root, &controllers, BY_SUBSYSTEM));
            }
            None if by_subsystem => flushed.extend(controllers.into_iter().map(|subsystem| {
                let reason = format!("its files are not to be seen here, and {BY_SUBSYSTEM}");
                FlushedSubsystem { subsystem, method: FlushMethod::NotFlushed, reason }
            })),
            directory => {
                let has = |subsystem: &Subsystem| {
                    directory.is_none_or(|directory| has_subsystem(directory, *subsystem))
                };
                flushed.extend(controllers.into_iter().filter(has).map(by_program));
            }
        }
        flushed
    }

    /// Those with statistics in rstat that the hierarchy has.
    fn controllers_of(&self, hierarchy_id: u32) -> Vec<Subsystem> {
        let hierarchy = self.hierarchies.by_id(hierarchy_id);
        let has = |subsystem: &Subsystem| match hierarchy {
            Some(hierarchy) if hierarchy.is_v2() => self.hierarchies.has_on_v2(subsystem.name()),
            Some(hierarchy) => hierarchy.has_controller(subsystem.name()),
            None => false,
        };
        // That of v1 is called blkio, and keeps nothing there.
        [Subsystem::Memory, Subsystem::Io].into_iter().filter(has).collect()
    }
}
