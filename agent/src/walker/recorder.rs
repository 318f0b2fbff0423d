//! A walk's records, by either engine: slices put together, new cgroups named, and what it cost.
//!
//! Owns the kernel side and the names. Must not know what was asked for, or what is in a sample.

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use cgfleet_ebpf::abi::{self, cg_record};
use cgfleet_model::{MetricSet, unescape_path};
use cgfleet_proto::v1::{CgroupSample, WalkEnd};

use super::{
    WalkError,
    decode::{self, Decoder},
    memory_stat::MemoryStatIndex,
    tree::Tree,
};
use crate::{
    cgroupfs::{Hierarchies, Located},
    kernel::{AttachError, Cursor, Drained, Flushed, Kernel, KernelError, Start, WalkRequest},
};

/// How often names of cgroups that are gone are dropped, and how long one may be unseen before.
const TIDY_INTERVAL: Duration = Duration::from_mins(1);
const UNSEEN_MAX: Duration = Duration::from_mins(10);
/// How often a walk whose place in the tree was removed begins again.
const RESTARTS_MAX: u32 = 3;

/// One cgroup of a walk.
pub(super) struct Row {
    pub(super) record: cg_record,
    /// What was measured of it, still without its path.
    pub(super) sample: CgroupSample,
}

/// What a walk recorded.
pub(super) struct Recorded {
    pub(super) rows: Vec<Row>,
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
    /// Time for files that were read besides.
    pub(super) files: Duration,
}

/// A slice that could not begin.
enum SliceError {
    /// Its place in the tree is gone.
    Gone,
    /// Its place can be reached by path only, and the path is not known.
    Unnamed,
    Failed(WalkError),
}

/// Records walks.
#[derive(Debug)]
pub(super) struct Recorder {
    kernel: Kernel,
    hierarchies: Hierarchies,
    tree: Tree,
    /// By hierarchy: the lowest serial that no walk has named yet.
    unnamed_from: HashMap<u32, u64>,
    tidied_at: Instant,
    memory_stat: MemoryStatIndex,
}

/// Which engine of the kernel side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BpfWalk {
    Locked,
    Unlocked,
}

impl Recorder {
    pub(super) fn new(kernel: Kernel, hierarchies: Hierarchies) -> Self {
        Self {
            kernel,
            hierarchies,
            tree: Tree::default(),
            unnamed_from: HashMap::new(),
            tidied_at: Instant::now(),
            memory_stat: MemoryStatIndex::default(),
        }
    }

    /// The kernel side, for what is no walk.
    pub(super) fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Where the kernel's memory statistics are.
    pub(super) fn memory_stat(&self) -> &MemoryStatIndex {
        &self.memory_stat
    }

    /// Says where they are.
    pub(super) fn set_memory_stat(&mut self, index: MemoryStatIndex) {
        self.memory_stat = index;
    }

    /// Flushes rstat once, at the topmost cgroup of the answer that `request` will have.
    pub(super) fn flush_topmost(&mut self, request: &WalkRequest<'_>) -> Result<Flushed, WalkError> {
        Ok(self.kernel.flush_topmost(request)?)
    }

    /// The path of a cgroup that was recorded; `None` if an ancestor was removed before its name was
    /// read.
    pub(super) fn path(&mut self, hierarchy_id: u32, cgroup_id: u64) -> Option<Arc<str>> {
        self.tree.path(hierarchy_id, cgroup_id)
    }

