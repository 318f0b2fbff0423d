//! What the kernel counts in struct memcg_vmstats, and which key of memory.stat shows it.

use cgfleet_ebpf::abi;
use cgfleet_model::Metric;

use super::super::raw::page_bytes;

/// Which array of struct memcg_vmstats an item is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Array {
    State,
    Event,
}

/// In what the kernel counts (mm/memcontrol.c, memcg_page_state_unit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemUnit {
    /// As the metric does.
    Same,
    Kibibytes,
    Pages,
}

impl ItemUnit {
    /// How much one is in the metric's unit.
    pub(super) fn size(self) -> u64 {
        match self {
            Self::Same => 1,
            Self::Kibibytes => 1024,
            Self::Pages => page_bytes(),
        }
    }
}

/// One item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// The metric that it is, or of which it is a part.
    pub(super) metric: Metric,
    pub(super) item: abi::cg_memory_item,
    pub(super) array: Array,
    pub(super) unit: ItemUnit,
    /// Its key in memory.stat.
    pub(super) v2_key: &'static str,
    /// Its key on cgroup v1; `None` if it is not shown there.
    pub(super) v1_key: Option<&'static str>,
}

impl Item {
    /// Its key in a hierarchy's memory.stat.
    pub(super) fn key(&self, is_v2: bool) -> Option<&'static str> {
        if is_v2 { Some(self.v2_key) } else { self.v1_key }
    }
}

macro_rules! items {
    ($($metric:ident: $item:ident, $array:ident, $unit:ident, $v2:literal, $v1:expr;)*) => {
        /// Every item that the agent asks for.
        pub(super) const ITEMS: &[Item] = &[$(Item {
            metric: Metric::$metric,
            item: abi::$item,
            array: Array::$array,
            unit: ItemUnit::$unit,
            v2_key: $v2,
            v1_key: $v1,
        },)*];
    };
}

