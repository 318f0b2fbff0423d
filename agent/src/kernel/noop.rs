//! The kernel's iterator with a program that does nothing: the price of a walk before it reads anything.
//!
//! For the benchmarks alone. An agent never loads it.

use std::os::fd::BorrowedFd;

use aya::{Ebpf, programs::ProgramFd};
use cgfleet_ebpf::abi::{self, cg_walk};

use super::{
    KernelError, LoadError, Loader,
    mapped::MappedArray,
    programs::{load_iter, mapped},
    session::{self, READ_BYTES, Start},
};

/// The loaded program.
#[derive(Debug)]
pub struct Noop {
    program: ProgramFd,
    walk: MappedArray<cg_walk>,
    buffer: Box<[u8]>,
    /// Keeps the program loaded.
    _object: Ebpf,
}

/// What a walk that did nothing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoopWalk {
    /// Cgroups that the kernel visited.
    pub cgroups_visited: u64,
    /// Time from the first visit to the end, in nanoseconds: what `WalkSummary.walk_ns` is of the
    /// locked engine.
    pub walk_ns: u64,
}

impl Noop {
    /// Loads the program.
    pub fn load(loader: &mut Loader<'_>) -> Result<Self, LoadError> {
        let mut object = loader.load("the map of noop", cgfleet_ebpf::NOOP_OBJECT)?;
        Ok(Self {
            program: load_iter(&mut object, "noop", loader.btf)?,
            walk: mapped(&mut object, "walk")?,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            _object: object,
        })
    }

    /// Visits the cgroup of this directory and all below it, a parent before its children.
    pub fn walk(&mut self, directory: BorrowedFd<'_>) -> Result<NoopWalk, KernelError> {
        self.walk.set_only(cg_walk::default());
        let start = Start::Directory(directory);
        session::run(&self.program, abi::CG_ORDER_DESCENDANTS_PRE, start, &mut self.buffer)?;
        let cg_walk { visited, walk_ns, .. } = self.walk.get(0).unwrap_or_default();
        Ok(NoopWalk { cgroups_visited: visited, walk_ns })
    }
}
