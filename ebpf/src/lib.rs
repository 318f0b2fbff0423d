//! The kernel side: the compiled BPF objects, and the layout that they share with the agent.
//!
//! Owns the C sources and the one header. Knows nothing of loading, maps or links: that is the
//! agent's `kernel`.

/// The layout of `cgfleet.h`.
#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    reason = "generated; documented in cgfleet.h"
)]
pub mod abi {
    include!(concat!(env!("OUT_DIR"), "/cgfleet.rs"));
}

/// `flush_unlocked.bpf.c`: the flush without cgroup_mutex, from Linux 6.2 on.
pub const FLUSH_UNLOCKED_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flush_unlocked.bpf.o"));

/// `facts.bpf.c`: what a kernel calls at which number.
pub const FACTS_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/facts.bpf.o"));

/// `lifecycle.bpf.c`: cgroups that come and go, with final values, where references to cgroups are known.
pub const LIFECYCLE_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lifecycle.bpf.o"));

/// `lifecycle_unheld.bpf.c`: the same with what is known without a flush, for kernels before 6.2.
pub const LIFECYCLE_UNHELD_OBJECT: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/lifecycle_unheld.bpf.o"));

/// `noop.bpf.c`: the iterator alone, for benchmarks.
pub const NOOP_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/noop.bpf.o"));

/// `view.bpf.c`: text views.
pub const VIEW_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/view.bpf.o"));

/// `walk.bpf.c`: both engines, and the flush under cgroup_mutex.
pub const WALK_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/walk.bpf.o"));

/// `collectors/*.bpf.c`: what each is called, and its object.
pub const COLLECTOR_OBJECTS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/collectors.rs"));

#[cfg(test)]
mod tests {
    use super::abi::{
        self, cg_details, cg_io_device, cg_lifecycle, cg_memory_stat, cg_name, cg_record, cg_removed, cg_walk,
    };

    #[test]
    fn records_have_no_hidden_padding_and_fit_cache_lines() {
        assert_eq!(size_of::<cg_record>(), 40);
        assert_eq!(size_of::<cg_details>(), 8 * abi::CG_DETAILS as usize);
        assert_eq!(size_of::<cg_memory_stat>() % 64, 0);
        assert_eq!(size_of::<cg_io_device>(), 64);
        assert_eq!(size_of::<cg_name>(), 280);
        assert_eq!(size_of::<cg_walk>() % 8, 0);
        assert_eq!(size_of::<cg_removed>(), 56 + size_of::<cg_details>());
        assert_eq!(size_of::<cg_lifecycle>(), 80);
    }
}
