//! BPF array maps as memory of this process.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;
use cgfleet_ebpf::abi::{
    cg_details, cg_facts, cg_final, cg_io_device, cg_lifecycle, cg_made, cg_memory_stat, cg_name, cg_record,
    cg_removed, cg_view, cg_walk,
};
use memmap2::{MmapOptions, MmapRaw};

/// A value that a BPF program and this process may both hold.
///
/// # Safety
/// Every bit pattern must be a value of the type.
pub(super) unsafe trait Shared: Copy {}

// SAFETY: structs of integers, laid out by cgfleet.h, whose size is a multiple of eight.
unsafe impl Shared for cg_walk {}
// SAFETY: as above.
unsafe impl Shared for cg_record {}
// SAFETY: as above.
unsafe impl Shared for cg_details {}
// SAFETY: as above.
unsafe impl Shared for cg_memory_stat {}
// SAFETY: as above.
unsafe impl Shared for cg_io_device {}
// SAFETY: as above.
unsafe impl Shared for cg_name {}
// SAFETY: as above.
unsafe impl Shared for cg_facts {}
// SAFETY: as above.
unsafe impl Shared for cg_view {}
// SAFETY: as above.
unsafe impl Shared for cg_lifecycle {}
// SAFETY: as above.
unsafe impl Shared for cg_final {}
// SAFETY: as above.
unsafe impl Shared for cg_made {}
// SAFETY: as above.
unsafe impl Shared for cg_removed {}

/// The value at the beginning of what a program wrote; `None` if that is shorter.
pub(super) fn read_value<T: Shared>(bytes: &[u8]) -> Option<T> {
    (bytes.len() >= size_of::<T>()).then(|| {
        // SAFETY: in bounds, and any bits are a T.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    })
}

/// The values of a BPF_F_MMAPABLE array. The kernel lays them out with a stride of their size
/// rounded up to eight (kernel/bpf/arraymap.c, array_map_alloc).
#[derive(Debug)]
pub(super) struct MappedArray<T> {
    memory: MmapRaw,
    entries: u32,
    value: PhantomData<T>,
}

impl<T: Shared> MappedArray<T> {
    /// Maps the whole of `map`, whose values are of type `T`.
    pub(super) fn new(map: &MapData) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(io::Error::other("the map's values have another size than the agent's"));
        }
        let entries = info.max_entries();
        let bytes = size_of::<T>() * entries as usize;
        let memory = MmapOptions::new().len(bytes).map_raw(map.fd().as_fd().as_raw_fd())?;
        Ok(Self { memory, entries, value: PhantomData })
    }

    /// The value at `index`; `None` behind the end.
    pub(super) fn get(&self, index: u32) -> Option<T> {
        (index < self.entries).then(|| {
            // SAFETY: in bounds and aligned (the mapping is page-aligned, T at most eight), and any
            // bits are a T. Volatile, for the kernel is the writer.
            unsafe { self.memory.as_ptr().cast::<T>().add(index as usize).read_volatile() }
        })
    }

    /// The first `count` values, or all if there are fewer.
    pub(super) fn first(&self, count: u32) -> Vec<T> {
        (0..count).map_while(|index| self.get(index)).collect()
    }

    /// Sets the value at `index`, if there is such a place.
    pub(super) fn set(&mut self, index: u32, value: T) {
        if index < self.entries {
            // SAFETY: in bounds; the rest as in get.
            unsafe { self.memory.as_mut_ptr().cast::<T>().add(index as usize).write_volatile(value) }
        }
    }

    /// Sets the only value of a one-entry array.
    pub(super) fn set_only(&mut self, value: T) {
        // SAFETY: an array has at least one entry; the rest as in get.
        unsafe { self.memory.as_mut_ptr().cast::<T>().write_volatile(value) }
    }
}
