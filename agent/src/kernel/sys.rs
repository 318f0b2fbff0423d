//! The bpf(2) commands that aya 0.14 does not expose: cgroup iterator links and their sessions, and
//! entries of maps whose size is known at run time alone. And what only the C library can do about memory.

use std::{
    ffi::CStr,
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

/// BPF_OBJ_PIN: gives a link a name in a BPF filesystem.
pub(super) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: as in create_iter_link.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd().cast_unsigned();
    command(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// `struct bpf_link_info` of a cgroup iterator's link (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct IterLinkInfo {
    kind: u32,
    pub(super) link_id: u32,
    pub(super) program_id: u32,
    padding: u32,
    target_name: u64,
    target_name_bytes: u32,
    map_id: u32,
    pub(super) cgroup_id: u64,
    pub(super) order: u32,
    padding_behind: u32,
}

const _: () = assert!(size_of::<IterLinkInfo>() == 48);

/// BPF_OBJ_GET_INFO_BY_FD of a cgroup iterator's link.
pub(super) fn iter_link_info(link: BorrowedFd<'_>) -> io::Result<IterLinkInfo> {
    let mut info = IterLinkInfo::default();
    // SAFETY: as in create_iter_link.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<IterLinkInfo>()).map_err(io::Error::other)?;
    attr.info.info = (&raw mut info) as u64;
    command(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// BPF_MAP_LOOKUP_ELEM: fills `value`, which is as long as the map's values, of all CPUs if they are per
/// CPU. Whether there is such an entry.
pub(super) fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    match command(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// BPF_MAP_UPDATE_ELEM, whether or not there is such an entry.
pub(super) fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    command(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// BPF_MAP_DELETE_ELEM. Whether there was such an entry.
pub(super) fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    match command(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(map, key)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// BPF_MAP_LOOKUP_BATCH of a hash map: fills `keys` and `values` with at most `entries` of them from a
/// position on; `None` is the beginning. How many there were, and the position behind them, which is
/// `None` at the end. ENOSPC: `entries` is less than what one of the map's buckets holds.
pub(super) fn map_lookup_batch(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    (keys, values): (&mut [u8], &mut [u8]),
    entries: u32,
) -> io::Result<(u32, Option<u32>)> {
    let (mut from_bucket, mut to_bucket) = (from.unwrap_or_default(), 0_u32);
    // SAFETY: as in create_iter_link.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.in_batch = from.map_or(0, |_| (&raw mut from_bucket) as u64);
    attr.batch.out_batch = (&raw mut to_bucket) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = entries;
    let looked_up = command(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
    // SAFETY: the kernel wrote a number there, and any bits are one.
    let count = unsafe { attr.batch.count };
    match looked_up {
        Ok(_) => Ok((count, Some(to_bucket))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((count, None)),
        Err(error) => Err(error),
    }
}

fn element(map: BorrowedFd<'_>, key: &[u8]) -> bpf_attr {
    // SAFETY: as in create_iter_link.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr
}

/// A bpf(2) command that answers with a new descriptor.
fn bpf(name: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(command(name, attr)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A bpf(2) command.
fn command(name: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: attr lives through the call, and so does what it points to (the caller's locals and slices,
    // which are as long as the map's entries).
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, name as libc::c_int, &raw mut *attr, size_of::<bpf_attr>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Gives memory that was freed back to the kernel, which the allocator would keep for later.
pub(super) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory of ours is touched by it.
    unsafe {
        libc::malloc_trim(0);
    }
}
