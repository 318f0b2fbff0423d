/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The layout that the kernel side and the agent share: the only place where it
 * is written down. The agent reads it through bindgen.
 */
#ifndef CGFLEET_H
#define CGFLEET_H

#include <linux/types.h>

/*
 * A cgroup's name has at most NAME_MAX (255) bytes; one more for the NUL that
 * bpf_probe_read_kernel_str() writes.
 */
#define CG_NAME_BYTES 256

/*
 * Levels of the tree, from where a slice ended upward, at which the walk can go
 * on should those below be removed. A walk that is deeper begins again then.
 */
#define CG_PLACES_MAX 32

/* enum bpf_cgroup_iter_order of the kernel's uapi. */
enum cg_order {
	CG_ORDER_SELF_ONLY = 1,
	CG_ORDER_DESCENDANTS_PRE = 2,
	CG_ORDER_DESCENDANTS_POST = 3,
	CG_ORDER_ANCESTORS_UP = 4,
	CG_ORDER_CHILDREN = 5, /* of the kernel's iterator from 7.0 on */
};

/* Record groups: which of them a walk is asked for, and which a record holds. */
enum cg_group {
	CG_GROUP_CPU = 1 << 0, /* in cg_record */
	CG_GROUP_BANDWIDTH = 1 << 1, /* the others in cg_details */
	CG_GROUP_MEMORY = 1 << 2,
	CG_GROUP_MEMORY_EVENTS = 1 << 3,
	CG_GROUP_MEMORY_EVENTS_LOCAL = 1 << 4,
	CG_GROUP_IO = 1 << 5,
	CG_GROUP_PIDS = 1 << 6,
	CG_GROUP_PRESSURE = 1 << 7,
	CG_GROUP_STRUCTURE = 1 << 8,
	CG_GROUP_MEMORY_STAT = 1 << 9, /* in cg_memory_stat */
};

/* Those that the memory controller keeps. */
#define CG_GROUPS_OF_MEMORY                         \
	(CG_GROUP_MEMORY | CG_GROUP_MEMORY_EVENTS | \
	 CG_GROUP_MEMORY_EVENTS_LOCAL | CG_GROUP_MEMORY_STAT)

/* What is at which place of cg_details, as the kernel holds it. */
enum cg_detail {
	/* CG_GROUP_BANDWIDTH: of the cgroup's task group; times in ns. */
	CG_NR_PERIODS,
	CG_NR_THROTTLED,
	CG_THROTTLED_NS,
	/* CG_GROUP_MEMORY: page counters, in pages. */
	CG_MEMORY_USAGE,
	CG_MEMORY_WATERMARK,
	CG_MEMORY_MIN,
	CG_MEMORY_LOW,
	CG_MEMORY_HIGH,
	CG_MEMORY_MAX,
	CG_SWAP_USAGE,
	CG_SWAP_MAX,
	/* CG_GROUP_MEMORY_EVENTS, CG_GROUP_MEMORY_EVENTS_LOCAL. */
	CG_EVENTS_LOW,
	CG_EVENTS_HIGH,
	CG_EVENTS_MAX,
	CG_EVENTS_OOM,
	CG_EVENTS_OOM_KILL,
	CG_EVENTS_OOM_GROUP_KILL,
	CG_EVENTS_LOCAL_LOW,
	CG_EVENTS_LOCAL_HIGH,
	CG_EVENTS_LOCAL_MAX,
	CG_EVENTS_LOCAL_OOM,
	CG_EVENTS_LOCAL_OOM_KILL,
	CG_EVENTS_LOCAL_OOM_GROUP_KILL,
	/* CG_GROUP_IO: enum blkg_iostat_type, then the same of ios. */
	CG_IO_RBYTES,
	CG_IO_WBYTES,
	CG_IO_DBYTES,
	CG_IO_RIOS,
	CG_IO_WIOS,
	CG_IO_DIOS,
	/* CG_GROUP_PIDS. */
	CG_PIDS_COUNTER,
	CG_PIDS_LIMIT,
	/* CG_GROUP_PRESSURE: enum psi_states, in ns. */
	CG_PSI_IO_SOME_NS,
	CG_PSI_IO_FULL_NS,
	CG_PSI_MEMORY_SOME_NS,
	CG_PSI_MEMORY_FULL_NS,
	CG_PSI_CPU_SOME_NS,
	CG_PSI_CPU_FULL_NS,
	/* CG_GROUP_STRUCTURE. */
	CG_POPULATED,
	CG_FROZEN,
	CG_NR_DESCENDANTS,
	CG_NR_DYING_DESCENDANTS,

