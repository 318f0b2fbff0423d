//! The locked engine: the kernel's cgroup iterator, which holds cgroup_mutex for a session.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::programs::ProgramFd;
use cgfleet_ebpf::abi::{self, cg_key, cg_record, cg_walk};

use super::{
    AttachError, Bounds, KernelError, LoadError,
    programs::{Key, Programs},
    sys::{self, IterStart},
};

/// A first read smaller than the kernel's eight pages ends the walk early (kernel/bpf/bpf_iter.c).
const READ_BYTES: usize = 64 << 10;

/// Where a walk starts.
#[derive(Debug, Clone, Copy)]
pub enum Start<'fd> {
    /// At the cgroup whose directory this is, of any hierarchy.
    Directory(BorrowedFd<'fd>),
    /// At the cgroup v2 cgroup with this id.
    Id(u64),
}

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

/// What a walk brought.
#[derive(Debug)]
pub struct Drained {
    /// The records in the order of the walk.
    pub records: Vec<cg_record>,
    /// Names of cgroups that were not known.
    pub names: Vec<(cg_key, Box<[u8]>)>,
    /// The control block as the programs left it.
    pub walk: cg_walk,
}

/// Runs locked walks, one at a time.
#[derive(Debug)]
pub struct LockedWalker {
    programs: Programs,
    bounds: Bounds,
    buffer: Box<[u8]>,
}

impl LockedWalker {
    /// Loads the programs; needs CAP_BPF and CAP_PERFMON, and a kernel from 6.1 on with BTF.
    pub fn load(bounds: Bounds) -> Result<Self, LoadError> {
        Ok(Self { programs: Programs::load(bounds)?, bounds, buffer: vec![0; READ_BYTES].into_boxed_slice() })
    }

    /// Flushes rstat once, at the topmost cgroup of the answer that `request` will have.
    pub fn flush_topmost(&mut self, request: &WalkRequest<'_>) -> Result<Flushed, KernelError> {
        let direction = match request.order {
            abi::CG_ORDER_ANCESTORS_UP => abi::CG_ORDER_ANCESTORS_UP,
            _ => abi::CG_ORDER_SELF_ONLY,
        };
        self.programs.walk.set_only(self.control_block(request));
        run_session(&self.programs.flush_topmost, direction, request.start, &mut self.buffer)?;
        let walk = self.answer();
        Ok(Flushed {
            cgroup_id: walk.flushed_id,
            flush_ns: walk.flush_ns,
            mutex_held_ns: walk.flush_mutex_held_ns,
            visited: walk.visited > 0,
        })
    }

    /// Walks and drains what was recorded.
    pub fn walk(&mut self, request: &WalkRequest<'_>) -> Result<Drained, KernelError> {
        self.programs.walk.set_only(self.control_block(request));
        run_session(&self.programs.walk_locked, request.order, request.start, &mut self.buffer)?;
        let walk = self.answer();
        let records = (0..walk.records).map_while(|slot| self.programs.records.get(slot)).collect();
        let names = (0..walk.names).map_while(|slot| self.programs.names.get(slot));
        let names = names
            .map(|name| {
                let length = (name.length as usize).min(name.name.len());
                (
                    cg_key { id: name.id, hierarchy_id: name.hierarchy_id, padding: 0 },
                    name.name[..length].into(),
                )
            })
            .collect();
        Ok(Drained { records, names, walk })
    }

    /// Makes the kernel send this cgroup's name again, should it meet it again.
    pub fn forget(&mut self, key: cg_key) -> Result<(), KernelError> {
        match self.programs.known.remove(&Key(key)) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(KernelError::Forget { id: key.id, cause: error.to_string() }),
        }
    }

    fn control_block(&self, request: &WalkRequest<'_>) -> cg_walk {
        cg_walk {
            stop_at_id: request.stop_at_id,
            limit: request.limit,
            groups: request.groups,
            records_max: self.bounds.records_max,
            names_max: self.bounds.names_max,
            order: request.order,
            ..cg_walk::default()
        }
    }

    fn answer(&self) -> cg_walk {
        self.programs.walk.get(0).unwrap_or_default()
    }
}

/// One session of one link, read to its end. Both are closed here: an open one keeps its start
/// cgroup from being freed.
fn run_session(
    program: &ProgramFd,
    order: u32,
    start: Start<'_>,
    buffer: &mut [u8],
) -> Result<(), KernelError> {
    let start = match start {
        Start::Directory(fd) => IterStart::Fd(fd),
        Start::Id(id) => IterStart::Id(id),
    };
    let link =
        sys::create_iter_link(program.as_fd(), order, start).map_err(|error| match error.raw_os_error() {
            Some(libc::EBADF) => AttachError::NotACgroup,
            Some(libc::ENOENT) => AttachError::NoSuchCgroup,
            _ => AttachError::Refused(error),
        })?;
    let mut session: File = sys::create_iter(link.as_fd()).map_err(KernelError::Read)?;
    loop {
        match session.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KernelError::Read(error)),
        }
    }
}
