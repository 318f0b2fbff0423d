//! A walk's records, by either engine: slices put together, new cgroups named, and what it cost.

use std::time::Instant;

use cgfleet_ebpf::abi::{self, cg_record};
use cgfleet_proto::v1::WalkEnd;

use super::{Order, WalkEngine, WalkError, decode, engine::Engine};
use crate::{
    cgroupfs::Located,
    kernel::{AttachError, Cursor, Drained, KernelError, Start, WalkRequest},
};

/// How often a walk whose place in the tree was removed begins again.
const RESTARTS_MAX: u32 = 3;

/// What a walk recorded.
pub(super) struct Recorded {
    pub(super) records: Vec<cg_record>,
    pub(super) end: WalkEnd,
    pub(super) cost: Cost,
}

/// What it cost: all of its sessions, those that only brought names included.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) cgroups_visited: u64,
    pub(super) walk_ns: u64,
    pub(super) mutex_held_ns_max: u64,
    pub(super) unbroken_ns_max: Option<u64>,
}

/// A slice that could not begin.
enum SliceError {
    /// Its cgroup is gone.
    Gone,
    Failed(WalkError),
}

impl Engine {
    /// Walks, and sees to it that every cgroup has a name.
    pub(super) fn record(
        &mut self,
        request: &WalkRequest<'_>,
        order: Order,
        engine: WalkEngine,
    ) -> Result<Recorded, WalkError> {
        let mut recorded = match engine {
            WalkEngine::Locked => self.record_locked(request)?,
            WalkEngine::Unlocked => self.record_unlocked(request)?,
        };
        let now = Instant::now();
        let Recorded { records, cost, .. } = &mut recorded;
        let unnamed = records.iter().filter(|record| !self.tree.link(record, now)).count();
        let Some(first) = records.first() else { return Ok(recorded) };
        if unnamed > 0 {
            self.learn_names(request.start, order, cost)?;
        }
        if self.tree.path(first.hierarchy_id, first.id).is_none() {
            // A walk downward does not meet what is between its start and the root.
            self.learn_names(request.start, Order::AncestorsUp, cost)?;
        }
        // Older ones are asked for no more; should one be met that no walk has named, it is learned.
        let newest = records.iter().map(|record| record.serial).max().unwrap_or_default();
        let unnamed_from = self.unnamed_from.entry(first.hierarchy_id).or_default();
        *unnamed_from = (newest + 1).max(*unnamed_from);
        Ok(recorded)
    }

    /// Walks under cgroup_mutex.
    fn record_locked(&mut self, request: &WalkRequest<'_>) -> Result<Recorded, WalkError> {
        let Drained { records, walk, .. } = self.kernel.walk_locked(request)?;
        // A session that visited nothing found its start dead.
        let end = if walk.visited == 0 { WalkEnd::TargetGone } else { end_of(walk.end)? };
        let cost = Cost {
            cgroups_visited: walk.visited,
            walk_ns: walk.walk_ns,
            mutex_held_ns_max: walk.walk_ns,
            unbroken_ns_max: None,
        };
        Ok(Recorded { records, end, cost })
    }

    /// Walks in slices, from the start again if the walk's place in the tree was removed.
    fn record_unlocked(&mut self, request: &WalkRequest<'_>) -> Result<Recorded, WalkError> {
        let mut cost = Cost::default();
        for _ in 0..=RESTARTS_MAX {
            match self.record_slices(request, &mut cost) {
                Ok((records, end)) => return Ok(Recorded { records, end, cost }),
                Err(SliceError::Gone) => {}
                Err(SliceError::Failed(error)) => return Err(error),
            }
        }
        Err(WalkError::Restarted { restarts: RESTARTS_MAX })
    }

