//! Flushes by the kernel side, and by files of what no program may flush.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Instant, time::SystemTime};

use cgfleet_ebpf::abi;
use cgfleet_model::{MetricSet, escape_path, unescape_path};
use cgfleet_proto::v1::FlushOutcome;

use super::{BpfEngine, BpfWalk, recorder::Cost};
use crate::{
    kernel::{Flushed, Start, WalkRequest},
    walker::{
        Order, WalkError,
        find::Found,
        flush::{
            FlushMethod, FlushScope, FlushSite, FlushSpec, FlushedSubsystem, FlushedSubtree, Freshened,
            Freshening, Subsystem, Subsystems, ToFlush, flush_by_files, has_subsystem, upward,
        },
    },
};

/// What rstat keeps: the rest is current without a flush.
const RSTAT_GROUPS: abi::cg_group = abi::CG_GROUP_CPU | abi::CG_GROUP_MEMORY_STAT | abi::CG_GROUP_IO;

/// Why a controller's statistics are flushed by its file: kernel/cgroup/rstat.c, css_rstat_flush.
const BY_SUBSYSTEM: &str =
    "on this kernel a program's flush leaves that controller's statistics alone, and cannot reach them";
/// Elsewhere a program's flush would flush it too, but there is nothing for it besides.
const BY_FILES_ALONE: &str = "nothing else of the cgroup was to be flushed";

/// Whether an answer whose topmost cgroup is the root needs it flushed: not for the root's own values (see
/// `is_flush_needed` in ebpf/src/control.h).
fn needs_root(request: &WalkRequest<'_>) -> bool {
    let WalkRequest { order, max_depth, .. } = *request;
    !matches!(order, abi::CG_ORDER_SELF_ONLY | abi::CG_ORDER_ANCESTORS_UP) && max_depth > 0
}

impl BpfEngine {
    /// Finds the cgroup to flush, and what is above it.
    pub(in crate::walker) fn find_to_flush(&mut self, spec: &FlushSpec) -> Result<FlushSite, WalkError> {
        self.try_find_to_flush(spec).map_err(|error| error.at("target", &spec.target))
    }

    fn try_find_to_flush(&mut self, spec: &FlushSpec) -> Result<FlushSite, WalkError> {
        let found = self.find("target", &spec.target)?;
        let line = self.line_up(found.start(), found.hierarchy_id(), &mut Cost::default())?;
        if line.is_empty() {
            return Err(WalkError::NoSuchCgroup { field: "target", target: spec.target.to_text() });
        }
        let subsystems = self.controllers_of(found.hierarchy_id()).into_iter().chain([Subsystem::Cpu]);
        // A walk upward leaves the cgroup namespace, and ends nowhere else.
        Ok(FlushSite::new(found, spec.scope, line, true, subsystems.collect()))
    }

    /// Flushes; `None` if the cgroup was removed.
    pub(in crate::walker) fn flush(&mut self, site: &FlushSite) -> Result<Option<FlushedSubtree>, WalkError> {
        let order = match site.scope {
            FlushScope::Subtree => Order::DescendantsPre,
            FlushScope::Ancestors => Order::AncestorsUp,
        };
        let request =
            WalkRequest { groups: RSTAT_GROUPS, ..WalkRequest::of(site.found.start(), order.to_abi()) };
        self.perform(&request, &site.found, site.subsystems, &mut Cost::default())
    }

