//! A collector's maps: entries as rows of numbers.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::maps::{Map, MapData};
use cgfleet_ebpf::abi::{cg_collector_state, cg_key};

use crate::kernel::sys;

/// Entries that are asked for at a time, unless a bucket of the map holds more.
const BATCH_ENTRIES: u32 = 1024;
const WORD_BYTES: usize = size_of::<u64>();

/// A cgroup among all hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CgroupKey {
    /// Its hierarchy; 0 is cgroup v2.
    pub hierarchy_id: u32,
    /// Its id there.
    pub cgroup_id: u64,
}

impl CgroupKey {
    fn to_bytes(self) -> [u8; size_of::<cg_key>()] {
        let mut bytes = [0; size_of::<cg_key>()];
        bytes[..8].copy_from_slice(&self.cgroup_id.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.hierarchy_id.to_ne_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (cgroup_id, rest) = bytes.split_first_chunk()?;
        let hierarchy_id = u32::from_ne_bytes(*rest.first_chunk()?);
        Some(Self { hierarchy_id, cgroup_id: u64::from_ne_bytes(*cgroup_id) })
    }
}

/// What a collector says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectorState {
    /// Cgroups that have a place in its maps.
    pub cgroups: u64,
    /// The most that ever had.
    pub cgroups_peak: u64,
    /// Events of cgroups for which there was no place.
    pub dropped_events: u64,
}

/// A map whose values are numbers of 64 bits.
#[derive(Debug)]
pub(super) struct Words {
    map: MapData,
    /// Of one entry: of all CPUs, if it is kept per CPU.
    words: usize,
}

impl Words {
    pub(super) fn of(map: Map) -> io::Result<Self> {
        let (map, cpus) = match map {
            Map::PerCpuHashMap(map) => (map, aya::util::nr_cpus().map_err(|(_, error)| error)?),
            Map::HashMap(map) | Map::Array(map) => (map, 1),
            _ => return Err(io::Error::other("not a map of a kind that collectors have")),
        };
        let info = map.info().map_err(io::Error::other)?;
        Ok(Self { map, words: info.value_size() as usize / WORD_BYTES * cpus })
    }

    /// Numbers of one entry.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    pub(super) fn get(&self, key: CgroupKey) -> io::Result<Option<Vec<u64>>> {
        let mut value = vec![0; self.words * WORD_BYTES];
        Ok(sys::map_lookup(self.fd(), &key.to_bytes(), &mut value)?.then(|| to_words(&value)))
    }

    pub(super) fn set(&self, key: CgroupKey, words: &[u64]) -> io::Result<()> {
        debug_assert_eq!(words.len(), self.words);
        let value: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        sys::map_update(self.fd(), &key.to_bytes(), &value)
    }

    pub(super) fn remove(&self, key: CgroupKey) -> io::Result<bool> {
        sys::map_delete(self.fd(), &key.to_bytes())
    }

    /// Every entry, in no order. Those that come or go meanwhile may be among them or not.
    pub(super) fn entries(&self) -> io::Result<Vec<(CgroupKey, Vec<u64>)>> {
        let (key_bytes, value_bytes) = (size_of::<cg_key>(), self.words * WORD_BYTES);
        let (mut entries, mut from, mut batch) = (Vec::new(), None, BATCH_ENTRIES);
        loop {
            let mut keys = vec![0; key_bytes * batch as usize];
            let mut values = vec![0; value_bytes * batch as usize];
            match sys::map_lookup_batch(self.fd(), from, (&mut keys, &mut values), batch) {
                Ok((count, next)) => {
                    let keys = keys.chunks_exact(key_bytes).take(count as usize);
                    let found = keys.zip(values.chunks_exact(value_bytes));
                    entries.extend(
                        found.filter_map(|(key, value)| Some((CgroupKey::of_bytes(key)?, to_words(value)))),
                    );
                    from = next;
                    if from.is_none() {
                        return Ok(entries);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => batch *= 2,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The only entry of the map `state`.
#[derive(Debug)]
pub(super) struct State(Words);

impl State {
    pub(super) fn of(map: Map) -> io::Result<Self> {
        Words::of(map).map(Self)
    }

    pub(super) fn get(&self) -> io::Result<CollectorState> {
        let mut value = [0; size_of::<cg_collector_state>()];
        sys::map_lookup(self.0.fd(), &0_u32.to_ne_bytes(), &mut value)?;
        let words = to_words(&value);
        let [cgroups, cgroups_peak, dropped_events] = words[..] else {
            return Err(io::Error::other("the collector's state has another size than the agent's"));
        };
        Ok(CollectorState { cgroups, cgroups_peak, dropped_events })
    }

    pub(super) fn set(&self, state: CollectorState) -> io::Result<()> {
        let words = [state.cgroups, state.cgroups_peak, state.dropped_events];
        let value: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        sys::map_update(self.0.fd(), &0_u32.to_ne_bytes(), &value)
    }
}

fn to_words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}
