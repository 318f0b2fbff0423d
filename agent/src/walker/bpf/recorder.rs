//! A walk's records, by either engine, every cgroup of it named, and what it cost.
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

use super::{decode::Decoder, memory_stat::MemoryStatIndex, tree::Tree};
use crate::{
    cgroupfs::{Hierarchies, Located},
    kernel::{Drained, Flushed, Kernel, Start, WalkRequest},
    walker::WalkError,
};

/// How often names of cgroups that are gone are dropped, and how long one may be unseen before.
const TIDY_INTERVAL: Duration = Duration::from_mins(1);
const UNSEEN_MAX: Duration = Duration::from_mins(10);

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

/// What became of a cgroup that was recorded.
pub(super) enum Reopened {
    /// It is where it was.
    Found(Located),
    /// It was removed; another may have its path.
    Gone,
    /// Its path is not known.
    Unnamed,
}

/// Records walks.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) kernel: Kernel,
    hierarchies: Hierarchies,
    pub(super) tree: Tree,
    /// Whether the kernel takes the ids of all cgroups that are mounted: in a cgroup namespace, it takes
    /// those inside only (kernel/cgroup/cgroup.c, cgroup_get_from_id).
    pub(super) takes_ids: bool,
    /// By hierarchy: the lowest serial that no walk has named yet.
    unnamed_from: HashMap<u32, u64>,
    tidied_at: Instant,
    /// Where the kernel's memory statistics are.
    pub(super) memory_stat: MemoryStatIndex,
    /// What is taken out of the records of the walk under way.
    metrics: MetricSet,
    /// Records of it that came before their names.
    unnamed: usize,
}

/// Which engine of the kernel side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::walker) enum BpfWalk {
    Locked,
    Unlocked,
}

impl Recorder {
    pub(super) fn new(mut kernel: Kernel, hierarchies: Hierarchies) -> Self {
        let roots = hierarchies.iter().filter(|hierarchy| hierarchy.root_id != 0);
        let tree = Tree::mounted(roots.map(|hierarchy| (hierarchy.id, hierarchy.root_id)));
        let v2_root = hierarchies.by_id(0).map_or(0, |hierarchy| hierarchy.root_id);
        let root = WalkRequest::of(Start::Id(v2_root), abi::CG_ORDER_SELF_ONLY);
        let takes_ids = kernel.walk_slice(&root, None).is_ok();
        let unnamed_from = HashMap::new();
        Self {
            kernel,
            hierarchies,
            tree,
            takes_ids,
            unnamed_from,
            tidied_at: Instant::now(),
            memory_stat: MemoryStatIndex::default(),
            metrics: MetricSet::default(),
            unnamed: 0,
        }
    }

    /// Flushes rstat once, at the topmost cgroup of the answer that `request` will have.
    pub(super) fn flush_topmost(&mut self, request: &WalkRequest<'_>) -> Result<Flushed, WalkError> {
        Ok(self.kernel.flush_topmost(request)?)
    }

    /// The path of a cgroup that was recorded; `None` if an ancestor was removed before its name was
    /// read.
    pub(super) fn path(&mut self, hierarchy_id: u32, serial: u64) -> Option<Arc<str>> {
        self.tree.path(hierarchy_id, serial)
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
        (self.metrics, self.unnamed) = (metrics, 0);
        let names_from = self.unnamed_from.get(&hierarchy_id).copied().unwrap_or_default();
        let request = &WalkRequest { names_from, ..*request };
        let mut recorded = match engine {
            BpfWalk::Locked => self.record_locked(request, hierarchy_id)?,
            BpfWalk::Unlocked => self.record_unlocked(request)?,
        };
        let Recorded { rows, end, cost } = &mut recorded;
        // Nearly always each was named when it was met.
        if self.unnamed > 0 && self.link(rows.iter().map(|row| &row.record)) > 0 {
            // A walk that ended on a condition met no more than it recorded.
            let met = u32::try_from(rows.len()).unwrap_or(u32::MAX);
            let limit = if *end == WalkEnd::StopWhen { met } else { request.limit };
            let names = WalkRequest { groups: 0, names_from: 0, limit, stop_when: None, ..*request };
            self.learn_names(&names, cost)?;
            // Where others come meanwhile, the first of a subtree need not be those that were first.
            if (request.limit, request.stop_at_id) != (0, 0)
                && self.link(rows.iter().map(|row| &row.record)) > 0
            {
                self.learn_names(&WalkRequest { limit: 0, stop_at_id: 0, ..names }, cost)?;
            }
        }
        if rows.is_empty() {
            return Ok(recorded);
        }
        if self.lacks_names(request.order, rows) {
            // A walk downward does not meet what is between its start and the root.
            self.learn_names(&WalkRequest::ancestors(request.start), cost)?;
        }
        if request.order == abi::CG_ORDER_DESCENDANTS_POST && self.lacks_names(request.order, rows) {
            // It ended before it came to those above what it recorded.
            let order = abi::CG_ORDER_DESCENDANTS_PRE;
            self.learn_names(&WalkRequest { names_from: 0, ..WalkRequest::of(request.start, order) }, cost)?;
        }
        // Older ones are asked for no more; should one be met that no walk has named, it is learned.
        let newest = rows.iter().map(|row| row.record.serial).max().unwrap_or_default();
        let unnamed_from = self.unnamed_from.entry(hierarchy_id).or_default();
        *unnamed_from = (newest + 1).max(*unnamed_from);
        Ok(recorded)
    }