	CG_DETAILS,
	/* Not in cg_details: cg_record.cpu_usage_ns, where a condition is on it. */
	CG_DETAIL_CPU_USAGE = CG_DETAILS,
};

/* What is at which place of struct memcg_vmstats is for the agent to find out. */
#define CG_MEMORY_STATE_MAX  64
#define CG_MEMORY_EVENTS_MAX 48

/* What the kernel counts in struct memcg_vmstats, as far as the agent asks. */
enum cg_memory_item {
	CG_ITEM_ANON,
	CG_ITEM_FILE,
	CG_ITEM_KERNEL,
	CG_ITEM_KERNEL_STACK,
	CG_ITEM_PAGETABLES,
	CG_ITEM_PERCPU,
	CG_ITEM_SOCK,
	CG_ITEM_VMALLOC,
	CG_ITEM_SHMEM,
	CG_ITEM_FILE_MAPPED,
	CG_ITEM_FILE_DIRTY,
	CG_ITEM_FILE_WRITEBACK,
	CG_ITEM_SWAPCACHED,
	CG_ITEM_ANON_THP,
	CG_ITEM_SHMEM_THP,
	CG_ITEM_INACTIVE_ANON,
	CG_ITEM_ACTIVE_ANON,
	CG_ITEM_INACTIVE_FILE,
	CG_ITEM_ACTIVE_FILE,
	CG_ITEM_UNEVICTABLE,
	CG_ITEM_SLAB_RECLAIMABLE,
	CG_ITEM_SLAB_UNRECLAIMABLE,
	CG_ITEM_WORKINGSET_REFAULT_ANON,
	CG_ITEM_WORKINGSET_REFAULT_FILE,
	CG_ITEM_PGSCAN_KSWAPD,
	CG_ITEM_PGSCAN_DIRECT,
	CG_ITEM_PGSCAN_KHUGEPAGED,
	CG_ITEM_PGSCAN_PROACTIVE,
	CG_ITEM_PGSTEAL_KSWAPD,
	CG_ITEM_PGSTEAL_DIRECT,
	CG_ITEM_PGSTEAL_KHUGEPAGED,
	CG_ITEM_PGSTEAL_PROACTIVE,
	CG_ITEM_PGFAULT,
	CG_ITEM_PGMAJFAULT,
	CG_ITEM_PGREFILL,
	CG_ITEM_PGACTIVATE,
	CG_ITEM_PGDEACTIVATE,
	CG_ITEM_PGLAZYFREE,
	CG_ITEM_PGLAZYFREED,
	CG_ITEM_THP_FAULT_ALLOC,
	/* Where they are states of nodes (by 7.3) and not what they are above. */
	CG_ITEM_NODE_VMALLOC,
	CG_ITEM_NODE_PGSCAN_KSWAPD,
	CG_ITEM_NODE_PGSCAN_DIRECT,
	CG_ITEM_NODE_PGSCAN_KHUGEPAGED,
	CG_ITEM_NODE_PGSCAN_PROACTIVE,
	CG_ITEM_NODE_PGSTEAL_KSWAPD,
	CG_ITEM_NODE_PGSTEAL_DIRECT,
	CG_ITEM_NODE_PGSTEAL_KHUGEPAGED,
	CG_ITEM_NODE_PGSTEAL_PROACTIVE,
	CG_ITEM_NODE_PGREFILL,

	CG_ITEMS,
};