    /// Sees to it that what the walk will read was flushed, at the topmost cgroup of the answer. `None` if that is
    /// not needed, or not wanted.
    pub(super) fn freshen(
        &mut self,
        request: &WalkRequest<'_>,
        found: &Found,
        needs_flush: bool,
        freshening: &mut Freshening<'_>,
        cost: &mut Cost,
    ) -> Result<Option<(FlushOutcome, Arc<FlushedSubtree>)>, WalkError> {
        let hierarchy_id = found.hierarchy_id();
        let subsystems = self.to_flush(request.groups, hierarchy_id, needs_flush);
        if subsystems.is_empty() || !freshening.is_wanted() {
            return Ok(None);
        }
        let line = if freshening.needs_line(hierarchy_id) {
            Some(self.line_of_answer(request, hierarchy_id, cost)?)
        } else {
            None
        };
        let site = ToFlush { hierarchy_id, subsystems, line };
        match freshening.decide(&site)? {
            Freshened::Nothing => Ok(None),
            Freshened::Met(outcome, flush) => Ok(Some((outcome, flush))),
            Freshened::Perform => {
                let flush = self.perform(request, found, subsystems, cost);
                let flush = freshening.performed(&site, flush)?;
                if let Some(flush) = &flush {
                    cost.files += flush.files;
                    cost.mutex_held_ns_max = cost.mutex_held_ns_max.max(flush.mutex_held_ns);
                }
                Ok(flush.map(|flush| (FlushOutcome::Performed, flush)))
            }
        }
    }

    /// What of rstat is read with these groups. CPU time stands for all that a cgroup has without controllers: what
    /// collectors count, too.
    fn to_flush(&self, groups: abi::cg_group, hierarchy_id: u32, needs_flush: bool) -> Subsystems {
        // Of v1, the CPU time is read from files.
        let is_read = needs_flush || hierarchy_id == 0 && groups & RSTAT_GROUPS != 0;
        let controllers = self.controllers_of(hierarchy_id).into_iter().filter(|subsystem| match subsystem {
            Subsystem::Cpu => false,
            Subsystem::Memory => groups & abi::CG_GROUP_MEMORY_STAT != 0,
            Subsystem::Io => groups & abi::CG_GROUP_IO != 0,
        });
        is_read.then_some(Subsystem::Cpu).into_iter().chain(controllers).collect()
    }

    /// The topmost cgroup of an answer and all above it; nothing if none of it has to be flushed.
    fn line_of_answer(
        &mut self,
        request: &WalkRequest<'_>,
        hierarchy_id: u32,
        cost: &mut Cost,
    ) -> Result<Vec<u64>, WalkError> {
        let line = self.line_up(request.start, hierarchy_id, cost)?;
        Ok(match request.order {
            abi::CG_ORDER_ANCESTORS_UP => upward(line, request.limit, request.stop_at_id, true),
            _ if line.len() == 1 && !needs_root(request) => Vec::new(),
            _ => line,
        })
    }

    /// A cgroup, its parent, and so on to the root; nothing if it was removed.
    fn line_up(
        &mut self,
        start: Start<'_>,
        hierarchy_id: u32,
        cost: &mut Cost,
    ) -> Result<Vec<u64>, WalkError> {
        let upward = WalkRequest::ancestors(start);
        let recorded =
            self.recorder.record(&upward, hierarchy_id, BpfWalk::Unlocked, MetricSet::default())?;
        cost.add_names(&recorded.cost);
        let tree = &mut self.recorder.tree;
        Ok(recorded.rows.iter().filter_map(|row| Some(tree.named(&row.record)?.cgroup_id)).collect())
    }

    /// Flushes, at the topmost cgroup of the answer that the request will have; `None` if nothing had to be, or
    /// the cgroup was removed.
    fn perform(
        &mut self,
        request: &WalkRequest<'_>,
        found: &Found,
        subsystems: Subsystems,
        cost: &mut Cost,
    ) -> Result<Option<FlushedSubtree>, WalkError> {
        let (hierarchy_id, began_at) = (found.hierarchy_id(), Instant::now());
        let (flushed, path) = if subsystems.has(Subsystem::Cpu) {
            let flushed = self.recorder.flush_topmost(request)?;
            if flushed.cgroup_id == 0 {
                return Ok(None);
            }
            if self.recorder.path(hierarchy_id, flushed.serial).is_none() {
                self.recorder.learn_names(&WalkRequest::ancestors(request.start), cost)?;
            }
            let path = self.recorder.path(hierarchy_id, flushed.serial);
            (flushed, path.as_deref().unwrap_or_default().to_owned())
        } else {
            let Some((cgroup_id, path)) = self.topmost_by_path(request, found) else { return Ok(None) };
            (Flushed { cgroup_id, ..Flushed::default() }, path)
        };
        let started = Instant::now();
        let subsystems = self.flush_the_rest(&flushed, subsystems, hierarchy_id, &path);
        let ended_at = Instant::now();
        Ok(Some(FlushedSubtree {
            cgroup_id: flushed.cgroup_id,
            path,
            flush_ns: flushed.flush_ns,
            files: ended_at - started,
            mutex_held_ns: flushed.mutex_held_ns,
            flushed_at: SystemTime::now(),
            times: (began_at, ended_at),
            subsystems,
        }))
    }