    /// Whether the names between the rows and the root are not all known. Where a parent comes before its
    /// children, the ends tell for all.
    fn lacks_names(&mut self, order: abi::cg_order, rows: &[Row]) -> bool {
        let mut lacks = |row: &Row| self.tree.named(&row.record).is_none();
        match order {
            abi::CG_ORDER_DESCENDANTS_POST => rows.iter().any(lacks),
            _ => rows.first().is_some_and(&mut lacks) || rows.last().is_some_and(lacks),
        }
    }

    /// Takes in the names and places that a session brought, and gives its rows.
    pub(super) fn learn(&mut self, mut drained: Drained) -> Vec<Row> {
        let now = Instant::now();
        for name in drained.names.drain(..) {
            self.tree.name(name, now);
        }
        self.unnamed += self.link(&drained.records);
        let decoder = Decoder::new(self.metrics, &self.memory_stat);
        let row = |(slot, record): (usize, &cg_record)| {
            Some(Row { record: *record, sample: decoder.sample(&drained, slot)? })
        };
        drained.records.iter().enumerate().filter_map(row).collect()
    }

    /// Takes in where cgroups hang, and says how many of them have no name.
    fn link<'a>(&mut self, records: impl IntoIterator<Item = &'a cg_record>) -> usize {
        let now = Instant::now();
        records.into_iter().filter(|record| !self.tree.link(record, now)).count()
    }

    /// Learns the name of every cgroup that this walk meets. What is removed around it meanwhile needs
    /// no name.
    pub(super) fn learn_names(
        &mut self,
        request: &WalkRequest<'_>,
        cost: &mut Cost,
    ) -> Result<(), WalkError> {
        match self.record_unlocked(request) {
            Ok(Recorded { cost: learned, .. }) => cost.add_names(&learned),
            Err(WalkError::Restarted { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The directory of a cgroup that was recorded.
    pub(super) fn reopen(&mut self, hierarchy_id: u32, serial: u64) -> Result<Reopened, WalkError> {
        let Some(cgroup_id) = self.tree.id(hierarchy_id, serial) else { return Ok(Reopened::Unnamed) };
        let Some(path) = self.tree.path(hierarchy_id, serial) else { return Ok(Reopened::Unnamed) };
        let Ok(bytes) = unescape_path(&path) else { return Ok(Reopened::Unnamed) };
        match self.hierarchies.locate_in(hierarchy_id, &bytes) {
            Ok(located) if located.cgroup_id == cgroup_id => Ok(Reopened::Found(located)),
            Ok(_) => Ok(Reopened::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Reopened::Gone),
            Err(source) => Err(WalkError::Reopen { path: path.to_string(), source }),
        }
    }

    /// The directory of a cgroup v2 cgroup whose id the kernel does not take, by the names of all that
    /// is mounted. `None` if there is no such cgroup.
    pub(super) fn locate_id(&mut self, cgroup_id: u64) -> Result<Option<Located>, WalkError> {
        if let Some(located) = self.reopen_id(cgroup_id)? {
            return Ok(Some(located));
        }
        let Ok(root) = self.hierarchies.locate_in(0, b"/") else { return Ok(None) };
        let start = Start::Directory(root.directory.as_fd());
        let all = WalkRequest { names_from: 0, ..WalkRequest::of(start, abi::CG_ORDER_DESCENDANTS_PRE) };
        self.learn_names(&all, &mut Cost::default())?;
        self.reopen_id(cgroup_id)
    }

    fn reopen_id(&mut self, cgroup_id: u64) -> Result<Option<Located>, WalkError> {
        let Some(serial) = self.tree.serial(0, cgroup_id) else { return Ok(None) };
        match self.reopen(0, serial)? {
            Reopened::Found(located) => Ok(Some(located)),
            Reopened::Gone | Reopened::Unnamed => Ok(None),
        }
    }
}

impl Cost {
    /// Adds a walk.
    pub(super) fn add_walk(&mut self, walk: &Self) {
        self.cgroups_visited += walk.cgroups_visited;
        self.add_names(walk);
    }

    /// Adds sessions that only brought names.
    pub(super) fn add_names(&mut self, names: &Self) {
        self.walk_ns += names.walk_ns;
        self.mutex_held_ns_max = self.mutex_held_ns_max.max(names.mutex_held_ns_max);
        self.unbroken_ns_max = self.unbroken_ns_max.max(names.unbroken_ns_max);
    }

    /// Adds a slice of the unlocked engine.
    pub(super) fn add_slice(&mut self, slice: &Drained) {
        let walk = &slice.walk;
        self.cgroups_visited += walk.visited;
        self.walk_ns += walk.walk_ns;
        self.mutex_held_ns_max = self.mutex_held_ns_max.max(walk.session_held_ns);
        self.unbroken_ns_max = self.unbroken_ns_max.max(Some(walk.walk_ns));
    }

    /// Adds a session of the locked engine, which has a point to reschedule behind every cgroup.
    pub(super) fn add_session(&mut self, session: &Drained) {
        let walk = &session.walk;
        self.cgroups_visited += walk.visited;
        self.walk_ns += walk.walk_ns;
        self.mutex_held_ns_max = self.mutex_held_ns_max.max(walk.walk_ns);
    }
}

impl WalkRequest<'_> {
    /// A walk that only wants to know how the cgroups up to the root are called.
    pub(super) fn ancestors(start: Start<'_>) -> WalkRequest<'_> {
        WalkRequest { names_from: 0, ..WalkRequest::of(start, abi::CG_ORDER_ANCESTORS_UP) }
    }
}