/* No number, or no place in an array. */
#define CG_NONE 0xffffffffU

/* Bytes of the tables that say at which place an item is. */
#define CG_TABLE_BYTES_MAX 1024

/* What the running kernel calls at which number. */
struct cg_facts {
	/* Request: where the tables are (kallsyms); 0: not known. */
	__u64 state_table;
	__u64 events_table;
	/* Answer. */
	__u32 state_words; /* of the arrays in struct memcg_vmstats */
	__u32 events_words;
	__u32 state_items; /* of the enums: as many entries have the tables */
	__u32 events_items;
	__u32 state_table_read; /* 1: the bytes of the table are below */
	__u32 events_table_read;
	__u32 items[CG_ITEMS]; /* the enum's number; CG_NONE: not in it */
	__u8 state_table_bytes[CG_TABLE_BYTES_MAX];
	__u8 events_table_bytes[CG_TABLE_BYTES_MAX];
};

/* Devices of one cgroup that are recorded. */
#define CG_IO_DEVICES_MAX 32

/* How a condition compares; 0: there is no condition. */
enum cg_comparison {
	CG_LESS = 1,
	CG_GREATER_OR_EQUAL = 2,
};

/* Why a walk ended. 0 while it has not. */
enum cg_end {
	CG_END_COMPLETE = 1, /* the kernel had no more cgroups */
	CG_END_LIMIT = 2, /* cg_walk.limit records were written */
	CG_END_STOP_AT = 3, /* cg_walk.stop_at_id was recorded */
	CG_END_RECORDS_FULL = 4, /* records_max or names_max were reached */
	CG_END_SLICE =
		5, /* unlocked: go on at the cursor, in another session */
	CG_END_STOP_WHEN = 6, /* cg_walk.stop_comparison holds */
};

/*
 * Where in the tree an unlocked walk stands with respect to one cgroup. A slice
 * ends behind a cgroup, so never at CG_AT_ENTER.
 */
enum cg_at {
	CG_AT_ENTER = 0, /* it was just reached */
	CG_AT_DESCEND = 1, /* its children come next */
	CG_AT_LEAVE = 2, /* its children are done */
	CG_AT_ADVANCE =
		3, /* it is done; its next sibling or its parent follows */
	CG_AT_SEEK = 4, /* look on for a sibling behind resume_serial */
	CG_AT_SEEK_BELOW = 5, /* the same, from its first child on */
};

/* A cgroup at which a walk can go on. */
struct cg_place {
	__u64 id; /* 0: it was dying already */
	__u64 serial; /* siblings are in the order of their serials */
};

/*
 * One cgroup. Groups that are not in valid hold nothing. Its id is not here but
 * with its name: that is in a kernfs_node, whose cache line is not read then.
 */
struct cg_record {
	/*
	 * Of its css: grows from cgroup to cgroup, host-wide. 0: this is the root
	 * of its hierarchy.
	 */
	__u64 serial;
	__u64 parent_serial; /* a root has no parent */
	__u32 hierarchy_id; /* 0: cgroup v2 */
	__u32 level;
	__u32 valid; /* enum cg_group */
	__u32 name_hash; /* of v1: kernfs's own, changes with the name */
	__u64 cpu_usage_ns; /* CG_GROUP_CPU */
};

/* More of the cgroup whose record has the same place. */
struct cg_details {
	__u64 words[CG_DETAILS]; /* by enum cg_detail */
};

/* Beginnings of the arrays in the cgroup's struct memcg_vmstats. */
struct cg_memory_stat {
	__s64 state[CG_MEMORY_STATE_MAX];
	__u64 events[CG_MEMORY_EVENTS_MAX];
};

/* Block I/O of a cgroup with one device. */
struct cg_io_device {
	__u32 slot; /* of the cgroup's record */
	__u32 major;
	__u32 minor;
	__u32 padding;
	__u64 words[6]; /* as from CG_IO_RBYTES on */
};

