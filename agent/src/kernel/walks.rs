//! Flushes and walks, by either engine: fills the control block, runs a session, drains the records.

use cgfleet_ebpf::abi::{self, cg_details, cg_io_device, cg_memory_stat, cg_record, cg_walk};

use super::{
    Bounds, Facts, KernelError, LoadError,
    programs::{self, Programs},
    session::{self, READ_BYTES, Start},
};

/// What to walk.
#[derive(Debug, Clone, Copy)]
pub struct WalkRequest<'fd> {
    /// The first cgroup.
    pub start: Start<'fd>,
    /// A `cg_order` of the ABI.
    pub order: abi::cg_order,
    /// `cg_group`s of the ABI, or'ed.
    pub groups: abi::cg_group,
    /// End after so many records; 0 for never.
    pub limit: u32,
    /// End after this cgroup; 0 for never.
    pub stop_at_id: u64,
    /// Levels below the start that are visited; `u32::MAX` for all. Of the unlocked engine.
    pub max_depth: u32,
    /// End after a cgroup of which this is true.
    pub stop_when: Option<StopWhen>,
    /// Name the cgroups with this serial or a higher one; `u64::MAX` for none. Of the unlocked engine.
    pub names_from: u64,
}

/// A condition on one number of a cgroup, as the kernel holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopWhen {
    /// The `cg_group` of the ABI that the number is read with.
    pub group: abi::cg_group,
    /// The `cg_detail` of the ABI that the number is.
    pub detail: abi::cg_detail,
    /// A `cg_comparison` of the ABI.
    pub comparison: abi::cg_comparison,
    /// With what the number is compared.
    pub value: u64,
}

/// A cgroup's name.
#[derive(Debug)]
pub struct Name {
    /// The cgroup's hierarchy.
    pub hierarchy_id: u32,
    /// The cgroup.
    pub cgroup_id: u64,
    /// Its name's bytes.
    pub name: Box<[u8]>,
}

/// Where a slice of an unlocked walk ended, and so where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The cgroup behind which it ended.
    pub cgroup_id: u64,
    /// That cgroup's parent, to go on from if the cgroup is gone.
    pub parent_id: u64,
    /// The hierarchy of both.
    pub hierarchy_id: u32,
    serial: u64,
    at: abi::cg_at,
    start_id: u64,
    start_level: u32,
}

impl Cursor {
    /// The cgroup that the walk began at.
    pub fn start_id(self) -> u64 {
        self.start_id
    }

    /// Whether the slice ended behind the cgroup that the walk began at.
    pub fn is_at_start(self) -> bool {
        self.cgroup_id == self.start_id
    }

    /// Whether that cgroup's descendants are done, or were never to be visited.
    pub fn is_done_below(self) -> bool {
        self.at == abi::CG_AT_ADVANCE
    }

    /// To go on from the parent, behind where the cgroup was.
    #[must_use]
    pub fn from_parent(self) -> Self {
        Self { at: abi::CG_AT_SEEK, ..self }
    }
}

/// What a flush did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flushed {
    /// The cgroup whose subtree was flushed; 0 if none had to be.
    pub cgroup_id: u64,
    /// Time in the flush, in nanoseconds.
    pub flush_ns: u64,
    /// Time for which the session held cgroup_mutex, in nanoseconds.
    pub mutex_held_ns: u64,
    /// Whether the start was still there to be visited.
    pub visited: bool,
}

/// What a walk, or a slice of one, brought.
#[derive(Debug)]
pub struct Drained {
    /// The records in the order of the walk.
    pub records: Vec<cg_record>,
    /// At the places of the records; empty if nothing of them was asked for.
    pub details: Vec<cg_details>,
    /// At the places of the records; empty if they were not asked for.
    pub memory_stats: Vec<cg_memory_stat>,
    /// Block I/O by device, in the order of the records.
    pub io_devices: Vec<cg_io_device>,
    /// Names of those whose serial was asked for.
    pub names: Vec<Name>,
    /// The control block as the programs left it.
    pub walk: cg_walk,
    /// Where to go on; `None` at the end of the walk.
    pub cursor: Option<Cursor>,
}

/// The loaded kernel side. Runs one flush or walk at a time.
#[derive(Debug)]
pub struct Kernel {
    programs: Programs,
    facts: Facts,
    bounds: Bounds,
    buffer: Box<[u8]>,
}

impl Kernel {
    /// Loads the programs; needs CAP_BPF and CAP_PERFMON, and a kernel from 6.1 on with BTF.
    pub fn load(bounds: Bounds) -> Result<Self, LoadError> {
        let btf = programs::kernel_btf()?;
        let programs = Programs::load(bounds, &btf)?;
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        let facts = Facts::read(&btf, &mut buffer)?;
        Ok(Self { programs, facts, bounds, buffer })
    }