    /// The topmost cgroup of an answer by its path, where no program flushes and so finds it.
    fn topmost_by_path(&self, request: &WalkRequest<'_>, found: &Found) -> Option<(u64, String)> {
        let path = found.topmost_path(request.order)?;
        if path == b"/" && !needs_root(request) {
            return None;
        }
        let directory = self.hierarchies.by_id(found.hierarchy_id())?.directory(&path)?;
        Some((fs::metadata(directory).ok()?.ino(), escape_path(&path)))
    }

    /// Where a cgroup's files are; `None` if it is above what is mounted, or was removed.
    fn directory_of(&self, hierarchy_id: u32, cgroup_id: u64, path: &str) -> Option<PathBuf> {
        let path = unescape_path(path).ok().filter(|path| !path.is_empty())?;
        let directory = self.hierarchies.by_id(hierarchy_id)?.directory(&path)?;
        let is_it = fs::metadata(&directory).is_ok_and(|found| found.ino() == cgroup_id);
        is_it.then_some(directory)
    }

    /// Flushes what of these the program did not, and says what became of each that the cgroup has.
    fn flush_the_rest(
        &self,
        by_program: &Flushed,
        subsystems: Subsystems,
        hierarchy_id: u32,
        path: &str,
    ) -> Vec<FlushedSubsystem> {
        let of_program =
            |subsystem| FlushedSubsystem { subsystem, method: FlushMethod::Rstat, reason: String::new() };
        // CPU time of cgroup v1 is not in rstat.
        let has_cpu = hierarchy_id == 0 && subsystems.has(Subsystem::Cpu);
        let mut flushed: Vec<_> = has_cpu.then(|| of_program(Subsystem::Cpu)).into_iter().collect();
        let mut controllers = self.controllers_of(hierarchy_id);
        controllers.retain(|subsystem| subsystems.has(*subsystem));
        if by_program.memory && subsystems.has(Subsystem::Memory) {
            flushed.push(of_program(Subsystem::Memory));
            controllers.retain(|subsystem| *subsystem != Subsystem::Memory);
        }
        if controllers.is_empty() {
            return flushed;
        }
        let by_subsystem = self.recorder.kernel.facts().flushes_by_subsystem;
        let reason = if by_subsystem { BY_SUBSYSTEM } else { BY_FILES_ALONE };
        let by_files = by_subsystem || !subsystems.has(Subsystem::Cpu);
        match self.directory_of(hierarchy_id, by_program.cgroup_id, path) {
            Some(directory) if by_files => {
                flushed.extend(flush_by_files(&directory, path == "/", &controllers, reason));
            }
            None if by_files => flushed.extend(controllers.into_iter().map(|subsystem| {
                let reason = format!("its files are not to be seen here, and {reason}");
                FlushedSubsystem { subsystem, method: FlushMethod::NotFlushed, reason }
            })),
            directory => {
                let has = |subsystem: &Subsystem| {
                    directory.as_deref().is_none_or(|directory| has_subsystem(directory, *subsystem))
                };
                flushed.extend(controllers.into_iter().filter(has).map(of_program));
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