/* The name of a cgroup, and its id. */
struct cg_name {
	__u64 id;
	__u64 serial; /* as in its record */
	__u32 hierarchy_id;
	__u32 length; /* without the NUL */
	__u8 name[CG_NAME_BYTES];
};

/* A cgroup among all hierarchies: by this, collectors count. */
struct cg_key {
	__u64 id;
	__u32 hierarchy_id; /* 0: cgroup v2 */
	__u32 padding;
};

/* How a collector tells rstat that a cgroup has something to fold. */
enum cg_mark {
	CG_MARK_NONE = 0, /* not at all: the agent folds */
	CG_MARK_POINTER = 1, /* by the pointer as it is found */
	CG_MARK_ACQUIRED = 2, /* by a reference, which 7.0 insists on */
};

/* What a collector says of itself. */
struct cg_collector_state {
	__u64 cgroups; /* that have a place in its maps */
	__u64 cgroups_peak; /* the most that ever had */
	__u64 dropped_events; /* without a place: counted at an ancestor */
	__u64 dropped_serial; /* of the newest cgroup with such an event */
	__u64 lost_events; /* counted nowhere */
};

/* Views that there can be at a time: programs of view.bpf.c. */
#define CG_VIEWS_MAX 16

/* Columns of a view's text, in their order, beside those that all have. */
enum cg_view_column {
	CG_VIEW_CPU_USAGE = 1 << 0,
	CG_VIEW_MEMORY_CURRENT = 1 << 1,
	CG_VIEW_PIDS_CURRENT = 1 << 2,
	CG_VIEW_POPULATED = 1 << 3,
	CG_VIEW_FROZEN = 1 << 4,
	CG_VIEW_NR_DESCENDANTS = 1 << 5,
	CG_VIEW_NR_DYING_DESCENDANTS = 1 << 6,
};

#define CG_VIEW_HEADING_BYTES 256

/* What a view shows: set by the agent before its program is attached. */
struct cg_view {
	__u32 columns; /* enum cg_view_column */
	__u32 order; /* enum cg_order */
	__u32 page_bytes;
	__u32 padding;
	__u8 heading
		[CG_VIEW_HEADING_BYTES]; /* names of all columns; ends in NUL */
};

/* Bytes of the names of a cgroup that was removed, each with its NUL: PATH_MAX. */
#define CG_PATH_BYTES 4096

/* Cgroups that one session of finals lets go of: all without a point to reschedule. */
#define CG_FINALS_MAX 512

/* What an entry of the ring buffer tells. */
enum cg_event {
	CG_EVENT_MADE = 1, /* struct cg_made */
	CG_EVENT_REMOVED = 2, /* struct cg_removed */
};

/* A cgroup v2 cgroup was made. */
struct cg_made {
	__u32 event; /* enum cg_event */
	__u32 padding;
	__u64 id;
	__u64 at_ns; /* CLOCK_BOOTTIME */
};

/*
 * A cgroup v2 cgroup was removed. Behind this come the names of the cgroup and
 * of those above it, below root_id, each with its NUL.
 */
struct cg_removed {
	__u32 event; /* enum cg_event */
	__u32 valid; /* enum cg_group */
	__u64 id;
	__u64 parent_id; /* 0: none is above it */
	__u64 sequence; /* so many were told of before */
	__u64 at_ns; /* CLOCK_BOOTTIME */
	__u64 cpu_usage_ns; /* CG_GROUP_CPU: as far as it is known without a flush */
	__u32 level;
	__u32 names_bytes;
	struct cg_details details;
};

/* What a flush added to what is known of a removed cgroup. */
struct cg_final {
	__u64 sequence; /* as it was sought; another may have come to its slot */
	__u64 id;
	__u64 cpu_usage_ns;
};

/* The control block of what watches cgroups come and go. */
struct cg_lifecycle {
	/* Request: set while nothing is attached. */
	__u64 root_id; /* only what is below it is told, as seen from there */
	__u64 per_cpu_offsets; /* address of __per_cpu_offset; 0: not known */
	__u32 groups; /* enum cg_group */
	__u32 cpus; /* that there may ever be */
	__u32 slots; /* entries of held and of finals */
	__u32 request_padding;