    /// Drops names of cgroups that are gone, now and then.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.tidied_at) >= TIDY_INTERVAL {
            self.tidied_at = now;
            if self.tree.drop_unseen(UNSEEN_MAX, now) {
                self.unnamed_from.clear();
            }
        }
    }

    /// Walks, and sees to it that every cgroup has a name. `names_from` is for this to say.
    pub(super) fn record(
        &mut self,
        request: &WalkRequest<'_>,
        hierarchy_id: u32,
        engine: BpfWalk,
        metrics: MetricSet,
    ) -> Result<Recorded, WalkError> {
        let names_from = self.unnamed_from.get(&hierarchy_id).copied().unwrap_or_default();
        let request = &WalkRequest { names_from, ..*request };
        let mut recorded = match engine {
            BpfWalk::Locked => self.record_locked(request, metrics)?,
            BpfWalk::Unlocked => self.record_unlocked(request, metrics)?,
        };
        let now = Instant::now();
        let Recorded { rows, cost, .. } = &mut recorded;
        let unnamed = rows.iter().filter(|row| !self.tree.link(&row.record, now)).count();
        let Some(Row { record: first, .. }) = rows.first() else { return Ok(recorded) };
        if unnamed > 0 {
            let names = WalkRequest { groups: 0, names_from: 0, stop_when: None, ..*request };
            self.learn_names(&names, cost)?;
        }
        if self.tree.path(first.hierarchy_id, first.id).is_none() {
            // A walk downward does not meet what is between its start and the root.
            self.learn_names(&WalkRequest::ancestors(request.start), cost)?;
        }
        // Older ones are asked for no more; should one be met that no walk has named, it is learned.
        let newest = rows.iter().map(|row| row.record.serial).max().unwrap_or_default();
        let unnamed_from = self.unnamed_from.entry(hierarchy_id).or_default();
        *unnamed_from = (newest + 1).max(*unnamed_from);
        Ok(recorded)
    }

    /// Walks under cgroup_mutex.
    fn record_locked(
        &mut self,
        request: &WalkRequest<'_>,
        metrics: MetricSet,
    ) -> Result<Recorded, WalkError> {
        let drained = self.kernel.walk_locked(request)?;
        let (walk, rows) = (drained.walk, self.learn(drained, metrics));
        // A session that visited nothing found its start dead.
        let end = if walk.visited == 0 { WalkEnd::TargetGone } else { end_of(walk.end)? };
        let cost = Cost {
            cgroups_visited: walk.visited,
            walk_ns: walk.walk_ns,
            mutex_held_ns_max: walk.walk_ns,
            ..Cost::default()
        };
        Ok(Recorded { rows, end, cost })
    }

    /// Walks in slices, from the start again if the walk's place in the tree was removed.
    fn record_unlocked(
        &mut self,
        request: &WalkRequest<'_>,
        metrics: MetricSet,
    ) -> Result<Recorded, WalkError> {
        let mut request = *request;
        let mut cost = Cost::default();
        for _ in 0..=RESTARTS_MAX {
            match self.record_slices(&request, metrics, &mut cost) {
                Ok((rows, end)) => return Ok(Recorded { rows, end, cost }),
                Err(SliceError::Gone) => {}
                Err(SliceError::Unnamed) if request.order == abi::CG_ORDER_ANCESTORS_UP => {
                    return Err(WalkError::TooDeep);
                }
                Err(SliceError::Unnamed) => {
                    self.learn_names(&WalkRequest::ancestors(request.start), &mut cost)?;
                    request.names_from = 0;
                }
                Err(SliceError::Failed(error)) => return Err(error),
            }
        }
        Err(WalkError::Restarted { restarts: RESTARTS_MAX })
    }

    fn record_slices(
        &mut self,
        request: &WalkRequest<'_>,
        metrics: MetricSet,
        cost: &mut Cost,
    ) -> Result<(Vec<Row>, WalkEnd), SliceError> {
        cost.cgroups_visited = 0;
        let first = self.kernel.walk_slice(request, None);
        let mut drained = first.map_err(|error| SliceError::Failed(error.into()))?;
        if drained.walk.session_css == 0 {
            return Ok((Vec::new(), WalkEnd::TargetGone));
        }
        let mut recorded: Vec<Row> = Vec::new();
        loop {
            cost.add_slice(&drained);
            let (walk, cursor) = (drained.walk, drained.cursor);
            recorded.extend(self.learn(drained, metrics));
            let Some(cursor) = cursor else {
                return Ok((recorded, end_of(walk.end).map_err(SliceError::Failed)?));
            };
            let visited = u32::try_from(recorded.len()).unwrap_or(u32::MAX);
            let left = if request.limit == 0 { 0 } else { request.limit.saturating_sub(visited) };
            let request = WalkRequest { limit: left, ..*request };
            match self.next_slice(&request, cursor)? {
                Some(next) => drained = next,
                None => return Ok((recorded, WalkEnd::Complete)),
            }
        }
    }

    /// Goes on behind the cursor's cgroup, or, if that was removed meanwhile, among what is left of
    /// its siblings. `None` if nothing is left of the walk.
    fn next_slice(
        &mut self,
        request: &WalkRequest<'_>,
        cursor: Cursor,
    ) -> Result<Option<Drained>, SliceError> {
        if let Some(drained) = self.slice_at(request, cursor.cgroup_id, cursor)? {
            return Ok(Some(drained));
        }
        match (cursor.is_at_start(), cursor.is_done_below()) {
            (true, true) => return Ok(None),
            // Its siblings are none of this walk's business.
            (true, false) => return Err(SliceError::Gone),
            (false, _) => {}
        }
        let drained = self.slice_at(request, cursor.parent_id, cursor.from_parent())?;
        drained.map(Some).ok_or(SliceError::Gone)
    }

    /// A slice that begins at this cgroup; `None` if the cgroup is gone. By its id where the kernel
    /// takes one (cgroup v2, outside a cgroup namespace), by its directory elsewhere.
    fn slice_at(
        &mut self,
        request: &WalkRequest<'_>,
        cgroup_id: u64,
        cursor: Cursor,
    ) -> Result<Option<Drained>, SliceError> {
        if cursor.hierarchy_id == 0 {
            if let Some(drained) = self.slice_by_id(request, cgroup_id, cursor)? {
                return Ok(Some(drained));
            }
            // A cgroup that was dying when the slice ended behind it was never named.
            let named = self.tree.path(0, cgroup_id).is_some();
            if !named && self.kernel_takes_ids(cursor)? {
                return Ok(None);
            }
        }
        let Some(located) = self.reopen(cursor.hierarchy_id, cgroup_id)? else { return Ok(None) };
        let start = Start::Directory(located.directory.as_fd());
        match self.kernel.walk_slice(&WalkRequest { start, ..*request }, Some(cursor)) {
            Ok(drained) => Ok(Some(drained).filter(|drained| drained.walk.session_css != 0)),
            Err(KernelError::Attach(AttachError::NoSuchCgroup)) => Ok(None),
            Err(error) => Err(SliceError::Failed(error.into())),
        }
    }

    fn slice_by_id(
        &mut self,
        request: &WalkRequest<'_>,
        cgroup_id: u64,
        cursor: Cursor,
    ) -> Result<Option<Drained>, SliceError> {
        match self.kernel.walk_slice(&WalkRequest { start: Start::Id(cgroup_id), ..*request }, Some(cursor)) {
            Ok(drained) => Ok(Some(drained).filter(|drained| drained.walk.session_css != 0)),
            Err(KernelError::Attach(AttachError::NoSuchCgroup)) => Ok(None),
            Err(error) => Err(SliceError::Failed(error.into())),
        }
    }

    /// Whether the kernel finds the walk's first cgroup by its id; in a cgroup namespace it may not.
    fn kernel_takes_ids(&mut self, cursor: Cursor) -> Result<bool, SliceError> {
        let start = Start::Id(cursor.start_id());
        let itself =
            WalkRequest { order: abi::CG_ORDER_SELF_ONLY, limit: 1, ..WalkRequest::ancestors(start) };
        match self.kernel.walk_slice(&itself, None) {
            Ok(drained) => Ok(drained.walk.session_css != 0),
            Err(KernelError::Attach(AttachError::NoSuchCgroup)) => Ok(false),
            Err(error) => Err(SliceError::Failed(error.into())),
        }
    }

    /// The directory of a cgroup; `None` if the cgroup is gone, or another has its path.
    fn reopen(&mut self, hierarchy_id: u32, cgroup_id: u64) -> Result<Option<Located>, SliceError> {
        let path = self.tree.path(hierarchy_id, cgroup_id).ok_or(SliceError::Unnamed)?;
        let bytes = unescape_path(&path).map_err(|_| SliceError::Unnamed)?;
        match self.hierarchies.locate_in(hierarchy_id, &bytes) {
            Ok(located) => Ok(Some(located).filter(|located| located.cgroup_id == cgroup_id)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SliceError::Failed(WalkError::Reopen { path: path.to_string(), source })),
        }
    }

    /// Takes in the names and places that a session brought, and gives its rows.
    fn learn(&mut self, mut drained: Drained, metrics: MetricSet) -> Vec<Row> {
        let now = Instant::now();
        for name in drained.names.drain(..) {
            self.tree.name(name, now);
        }
        for record in &drained.records {
            self.tree.link(record, now);
        }
        let decoder = Decoder { metrics, memory_stat: &self.memory_stat };
        let row = |(slot, record): (usize, &cg_record)| {
            Some(Row { record: *record, sample: decoder.sample(&drained, slot)? })
        };
        drained.records.iter().enumerate().filter_map(row).collect()
    }

    /// Learns the name of every cgroup that this walk meets. What is removed around it meanwhile needs
    /// no name.
    pub(super) fn learn_names(
        &mut self,
        request: &WalkRequest<'_>,
        cost: &mut Cost,
    ) -> Result<(), WalkError> {
        match self.record_unlocked(request, MetricSet::default()) {
            Ok(Recorded { cost: learned, .. }) => cost.add_names(&learned),
            Err(WalkError::Restarted { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn end_of(end: abi::cg_end) -> Result<WalkEnd, WalkError> {
    decode::end(end).ok_or(WalkError::Kernel(KernelError::Unfinished { end }))
}

impl Cost {
    /// Adds a walk.
    pub(super) fn add_walk(&mut self, walk: &Self) {
        self.cgroups_visited += walk.cgroups_visited;
        self.add_names(walk);
    }

    /// Adds sessions that only brought names.
    fn add_names(&mut self, names: &Self) {
        self.walk_ns += names.walk_ns;
        self.mutex_held_ns_max = self.mutex_held_ns_max.max(names.mutex_held_ns_max);
        self.unbroken_ns_max = self.unbroken_ns_max.max(names.unbroken_ns_max);
    }

    fn add_slice(&mut self, slice: &Drained) {
        let walk = &slice.walk;
        self.cgroups_visited += walk.visited;
        self.walk_ns += walk.walk_ns;
        self.mutex_held_ns_max = self.mutex_held_ns_max.max(walk.session_held_ns);
        self.unbroken_ns_max = self.unbroken_ns_max.max(Some(walk.walk_ns));
    }
}

impl WalkRequest<'_> {
    /// A walk that only wants to know how the cgroups up to the root are called.
    pub(super) fn ancestors(start: Start<'_>) -> WalkRequest<'_> {
        let order = abi::CG_ORDER_ANCESTORS_UP;
        WalkRequest {
            start,
            order,
            groups: 0,
            limit: 0,
            stop_at_id: 0,
            max_depth: u32::MAX,
            stop_when: None,
            names_from: 0,
        }
    }
}