items! {
    MemoryStatAnon: CG_ITEM_ANON, State, Pages, "anon", Some("total_rss");
    MemoryStatFile: CG_ITEM_FILE, State, Pages, "file", Some("total_cache");
    MemoryStatKernel: CG_ITEM_KERNEL, State, Pages, "kernel", None;
    MemoryStatKernelStack: CG_ITEM_KERNEL_STACK, State, Kibibytes, "kernel_stack", None;
    MemoryStatPagetables: CG_ITEM_PAGETABLES, State, Pages, "pagetables", None;
    MemoryStatPercpu: CG_ITEM_PERCPU, State, Same, "percpu", None;
    MemoryStatSock: CG_ITEM_SOCK, State, Pages, "sock", None;
    MemoryStatVmalloc: CG_ITEM_VMALLOC, State, Pages, "vmalloc", None;
    MemoryStatShmem: CG_ITEM_SHMEM, State, Pages, "shmem", Some("total_shmem");
    MemoryStatFileMapped: CG_ITEM_FILE_MAPPED, State, Pages, "file_mapped", Some("total_mapped_file");
    MemoryStatFileDirty: CG_ITEM_FILE_DIRTY, State, Pages, "file_dirty", Some("total_dirty");
    MemoryStatFileWriteback: CG_ITEM_FILE_WRITEBACK, State, Pages, "file_writeback", Some("total_writeback");
    MemoryStatSwapcached: CG_ITEM_SWAPCACHED, State, Pages, "swapcached", Some("total_swapcached");
    MemoryStatAnonThp: CG_ITEM_ANON_THP, State, Pages, "anon_thp", Some("total_rss_huge");
    MemoryStatShmemThp: CG_ITEM_SHMEM_THP, State, Pages, "shmem_thp", None;
    MemoryStatInactiveAnon: CG_ITEM_INACTIVE_ANON, State, Pages, "inactive_anon", Some("total_inactive_anon");
    MemoryStatActiveAnon: CG_ITEM_ACTIVE_ANON, State, Pages, "active_anon", Some("total_active_anon");
    MemoryStatInactiveFile: CG_ITEM_INACTIVE_FILE, State, Pages, "inactive_file", Some("total_inactive_file");
    MemoryStatActiveFile: CG_ITEM_ACTIVE_FILE, State, Pages, "active_file", Some("total_active_file");
    MemoryStatUnevictable: CG_ITEM_UNEVICTABLE, State, Pages, "unevictable", Some("total_unevictable");
    MemoryStatSlabReclaimable: CG_ITEM_SLAB_RECLAIMABLE, State, Same, "slab_reclaimable", None;
    MemoryStatSlabUnreclaimable: CG_ITEM_SLAB_UNRECLAIMABLE, State, Same, "slab_unreclaimable", None;
    MemoryStatWorkingsetRefaultAnon: CG_ITEM_WORKINGSET_REFAULT_ANON, State, Same, "workingset_refault_anon", Some("total_workingset_refault_anon");
    MemoryStatWorkingsetRefaultFile: CG_ITEM_WORKINGSET_REFAULT_FILE, State, Same, "workingset_refault_file", Some("total_workingset_refault_file");
    MemoryStatPgscan: CG_ITEM_PGSCAN_KSWAPD, Event, Same, "pgscan_kswapd", None;
    MemoryStatPgscan: CG_ITEM_PGSCAN_DIRECT, Event, Same, "pgscan_direct", None;
    MemoryStatPgscan: CG_ITEM_PGSCAN_KHUGEPAGED, Event, Same, "pgscan_khugepaged", None;
    MemoryStatPgscan: CG_ITEM_PGSCAN_PROACTIVE, Event, Same, "pgscan_proactive", None;
    MemoryStatPgsteal: CG_ITEM_PGSTEAL_KSWAPD, Event, Same, "pgsteal_kswapd", None;
    MemoryStatPgsteal: CG_ITEM_PGSTEAL_DIRECT, Event, Same, "pgsteal_direct", None;
    MemoryStatPgsteal: CG_ITEM_PGSTEAL_KHUGEPAGED, Event, Same, "pgsteal_khugepaged", None;
    MemoryStatPgsteal: CG_ITEM_PGSTEAL_PROACTIVE, Event, Same, "pgsteal_proactive", None;
    MemoryStatPgfault: CG_ITEM_PGFAULT, Event, Same, "pgfault", Some("total_pgfault");
    MemoryStatPgmajfault: CG_ITEM_PGMAJFAULT, Event, Same, "pgmajfault", Some("total_pgmajfault");
    MemoryStatPgrefill: CG_ITEM_PGREFILL, Event, Same, "pgrefill", None;
    MemoryStatPgactivate: CG_ITEM_PGACTIVATE, Event, Same, "pgactivate", None;
    MemoryStatPgdeactivate: CG_ITEM_PGDEACTIVATE, Event, Same, "pgdeactivate", None;
    MemoryStatPglazyfree: CG_ITEM_PGLAZYFREE, Event, Same, "pglazyfree", None;
    MemoryStatPglazyfreed: CG_ITEM_PGLAZYFREED, Event, Same, "pglazyfreed", None;
    MemoryStatThpFaultAlloc: CG_ITEM_THP_FAULT_ALLOC, Event, Same, "thp_fault_alloc", None;
    MemoryStatVmalloc: CG_ITEM_NODE_VMALLOC, State, Pages, "vmalloc", None;
    MemoryStatPgscan: CG_ITEM_NODE_PGSCAN_KSWAPD, State, Same, "pgscan_kswapd", None;
    MemoryStatPgscan: CG_ITEM_NODE_PGSCAN_DIRECT, State, Same, "pgscan_direct", None;
    MemoryStatPgscan: CG_ITEM_NODE_PGSCAN_KHUGEPAGED, State, Same, "pgscan_khugepaged", None;
    MemoryStatPgscan: CG_ITEM_NODE_PGSCAN_PROACTIVE, State, Same, "pgscan_proactive", None;
    MemoryStatPgsteal: CG_ITEM_NODE_PGSTEAL_KSWAPD, State, Same, "pgsteal_kswapd", None;
    MemoryStatPgsteal: CG_ITEM_NODE_PGSTEAL_DIRECT, State, Same, "pgsteal_direct", None;
    MemoryStatPgsteal: CG_ITEM_NODE_PGSTEAL_KHUGEPAGED, State, Same, "pgsteal_khugepaged", None;
    MemoryStatPgsteal: CG_ITEM_NODE_PGSTEAL_PROACTIVE, State, Same, "pgsteal_proactive", None;
    MemoryStatPgrefill: CG_ITEM_NODE_PGREFILL, State, Same, "pgrefill", None;
}

#[cfg(test)]
mod tests {
    use cgfleet_model::{MetricGroup, Shape};

    use super::*;

    #[test]
    fn every_metric_of_memory_stat_is_made_of_items() {
        for metric in MetricGroup::MemoryStat.metrics() {
            let mut items = ITEMS.iter().filter(|item| item.metric == metric).peekable();
            let first = items.peek().unwrap_or_else(|| panic!("{} has no item", metric.name()));
            let Some(Shape::Flat(key)) = metric.info().v2().map(|file| file.shape) else {
                panic!("memory.stat is a flat file")
            };
            assert!(first.v2_key.starts_with(key), "{}: {}", metric.name(), first.v2_key);
            let is_sum = items.count() > 1;
            let v1 = ITEMS.iter().find(|item| item.metric == metric && !is_sum).and_then(|item| item.v1_key);
            let v1_file = metric.info().v1().map(|file| file.shape);
            assert_eq!(v1.map(Shape::Flat), v1_file, "{}", metric.name());
        }
        let numbers: Vec<_> = ITEMS.iter().map(|item| item.item).collect();
        assert_eq!(numbers, (0..abi::CG_ITEMS).collect::<Vec<_>>(), "in the ABI's order, each once");
    }
}
