//! The bpf(2) commands that aya 0.14 does not expose: cgroup iterator links and their sessions.

use std::{
    fs::File,
    io,
    mem::zeroed,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd};

/// `union bpf_iter_link_info` for cgroups (include/uapi/linux/bpf.h).
#[repr(C)]
struct CgroupLinkInfo {
    order: u32,
    cgroup_fd: u32,
    cgroup_id: u64,
}

const LINK_INFO_BYTES: u32 = 16;
const _: () = assert!(size_of::<CgroupLinkInfo>() == LINK_INFO_BYTES as usize);

/// Where an iterator starts: the kernel takes either, never both.
#[derive(Debug, Clone, Copy)]
pub(super) enum IterStart<'fd> {
    Fd(BorrowedFd<'fd>),
    Id(u64),
}

/// BPF_LINK_CREATE of an iterator program on a cgroup.
pub(super) fn create_iter_link(
    program: BorrowedFd<'_>,
    order: u32,
    start: IterStart<'_>,
) -> io::Result<OwnedFd> {
    let mut link_info = match start {
        IterStart::Fd(fd) => {
            CgroupLinkInfo { order, cgroup_fd: fd.as_raw_fd().cast_unsigned(), cgroup_id: 0 }
        }
        IterStart::Id(id) => CgroupLinkInfo { order, cgroup_fd: 0, cgroup_id: id },
    };
    // SAFETY: bpf_attr is a union of plain integers, for which zero is a value.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = (&raw mut link_info) as u64;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info_len = LINK_INFO_BYTES;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// BPF_ITER_CREATE: one session of a link, which walks as it is read.
pub(super) fn create_iter(link: BorrowedFd<'_>) -> io::Result<File> {
    // SAFETY: as in create_iter_link.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.iter_create.link_fd = link.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr).map(File::from)
}

/// A bpf(2) command that answers with a new descriptor.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: attr lives through the call, and so does what it points to (the caller's locals).
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, size_of::<bpf_attr>())
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