    fn record_slices(
        &mut self,
        request: &WalkRequest<'_>,
        cost: &mut Cost,
    ) -> Result<(Vec<cg_record>, WalkEnd), SliceError> {
        cost.cgroups_visited = 0;
        let first = self.kernel.walk_slice(request, None);
        let mut drained = first.map_err(|error| SliceError::Failed(error.into()))?;
        if drained.walk.session_css == 0 {
            return Ok((Vec::new(), WalkEnd::TargetGone));
        }
        let mut recorded: Vec<cg_record> = Vec::new();
        loop {
            cost.add_slice(&drained);
            let (walk, cursor) = (drained.walk, drained.cursor);
            recorded.extend(self.learn(drained));
            if recorded.is_empty() {
                return Ok((recorded, end_of(walk.end).map_err(SliceError::Failed)?));
            }
            let (Some(cursor), Some(last)) = (cursor, recorded.last()) else {
                return Ok((recorded, end_of(walk.end).map_err(SliceError::Failed)?));
            };
            if self.tree.path(last.hierarchy_id, last.id).is_none() {
                // To go on there, its directory is needed, and so its path.
                let learned = self.learn_names(request.start, Order::AncestorsUp, cost);
                learned.map_err(SliceError::Failed)?;
            }
            let visited = u32::try_from(recorded.len()).unwrap_or(u32::MAX);
            let left = if request.limit == 0 { 0 } else { request.limit.saturating_sub(visited) };
            let request = WalkRequest { limit: left, ..*request };
            drained = self.next_slice(last.hierarchy_id, &request, cursor)?;
        }
    }

    /// Goes on behind the cursor's cgroup, or, if that was removed meanwhile, among what is left of
    /// its siblings.
    fn next_slice(
        &mut self,
        hierarchy_id: u32,
        request: &WalkRequest<'_>,
        cursor: Cursor,
    ) -> Result<Drained, SliceError> {
        for (cgroup_id, cursor) in [(cursor.cgroup_id, cursor), (cursor.parent_id, cursor.from_parent())] {
            let Some(located) = self.reopen(hierarchy_id, cgroup_id) else { continue };
            let start = Start::Directory(std::os::fd::AsFd::as_fd(&located.directory));
            match self.kernel.walk_slice(&WalkRequest { start, ..*request }, Some(cursor)) {
                Ok(drained) if drained.walk.session_css != 0 => return Ok(drained),
                Ok(_) | Err(KernelError::Attach(AttachError::NoSuchCgroup)) => {}
                Err(error) => return Err(SliceError::Failed(error.into())),
            }
        }
        Err(SliceError::Gone)
    }

    /// The directory of a cgroup that was recorded, unless it is gone, or another has its path.
    fn reopen(&mut self, hierarchy_id: u32, cgroup_id: u64) -> Option<Located> {
        let path = self.tree.path(hierarchy_id, cgroup_id)?;
        let located = self.hierarchies.locate_in(hierarchy_id, &cgfleet_model::unescape_path(&path).ok()?)?;
        (located.cgroup_id == cgroup_id).then_some(located)
    }

    /// Takes in the names and places that a session brought.
    fn learn(&mut self, drained: Drained) -> Vec<cg_record> {
        let now = Instant::now();
        for name in drained.names {
            self.tree.name(name, now);
        }
        for record in &drained.records {
            self.tree.link(record, now);
        }
        drained.records
    }

    /// Learns the name of every cgroup that this walk meets.
    pub(super) fn learn_names(
        &mut self,
        start: Start<'_>,
        order: Order,
        cost: &mut Cost,
    ) -> Result<(), WalkError> {
        let request = WalkRequest::names(start, order.to_abi());
        let learned = self.record_unlocked(&request)?.cost;
        cost.mutex_held_ns_max = cost.mutex_held_ns_max.max(learned.mutex_held_ns_max);
        cost.unbroken_ns_max = cost.unbroken_ns_max.max(learned.unbroken_ns_max);
        Ok(())
    }
}

fn end_of(end: abi::cg_end) -> Result<WalkEnd, WalkError> {
    decode::end(end).ok_or(WalkError::Kernel(KernelError::Unfinished { end }))
}

impl Cost {
    fn add_slice(&mut self, slice: &Drained) {
        let walk = &slice.walk;
        self.cgroups_visited += walk.visited;
        self.walk_ns += walk.walk_ns;
        self.mutex_held_ns_max = self.mutex_held_ns_max.max(walk.session_held_ns);
        self.unbroken_ns_max = self.unbroken_ns_max.max(Some(walk.walk_ns));
    }
}

impl WalkRequest<'_> {
    /// A walk that only wants to know how the cgroups are called.
    pub(super) fn names(start: Start<'_>, order: abi::cg_order) -> WalkRequest<'_> {
        WalkRequest { start, order, groups: 0, limit: 0, stop_at_id: 0, max_depth: u32::MAX, names_from: 0 }
    }
}