	/* Answer. */
	__u64 removed; /* cgroups that were told of: the next one's sequence */
	/* The last session of finals let go of these, and others of all before. */
	__u64 taken_from;
	__u64 taken_to;
	__u64 lost; /* removed, and not told of */
	__u64 displaced; /* let go of before anything was flushed */
	__u32 flushed; /* 1: the last session of finals did flush */
	__u32 answer_padding;
};

/* Words of a collector that measures how long something takes. */
enum cg_latency {
	CG_LATENCY_COUNT,
	CG_LATENCY_TOTAL_NS,
	CG_LATENCY_MAX_NS,
	/* So many from here on: [2^i, 2^(i+1)) ns; the last also what is more. */
	CG_LATENCY_BUCKETS,
	CG_LATENCY_WORDS = CG_LATENCY_BUCKETS + 32,
};

/*
 * The control block of a walk. The agent fills the first part before it reads
 * the iterator, the programs fill the second.
 */
struct cg_walk {
	/* Request. */
	__u64 stop_at_id; /* end after this cgroup; 0: never */
	__u64 names_from; /* name cgroups with this serial or a higher one */
	__u32 limit; /* end after so many records; 0: never */
	__u32 groups; /* enum cg_group */
	/* Entries of the record array. Locked: visits of one session, too. */
	__u32 records_max;
	__u32 names_max; /* entries of the name array */
	__u32 order; /* enum cg_order */
	__u32 max_depth; /* levels below the start that are recorded */
	__u64 stop_value; /* end after a cgroup that compares so with it */
	__u32 stop_detail; /* enum cg_detail */
	__u32 stop_group; /* enum cg_group: of which that is */
	__u32 stop_comparison; /* enum cg_comparison */
	__u32 io_devices_max; /* entries of the device array */
	/* 0: the walk begins at the first cgroup of this session. */
	__u32 is_started;
	__u32 start_level; /* of the cgroup where it began */

	/* Request of walk_unlocked, from the answer of the slice before. */
	__u64 resume_serial; /* of the cgroup that is gone, to seek behind */
	__u64 slice_ns_max; /* end the slice after this time */
	__u32 resume_at; /* enum cg_at, of the session's cgroup */
	__u32 resume_padding;

	/* Answer of flush_locked and flush_unlocked. */
	__u64 flushed_id; /* 0: nothing had to be flushed */
	__u64 flushed_serial;
	__u64 flush_ns;
	__u64 flush_mutex_held_ns;
	__u32 flushed_memory; /* 1: the memory controller's own rstat was, too */
	__u32 flush_padding;

	/* Answer of walk_locked and walk_unlocked. */
	__u64 visited;
	__u64 first_visit_ns; /* CLOCK_MONOTONIC; 0: no cgroup was visited */
	/*
	 * Locked: first visit to end, all of it under cgroup_mutex. Unlocked:
	 * the time of the slice, all of it without a point to reschedule.
	 */
	__u64 walk_ns;
	__u32 records;
	__u32 names;
	__u32 io_devices;
	__u32 iterates_children; /* locked: the iterator has CG_ORDER_CHILDREN */
	__u32 end; /* enum cg_end */

	/*
	 * Answer of walk_unlocked: the cgroup behind which the slice ended, and
	 * those above it up to the start, or to the root if the walk goes up.
	 */
	struct cg_place cursor[CG_PLACES_MAX];
	__u32 cursor_places; /* so many there are, also beyond those above */
	__u32 cursor_at; /* enum cg_at, of the first of them */
	__u32 hierarchy_id; /* of the session's cgroup */
	__u32 cursor_padding;

	__u64 session_held_ns; /* time for which the session held cgroup_mutex */

	/* Between the two calls of one walk_unlocked session. */
	__u64 session_css;

	/* Addresses: of the cgroup of which details are read, and its io css. */
	__u64 cgroup;
	__u64 io_css;
};

#endif
