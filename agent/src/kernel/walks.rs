//! Flushes and walks, by either engine: fills the control block, runs a session, drains the records.

use cgfleet_ebpf::abi::{self, cg_details, cg_io_device, cg_memory_stat, cg_record, cg_walk};

use super::{
    Bounds, Facts, KernelError, LoadError, Loader,
    programs::Programs,
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
    /// Levels below the start that are recorded; `u32::MAX` for all.
    pub max_depth: u32,
    /// End after a cgroup of which this is true.
    pub stop_when: Option<StopWhen>,
    /// Name the cgroups with this serial or a higher one; `u64::MAX` for none.
    pub names_from: u64,
}

impl<'fd> WalkRequest<'fd> {
    /// A walk in this order that reads nothing and needs no names.
    pub fn of(start: Start<'fd>, order: abi::cg_order) -> Self {
        Self {
            start,
            order,
            groups: 0,
            limit: 0,
            stop_at_id: 0,
            max_depth: u32::MAX,
            stop_when: None,
            names_from: u64::MAX,
        }
    }
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
    /// As in its record.
    pub serial: u64,
    /// The cgroup.
    pub cgroup_id: u64,
    /// Its name's bytes.
    pub name: Box<[u8]>,
}

/// Where a slice of an unlocked walk ended: behind a cgroup, below others. The next one begins at the
/// first of these that is still there.
#[derive(Debug, Clone)]
pub struct Cursor {
    /// The hierarchy of all of them.
    pub hierarchy_id: u32,
    /// Whether the last of them is the walk's start (the root, if the walk goes up), so that nothing of
    /// the walk is left if all of them are gone.
    pub is_whole: bool,
    /// Where the walk can go on, the best place first. At each further one, the cgroup of the one before
    /// is taken to be gone.
    pub places: Vec<Place>,
}

/// A place to go on at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its cgroup.
    pub cgroup_id: u64,
    /// As in that cgroup's record.
    pub serial: u64,
    /// Of the cgroup that is gone: siblings are in the order of their serials, so the walk goes on behind
    /// where it was.
    resume_serial: u64,
    at: abi::cg_at,
    start_level: u32,
}

impl Cursor {
    /// What a slice told, if it is not the last one.
    fn of(walk: &cg_walk) -> Option<Self> {
        if walk.end != abi::CG_END_SLICE {
            return None;
        }
        let mut places = Vec::new();
        let (mut at, mut resume_serial) = (walk.cursor_at, walk.resume_serial);
        for place in walk.cursor.iter().take(walk.cursor_places as usize) {
            let (cgroup_id, serial) = (place.id, place.serial);
            places.push(Place { cgroup_id, serial, resume_serial, at, start_level: walk.start_level });
            // Behind a cgroup that was passed on the way, those that are sought are still to come.
            if at != abi::CG_AT_SEEK {
                resume_serial = serial;
            }
            at = match walk.order {
                abi::CG_ORDER_ANCESTORS_UP => abi::CG_AT_ENTER,
                _ => abi::CG_AT_SEEK_BELOW,
            };
        }
        // Those without an id were dying already.
        places.retain(|place| place.cgroup_id != 0);
        let is_whole = walk.cursor_places <= abi::CG_PLACES_MAX;
        Some(Self { hierarchy_id: walk.hierarchy_id, is_whole, places })
    }
}

/// What a flush did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flushed {
    /// The cgroup whose subtree was flushed; 0 if none had to be.
    pub cgroup_id: u64,
    /// The serial of its css.
    pub serial: u64,
    /// Whether the memory controller's statistics were flushed by themselves, where they have to be.
    pub memory: bool,
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
    /// Whether the iterator has an order for a cgroup's children (7.0).
    iterates_children: bool,
    buffer: Box<[u8]>,
}

