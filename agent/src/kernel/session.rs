//! One session of an iterator program on a cgroup, read to its end.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::programs::ProgramFd;

use super::{
    AttachError, KernelError,
    sys::{self, IterStart},
};

/// A first read smaller than the kernel's eight pages ends the walk early (kernel/bpf/bpf_iter.c).
pub(super) const READ_BYTES: usize = 64 << 10;

/// Where a session starts.
#[derive(Debug, Clone, Copy)]
pub enum Start<'fd> {
    /// At the cgroup whose directory this is, of any hierarchy.
    Directory(BorrowedFd<'fd>),
    /// At the cgroup v2 cgroup with this id; 0 is the root of this process's cgroup namespace.
    Id(u64),
}

/// Runs one session of one link. Both are closed here: an open one keeps its start cgroup from
/// being freed.
pub(super) fn run(
    program: &ProgramFd,
    order: u32,
    start: Start<'_>,
    buffer: &mut [u8],
) -> Result<(), KernelError> {
    let link = attach(program, order, start)?;
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

/// A link of the program to where its sessions start.
pub(super) fn attach(program: &ProgramFd, order: u32, start: Start<'_>) -> Result<OwnedFd, AttachError> {
    let start = match start {
        Start::Directory(fd) => IterStart::Fd(fd),
        Start::Id(id) => IterStart::Id(id),
    };
    sys::create_iter_link(program.as_fd(), order, start).map_err(|error| match error.raw_os_error() {
        Some(libc::EBADF) => AttachError::NotACgroup,
        Some(libc::ENOENT) => AttachError::NoSuchCgroup,
        _ => AttachError::Refused(error),
    })
}