    /// What had to be known of the running kernel.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether flushes hold cgroup_mutex.
    pub fn flushes_locked(&self) -> bool {
        self.programs.flush_unlocked.is_none()
    }

    /// Flushes rstat once, at the topmost cgroup of the answer that `request` will have.
    pub fn flush_topmost(&mut self, request: &WalkRequest<'_>) -> Result<Flushed, KernelError> {
        let direction = match request.order {
            abi::CG_ORDER_ANCESTORS_UP => abi::CG_ORDER_ANCESTORS_UP,
            _ => abi::CG_ORDER_SELF_ONLY,
        };
        let block = self.control_block(request);
        let Programs { flush_locked, flush_unlocked, walk, .. } = &mut self.programs;
        let (program, control) = match flush_unlocked {
            Some(unlocked) => (&unlocked.program, &mut unlocked.walk),
            None => (&*flush_locked, walk),
        };
        control.set_only(block);
        session::run(program, direction, request.start, &mut self.buffer)?;
        let walk = control.get(0).unwrap_or_default();
        Ok(Flushed {
            cgroup_id: walk.flushed_id,
            flush_ns: walk.flush_ns,
            mutex_held_ns: walk.flush_mutex_held_ns,
            visited: walk.visited > 0,
        })
    }

    /// Walks by the locked engine: all at once, under cgroup_mutex.
    pub fn walk_locked(&mut self, request: &WalkRequest<'_>) -> Result<Drained, KernelError> {
        self.programs.walk.set_only(cg_walk { names_from: u64::MAX, ..self.control_block(request) });
        session::run(&self.programs.walk_locked, request.order, request.start, &mut self.buffer)?;
        Ok(self.drain())
    }

    /// Walks one slice by the unlocked engine: from the start, or on from a cursor, whose cgroup is
    /// then `request.start`.
    pub fn walk_slice(
        &mut self,
        request: &WalkRequest<'_>,
        cursor: Option<Cursor>,
    ) -> Result<Drained, KernelError> {
        let block = self.control_block(request);
        self.programs.walk.set_only(match cursor {
            None => block,
            Some(Cursor { serial, at, start_id, start_level, .. }) => {
                cg_walk { start_id, start_level, resume_serial: serial, resume_at: at, ..block }
            }
        });
        session::run(&self.programs.walk_unlocked, abi::CG_ORDER_SELF_ONLY, request.start, &mut self.buffer)?;
        Ok(self.drain())
    }

    fn control_block(&self, request: &WalkRequest<'_>) -> cg_walk {
        // A walk upward is short, and it is how the way back to a cursor is learned.
        let slice_ns_max = match request.order {
            abi::CG_ORDER_ANCESTORS_UP => u64::MAX,
            _ => u64::try_from(self.bounds.slice_max.as_nanos()).unwrap_or(u64::MAX),
        };
        let stop_when = request.stop_when;
        cg_walk {
            stop_at_id: request.stop_at_id,
            limit: request.limit,
            groups: request.groups,
            records_max: self.bounds.records_max,
            names_max: self.bounds.names_max,
            io_devices_max: self.bounds.records_max,
            stop_value: stop_when.map_or(0, |stop| stop.value),
            stop_detail: stop_when.map_or(0, |stop| stop.detail),
            stop_group: stop_when.map_or(0, |stop| stop.group),
            stop_comparison: stop_when.map_or(0, |stop| stop.comparison),
            order: request.order,
            max_depth: request.max_depth,
            names_from: request.names_from,
            slice_ns_max,
            ..cg_walk::default()
        }
    }

    fn answer(&self) -> cg_walk {
        self.programs.walk.get(0).unwrap_or_default()
    }

    fn drain(&self) -> Drained {
        let walk = self.answer();
        let has = |groups: abi::cg_group| if walk.groups & groups == 0 { 0 } else { walk.records };
        let records = self.programs.records.first(walk.records);
        let details = self.programs.details.first(has(!(abi::CG_GROUP_CPU | abi::CG_GROUP_MEMORY_STAT)));
        let memory_stats = self.programs.memory_stats.first(has(abi::CG_GROUP_MEMORY_STAT));
        let io_devices = self.programs.io_devices.first(walk.io_devices);
        let names = (0..walk.names).map_while(|slot| self.programs.names.get(slot));
        let names = names.map(|name| {
            let length = (name.length as usize).min(name.name.len());
            Name { hierarchy_id: name.hierarchy_id, cgroup_id: name.id, name: name.name[..length].into() }
        });
        let cursor = (walk.end == abi::CG_END_SLICE).then_some(Cursor {
            cgroup_id: walk.cursor_id,
            parent_id: walk.cursor_parent_id,
            hierarchy_id: walk.hierarchy_id,
            serial: walk.cursor_serial,
            at: walk.cursor_at,
            start_id: walk.start_id,
            start_level: walk.start_level,
        });
        Drained { records, details, memory_stats, io_devices, names: names.collect(), walk, cursor }
    }
}