impl Kernel {
    /// Loads the programs.
    pub fn load(loader: &mut Loader<'_>, bounds: Bounds) -> Result<Self, LoadError> {
        let programs = Programs::load(loader, bounds)?;
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        let facts = Facts::read(loader, &mut buffer)?;
        let mut kernel = Self { programs, facts, bounds, iterates_children: false, buffer };
        // A program knows by CO-RE.
        let root = WalkRequest::of(Start::Id(0), abi::CG_ORDER_SELF_ONLY);
        let drained = kernel.walk_locked(&root, None).map_err(LoadError::Probe)?;
        kernel.iterates_children = drained.walk.iterates_children != 0;
        Ok(kernel)
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
            serial: walk.flushed_serial,
            memory: walk.flushed_memory != 0,
            flush_ns: walk.flush_ns,
            mutex_held_ns: walk.flush_mutex_held_ns,
            visited: walk.visited > 0,
        })
    }

    /// Runs one session of the locked engine, under cgroup_mutex. It visits at most
    /// `locked_visits_max` cgroups if it goes downward, and ends with `CG_END_RECORDS_FULL` if there are
    /// more. Only a post-order walk with a depth has to know the level of the walk's first cgroup, for all
    /// others meet that first.
    pub fn walk_locked(
        &mut self,
        request: &WalkRequest<'_>,
        start_level: Option<u32>,
    ) -> Result<Drained, KernelError> {
        let mut block = self.control_block(request);
        let order = match request.order {
            abi::CG_ORDER_CHILDREN if self.iterates_children => {
                // The iterator leaves the start out by itself: all that it comes to is wanted.
                (block.order, block.max_depth) = (abi::CG_ORDER_SELF_ONLY, u32::MAX);
                abi::CG_ORDER_CHILDREN
            }
            abi::CG_ORDER_CHILDREN => abi::CG_ORDER_DESCENDANTS_PRE,
            abi::CG_ORDER_DESCENDANTS_PRE | abi::CG_ORDER_DESCENDANTS_POST if request.max_depth == 0 => {
                abi::CG_ORDER_SELF_ONLY
            }
            order => order,
        };
        if order != abi::CG_ORDER_ANCESTORS_UP {
            block.records_max = block.records_max.min(self.bounds.locked_visits_max);
        }
        block.is_started = start_level.is_some().into();
        block.start_level = start_level.unwrap_or_default();
        self.programs.walk.set_only(block);
        session::run(&self.programs.walk_locked, order, request.start, &mut self.buffer)?;
        Ok(self.drain())
    }

    /// Walks one slice by the unlocked engine: from the start, or on from a place, whose cgroup is then
    /// `request.start`.
    pub fn walk_slice(
        &mut self,
        request: &WalkRequest<'_>,
        place: Option<Place>,
    ) -> Result<Drained, KernelError> {
        let block = self.control_block(request);
        self.programs.walk.set_only(match place {
            None => block,
            Some(Place { resume_serial, at, start_level, .. }) => {
                cg_walk { is_started: 1, start_level, resume_serial, resume_at: at, ..block }
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
            Name {
                hierarchy_id: name.hierarchy_id,
                serial: name.serial,
                cgroup_id: name.id,
                name: name.name[..length].into(),
            }
        });
        let cursor = Cursor::of(&walk);
        Drained { records, details, memory_stats, io_devices, names: names.collect(), walk, cursor }
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_ebpf::abi::cg_place;

    use super::*;

    fn walk(cursor_at: abi::cg_at, places: &[(u64, u64)]) -> cg_walk {
        let cursor_places = u32::try_from(places.len()).unwrap();
        let mut walk = cg_walk { end: abi::CG_END_SLICE, cursor_at, cursor_places, ..cg_walk::default() };
        for (place, (id, serial)) in walk.cursor.iter_mut().zip(places) {
            *place = cg_place { id: *id, serial: *serial };
        }
        walk
    }

    fn places(walk: &cg_walk) -> Vec<(u64, u64, abi::cg_at)> {
        let places = Cursor::of(walk).unwrap().places;
        places.iter().map(|place| (place.cgroup_id, place.resume_serial, place.at)).collect()
    }

    #[test]
    fn a_walk_goes_on_at_the_nearest_place_that_was_not_dying() {
        let walk = walk(abi::CG_AT_DESCEND, &[(0, 30), (20, 20), (10, 10)]);
        assert_eq!(places(&walk), [(20, 30, abi::CG_AT_SEEK_BELOW), (10, 20, abi::CG_AT_SEEK_BELOW)]);
    }

    #[test]
    fn a_seek_goes_on_for_what_was_sought() {
        let walk = cg_walk { resume_serial: 39, ..walk(abi::CG_AT_SEEK, &[(130, 30), (120, 20), (110, 10)]) };
        let below = abi::CG_AT_SEEK_BELOW;
        assert_eq!(places(&walk), [(130, 39, abi::CG_AT_SEEK), (120, 39, below), (110, 20, below)]);
    }

    #[test]
    fn a_cursor_is_whole_if_it_has_all_places() {
        let mut walk = walk(abi::CG_AT_DESCEND, &[(20, 20), (10, 10)]);
        assert!(Cursor::of(&walk).unwrap().is_whole);
        walk.cursor_places = abi::CG_PLACES_MAX + 1;
        assert!(!Cursor::of(&walk).unwrap().is_whole);
        walk.end = abi::CG_END_COMPLETE;
        assert!(Cursor::of(&walk).is_none());
    }
}
