//! The catalogue itself: one row a metric. docs/add-a-metric.md says what else a new row needs.

use super::{
    MetricGroup::{
        Attach, BlockIo, Cpu, Io, Memory, MemoryEvents, MemoryEventsLocal, MemoryStat, Pids, Pressure,
        Reclaim, Runqueue, Structure,
    },
    MetricInfo,
    MetricKind::{Counter, Gauge, Limit},
    Origin,
    kernel_file::{
        KernelFile,
        Shape::{Flat, Nested, Stall, Value},
    },
};
use crate::Collector;

/// Makes [`Metric`] and its catalogue out of the rows. Stored ticks number metrics by
/// their places in their groups: append to a group, never reorder it or move a row to another. Rows in
/// brackets are counted by the collector of their group.
macro_rules! metrics {
    (
        $($metric:ident: $group:ident, $name:literal, $unit:literal, $kind:ident, $v2:expr, $v1:expr, $description:literal;)*
        [$($counted:ident: $of:ident, $its_name:literal, $its_unit:literal, $its_kind:ident, $meaning:literal;)*]
    ) => {
        /// One metric.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Metric {
            $(#[doc = $description] $metric,)*
            $(#[doc = $meaning] $counted,)*
        }

        /// In the order of the metrics' numbers.
        pub(super) const CATALOGUE: &[MetricInfo] = &[
            $(MetricInfo {
                metric: Metric::$metric,
                name: $name,
                unit: $unit,
                kind: $kind,
                group: $group,
                origin: Origin::Files { v2: $v2, v1: $v1 },
                description: $description,
            },)*
            $(MetricInfo {
                metric: Metric::$counted,
                name: $its_name,
                unit: $its_unit,
                kind: $its_kind,
                group: $of,
                origin: Origin::Collector(Collector::$of),
                description: $meaning,
            },)*
        ];
    };
}

const fn value(file: &'static str) -> KernelFile {
    KernelFile { file, shape: Value, divisor: 1, is_on_root: true }
}

const fn flat(file: &'static str, key: &'static str) -> KernelFile {
    KernelFile { file, shape: Flat(key), divisor: 1, is_on_root: true }
}

const fn nested(file: &'static str, key: &'static str) -> KernelFile {
    KernelFile { file, shape: Nested(key), divisor: 1, is_on_root: true }
}

const fn stall(file: &'static str, line: &'static str) -> KernelFile {
    KernelFile { file, shape: Stall(line), divisor: 1, is_on_root: true }
}

const NS_PER_USEC: u64 = 1000;

metrics! {
    CpuUsage: Cpu, "cpu.usage_usec", "usec", Counter,
        flat("cpu.stat", "usage_usec"), Some(value("cpuacct.usage").in_units_of(NS_PER_USEC)),
        "CPU time consumed by the cgroup and its descendants.";
    CpuUser: Cpu, "cpu.user_usec", "usec", Counter,
        flat("cpu.stat", "user_usec"), Some(value("cpuacct.usage_user").in_units_of(NS_PER_USEC)),
        "CPU time consumed in user mode.";
    CpuSystem: Cpu, "cpu.system_usec", "usec", Counter,
        flat("cpu.stat", "system_usec"), Some(value("cpuacct.usage_sys").in_units_of(NS_PER_USEC)),
        "CPU time consumed in kernel mode.";
    CpuNrPeriods: Cpu, "cpu.nr_periods", "1", Counter,
        flat("cpu.stat", "nr_periods").not_on_root(), Some(flat("cpu.stat", "nr_periods").not_on_root()),
        "Periods of the cgroup's own bandwidth limit in which it ran.";
    CpuNrThrottled: Cpu, "cpu.nr_throttled", "1", Counter,
        flat("cpu.stat", "nr_throttled").not_on_root(), Some(flat("cpu.stat", "nr_throttled").not_on_root()),
        "Of these periods, those in which it was throttled.";
    CpuThrottled: Cpu, "cpu.throttled_usec", "usec", Counter,
        flat("cpu.stat", "throttled_usec").not_on_root(),
        Some(flat("cpu.stat", "throttled_time").in_units_of(NS_PER_USEC).not_on_root()),
        "Time for which it was throttled, summed over CPUs.";

    MemoryCurrent: Memory, "memory.current_bytes", "bytes", Gauge,
        value("memory.current"), Some(value("memory.usage_in_bytes").not_on_root()),
        "Memory charged to the cgroup and its descendants.";
    MemoryPeak: Memory, "memory.peak_bytes", "bytes", Gauge,
        value("memory.peak"), Some(value("memory.max_usage_in_bytes").not_on_root()),
        "The most that was ever charged.";
    MemorySwapCurrent: Memory, "memory.swap_current_bytes", "bytes", Gauge,
        value("memory.swap.current"), None,
        "Swap used by the cgroup and its descendants.";
    MemoryMin: Memory, "memory.min_bytes", "bytes", Limit,
        value("memory.min"), None,
        "Memory that is never reclaimed.";
    MemoryLow: Memory, "memory.low_bytes", "bytes", Limit,
        value("memory.low"), None,
        "Memory that is reclaimed only if nothing unprotected is left.";
    MemoryHigh: Memory, "memory.high_bytes", "bytes", Limit,
        value("memory.high"), None,
        "Usage above which the cgroup is slowed down and reclaimed.";
    MemoryMax: Memory, "memory.max_bytes", "bytes", Limit,
        value("memory.max"), Some(value("memory.limit_in_bytes").not_on_root()),
        "Usage that the cgroup cannot exceed.";
    MemorySwapMax: Memory, "memory.swap_max_bytes", "bytes", Limit,
        value("memory.swap.max"), None,
        "Swap that the cgroup cannot exceed.";

    MemoryStatAnon: MemoryStat, "memory_stat.anon_bytes", "bytes", Gauge,
        flat("memory.stat", "anon"), Some(flat("memory.stat", "total_rss")),
        "Memory in anonymous mappings.";
    MemoryStatFile: MemoryStat, "memory_stat.file_bytes", "bytes", Gauge,
        flat("memory.stat", "file"), Some(flat("memory.stat", "total_cache")),
        "Page cache, tmpfs and shared memory included.";
    MemoryStatKernel: MemoryStat, "memory_stat.kernel_bytes", "bytes", Gauge,
        flat("memory.stat", "kernel"), None,
        "Kernel memory of every kind.";
    MemoryStatKernelStack: MemoryStat, "memory_stat.kernel_stack_bytes", "bytes", Gauge,
        flat("memory.stat", "kernel_stack"), None,
        "Kernel stacks.";
    MemoryStatPagetables: MemoryStat, "memory_stat.pagetables_bytes", "bytes", Gauge,
        flat("memory.stat", "pagetables"), None,
        "Page tables.";
    MemoryStatPercpu: MemoryStat, "memory_stat.percpu_bytes", "bytes", Gauge,
        flat("memory.stat", "percpu"), None,
        "Per-CPU kernel structures.";
    MemoryStatSock: MemoryStat, "memory_stat.sock_bytes", "bytes", Gauge,
        flat("memory.stat", "sock"), None,
        "Buffers of network sockets.";
    MemoryStatVmalloc: MemoryStat, "memory_stat.vmalloc_bytes", "bytes", Gauge,
        flat("memory.stat", "vmalloc"), None,
        "Kernel memory that is mapped by vmalloc.";
    MemoryStatShmem: MemoryStat, "memory_stat.shmem_bytes", "bytes", Gauge,
        flat("memory.stat", "shmem"), Some(flat("memory.stat", "total_shmem")),
        "tmpfs and shared memory.";
    MemoryStatFileMapped: MemoryStat, "memory_stat.file_mapped_bytes", "bytes", Gauge,
        flat("memory.stat", "file_mapped"), Some(flat("memory.stat", "total_mapped_file")),
        "Page cache that is mapped.";
    MemoryStatFileDirty: MemoryStat, "memory_stat.file_dirty_bytes", "bytes", Gauge,
        flat("memory.stat", "file_dirty"), Some(flat("memory.stat", "total_dirty")),
        "Page cache that was changed and is not being written yet.";
    MemoryStatFileWriteback: MemoryStat, "memory_stat.file_writeback_bytes", "bytes", Gauge,
        flat("memory.stat", "file_writeback"), Some(flat("memory.stat", "total_writeback")),
        "Page cache that is being written.";
    MemoryStatSwapcached: MemoryStat, "memory_stat.swapcached_bytes", "bytes", Gauge,
        flat("memory.stat", "swapcached"), Some(flat("memory.stat", "total_swapcached")),
        "Swap that is cached in memory.";
    MemoryStatAnonThp: MemoryStat, "memory_stat.anon_thp_bytes", "bytes", Gauge,
        flat("memory.stat", "anon_thp"), Some(flat("memory.stat", "total_rss_huge")),
        "Anonymous memory in transparent huge pages.";
    MemoryStatShmemThp: MemoryStat, "memory_stat.shmem_thp_bytes", "bytes", Gauge,
        flat("memory.stat", "shmem_thp"), None,
        "Shared memory in transparent huge pages.";
    MemoryStatInactiveAnon: MemoryStat, "memory_stat.inactive_anon_bytes", "bytes", Gauge,
        flat("memory.stat", "inactive_anon"), Some(flat("memory.stat", "total_inactive_anon")),
        "Anonymous memory on the inactive LRU list.";
    MemoryStatActiveAnon: MemoryStat, "memory_stat.active_anon_bytes", "bytes", Gauge,
        flat("memory.stat", "active_anon"), Some(flat("memory.stat", "total_active_anon")),
        "Anonymous memory on the active LRU list.";
    MemoryStatInactiveFile: MemoryStat, "memory_stat.inactive_file_bytes", "bytes", Gauge,
        flat("memory.stat", "inactive_file"), Some(flat("memory.stat", "total_inactive_file")),
        "Page cache on the inactive LRU list.";
    MemoryStatActiveFile: MemoryStat, "memory_stat.active_file_bytes", "bytes", Gauge,
        flat("memory.stat", "active_file"), Some(flat("memory.stat", "total_active_file")),
        "Page cache on the active LRU list.";
    MemoryStatUnevictable: MemoryStat, "memory_stat.unevictable_bytes", "bytes", Gauge,
        flat("memory.stat", "unevictable"), Some(flat("memory.stat", "total_unevictable")),
        "Memory that cannot be reclaimed, mlocked for example.";
    MemoryStatSlabReclaimable: MemoryStat, "memory_stat.slab_reclaimable_bytes", "bytes", Gauge,
        flat("memory.stat", "slab_reclaimable"), None,
        "Slab that may be reclaimed, dentries and inodes for example.";
    MemoryStatSlabUnreclaimable: MemoryStat, "memory_stat.slab_unreclaimable_bytes", "bytes", Gauge,
        flat("memory.stat", "slab_unreclaimable"), None,
        "Slab that cannot be reclaimed.";
    MemoryStatWorkingsetRefaultAnon: MemoryStat, "memory_stat.workingset_refault_anon", "1", Counter,
        flat("memory.stat", "workingset_refault_anon"), Some(flat("memory.stat", "total_workingset_refault_anon")),
        "Refaults of anonymous pages that were evicted before.";
    MemoryStatWorkingsetRefaultFile: MemoryStat, "memory_stat.workingset_refault_file", "1", Counter,
        flat("memory.stat", "workingset_refault_file"), Some(flat("memory.stat", "total_workingset_refault_file")),
        "Refaults of page cache that was evicted before.";
    MemoryStatPgscan: MemoryStat, "memory_stat.pgscan", "1", Counter,
        flat("memory.stat", "pgscan"), None,
        "Pages that reclaim looked at.";
    MemoryStatPgsteal: MemoryStat, "memory_stat.pgsteal", "1", Counter,
        flat("memory.stat", "pgsteal"), None,
        "Pages that reclaim took.";
    MemoryStatPgfault: MemoryStat, "memory_stat.pgfault", "1", Counter,
        flat("memory.stat", "pgfault"), Some(flat("memory.stat", "total_pgfault")),
        "Page faults.";
    MemoryStatPgmajfault: MemoryStat, "memory_stat.pgmajfault", "1", Counter,
        flat("memory.stat", "pgmajfault"), Some(flat("memory.stat", "total_pgmajfault")),
        "Page faults that had to wait for a device.";
    MemoryStatPgrefill: MemoryStat, "memory_stat.pgrefill", "1", Counter,
        flat("memory.stat", "pgrefill"), None,
        "Pages of active LRU lists that reclaim looked at.";
    MemoryStatPgactivate: MemoryStat, "memory_stat.pgactivate", "1", Counter,
        flat("memory.stat", "pgactivate"), None,
        "Pages that moved to an active LRU list.";
    MemoryStatPgdeactivate: MemoryStat, "memory_stat.pgdeactivate", "1", Counter,
        flat("memory.stat", "pgdeactivate"), None,
        "Pages that moved to an inactive LRU list.";
    MemoryStatPglazyfree: MemoryStat, "memory_stat.pglazyfree", "1", Counter,
        flat("memory.stat", "pglazyfree"), None,
        "Pages that were given up by MADV_FREE.";
    MemoryStatPglazyfreed: MemoryStat, "memory_stat.pglazyfreed", "1", Counter,
        flat("memory.stat", "pglazyfreed"), None,
        "Of these, pages that reclaim took.";
    MemoryStatThpFaultAlloc: MemoryStat, "memory_stat.thp_fault_alloc", "1", Counter,
        flat("memory.stat", "thp_fault_alloc"), None,
        "Transparent huge pages that page faults made.";

    MemoryEventsLow: MemoryEvents, "memory_events.low", "1", Counter,
        flat("memory.events", "low"), None,
        "Times that the cgroup or a descendant was reclaimed although below memory.low.";
    MemoryEventsHigh: MemoryEvents, "memory_events.high", "1", Counter,
        flat("memory.events", "high"), None,
        "Times that tasks were slowed down because usage was above memory.high.";
    MemoryEventsMax: MemoryEvents, "memory_events.max", "1", Counter,
        flat("memory.events", "max"), None,
        "Times that usage was about to exceed memory.max.";
    MemoryEventsOom: MemoryEvents, "memory_events.oom", "1", Counter,
        flat("memory.events", "oom"), None,
        "Times that an allocation was about to fail at the limit.";
    MemoryEventsOomKill: MemoryEvents, "memory_events.oom_kill", "1", Counter,
        flat("memory.events", "oom_kill"), None,
        "Processes that the OOM killer killed.";
    MemoryEventsOomGroupKill: MemoryEvents, "memory_events.oom_group_kill", "1", Counter,
        flat("memory.events", "oom_group_kill"), None,
        "Times that the OOM killer killed a cgroup as a whole.";

    MemoryEventsLocalLow: MemoryEventsLocal, "memory_events_local.low", "1", Counter,
        flat("memory.events.local", "low"), None,
        "memory_events.low of the cgroup alone, without descendants.";
    MemoryEventsLocalHigh: MemoryEventsLocal, "memory_events_local.high", "1", Counter,
        flat("memory.events.local", "high"), None,
        "memory_events.high of the cgroup alone, without descendants.";
    MemoryEventsLocalMax: MemoryEventsLocal, "memory_events_local.max", "1", Counter,
        flat("memory.events.local", "max"), None,
        "memory_events.max of the cgroup alone, without descendants.";
    MemoryEventsLocalOom: MemoryEventsLocal, "memory_events_local.oom", "1", Counter,
        flat("memory.events.local", "oom"), None,
        "memory_events.oom of the cgroup alone, without descendants.";
    MemoryEventsLocalOomKill: MemoryEventsLocal, "memory_events_local.oom_kill", "1", Counter,
        flat("memory.events.local", "oom_kill"), None,
        "memory_events.oom_kill of the cgroup alone, without descendants.";
    MemoryEventsLocalOomGroupKill: MemoryEventsLocal, "memory_events_local.oom_group_kill", "1", Counter,
        flat("memory.events.local", "oom_group_kill"), None,
        "memory_events.oom_group_kill of the cgroup alone, without descendants.";

    IoRbytes: Io, "io.rbytes", "bytes", Counter,
        nested("io.stat", "rbytes"), None,
        "Bytes read from block devices.";
    IoWbytes: Io, "io.wbytes", "bytes", Counter,
        nested("io.stat", "wbytes"), None,
        "Bytes written to block devices.";
    IoRios: Io, "io.rios", "1", Counter,
        nested("io.stat", "rios"), None,
        "Reads from block devices.";
    IoWios: Io, "io.wios", "1", Counter,
        nested("io.stat", "wios"), None,
        "Writes to block devices.";
    IoDbytes: Io, "io.dbytes", "bytes", Counter,
        nested("io.stat", "dbytes"), None,
        "Bytes discarded on block devices.";
    IoDios: Io, "io.dios", "1", Counter,
        nested("io.stat", "dios"), None,
        "Discards on block devices.";

    PidsCurrent: Pids, "pids.current", "1", Gauge,
        value("pids.current"), Some(value("pids.current")),
        "Tasks in the cgroup and its descendants.";
    PidsMax: Pids, "pids.max", "1", Limit,
        value("pids.max"), Some(value("pids.max")),
        "Tasks that the cgroup cannot exceed.";

    PressureCpuSome: Pressure, "pressure.cpu_some_usec", "usec", Counter,
        stall("cpu.pressure", "some"), None,
        "Time in which at least one task waited for a CPU.";
    PressureCpuFull: Pressure, "pressure.cpu_full_usec", "usec", Counter,
        stall("cpu.pressure", "full").not_on_root(), None,
        "Time in which all tasks that could run waited for a CPU.";
    PressureMemorySome: Pressure, "pressure.memory_some_usec", "usec", Counter,
        stall("memory.pressure", "some"), None,
        "Time in which at least one task waited for memory.";
    PressureMemoryFull: Pressure, "pressure.memory_full_usec", "usec", Counter,
        stall("memory.pressure", "full"), None,
        "Time in which all tasks waited for memory.";
    PressureIoSome: Pressure, "pressure.io_some_usec", "usec", Counter,
        stall("io.pressure", "some"), None,
        "Time in which at least one task waited for I/O.";
    PressureIoFull: Pressure, "pressure.io_full_usec", "usec", Counter,
        stall("io.pressure", "full"), None,
        "Time in which all tasks waited for I/O.";

    StructurePopulated: Structure, "structure.populated", "1", Gauge,
        flat("cgroup.events", "populated"), None,
        "1 if the cgroup or a descendant has a process, else 0.";
    StructureFrozen: Structure, "structure.frozen", "1", Gauge,
        flat("cgroup.events", "frozen"), None,
        "1 if the cgroup is frozen, else 0.";
    StructureNrDescendants: Structure, "structure.nr_descendants", "1", Gauge,
        flat("cgroup.stat", "nr_descendants"), None,
        "Descendants that are not removed.";
    StructureNrDyingDescendants: Structure, "structure.nr_dying_descendants", "1", Gauge,
        flat("cgroup.stat", "nr_dying_descendants"), None,
        "Descendants that were removed and are not freed yet.";

    [
        ReclaimCount: Reclaim, "reclaim.count", "1", Counter,
            "Direct reclaims of memory cgroups by tasks of the cgroup and its descendants.";
        ReclaimTotal: Reclaim, "reclaim.total_ns", "ns", Counter,
            "Time that tasks spent in these reclaims.";

        AttachCount: Attach, "attach.count", "1", Counter,
            "Tasks that were moved into the cgroup or a descendant; forks are not.";

        RunqueueCount: Runqueue, "runqueue.count", "1", Counter,
            "Times that a task began to run after a wakeup or a preemption.";
        RunqueueTotal: Runqueue, "runqueue.total_ns", "ns", Counter,
            "Time for which tasks could run and waited for a CPU.";
        RunqueueMax: Runqueue, "runqueue.max_ns", "ns", Gauge,
            "The longest that a task ever waited for a CPU.";

        BlockIoCount: BlockIo, "block_io.count", "1", Counter,
            "Requests to block devices that were completed.";
        BlockIoTotal: BlockIo, "block_io.total_ns", "ns", Counter,
            "Time from issue to completion of these requests, summed.";
        BlockIoMax: BlockIo, "block_io.max_ns", "ns", Gauge,
            "The longest that a request ever took.";
    ]
}
