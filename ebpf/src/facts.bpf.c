// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * What the agent has to know of a kernel before it can read struct memcg_vmstats:
 * which number an item has, and, where the arrays are compact (by 6.12), the tables
 * that say at which place it is (mm/memcontrol.c, memcg_stats_index()).
 *
 * One session on any cgroup answers it.
 */
#include "kernel.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* The numbers here mean nothing: CO-RE puts in the kernel's. */
enum node_stat_item {
	NR_ANON_MAPPED,
	NR_FILE_PAGES,
	NR_KERNEL_STACK_KB,
	NR_PAGETABLE,
	NR_SHMEM,
	NR_FILE_MAPPED,
	NR_FILE_DIRTY,
	NR_WRITEBACK,
	NR_SWAPCACHE,
	NR_ANON_THPS,
	NR_SHMEM_THPS,
	NR_INACTIVE_ANON,
	NR_ACTIVE_ANON,
	NR_INACTIVE_FILE,
	NR_ACTIVE_FILE,
	NR_UNEVICTABLE,
	NR_SLAB_RECLAIMABLE_B,
	NR_SLAB_UNRECLAIMABLE_B,
	WORKINGSET_REFAULT_ANON,
	WORKINGSET_REFAULT_FILE,
};

/* What is after ___ is for C alone, which has each name once. */
enum node_stat_item___by_7_3 {
	NR_VMALLOC,
	PGSCAN_KSWAPD___node,
	PGSCAN_DIRECT___node,
	PGSCAN_KHUGEPAGED___node,
	PGSCAN_PROACTIVE___node,
	PGSTEAL_KSWAPD___node,
	PGSTEAL_DIRECT___node,
	PGSTEAL_KHUGEPAGED___node,
	PGSTEAL_PROACTIVE___node,
	PGREFILL___node,
};

enum memcg_stat_item {
	MEMCG_KMEM,
	MEMCG_PERCPU_B,
	MEMCG_SOCK,
	MEMCG_VMALLOC,
	MEMCG_NR_STAT,
};

enum vm_event_item {
	PGSCAN_KSWAPD,
	PGSCAN_DIRECT,
	PGSCAN_KHUGEPAGED,
	PGSCAN_PROACTIVE,
	PGSTEAL_KSWAPD,
	PGSTEAL_DIRECT,
	PGSTEAL_KHUGEPAGED,
	PGSTEAL_PROACTIVE,
	PGFAULT,
	PGMAJFAULT,
	PGREFILL,
	PGACTIVATE,
	PGDEACTIVATE,
	PGLAZYFREE,
	PGLAZYFREED,
	THP_FAULT_ALLOC,
	NR_VM_EVENT_ITEMS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_facts);
} facts SEC(".maps");

#define NUMBER(type, name)                         \
	(bpf_core_enum_value_exists(type, name)    \
		 ? bpf_core_enum_value(type, name) \
		 : CG_NONE)
#define ITEM(facts, item, type, name) \
	((facts)->items[item] = NUMBER(type, name))
#define NODE_ITEM(facts, item, name) \
	ITEM(facts, item, enum node_stat_item___by_7_3, name)

SEC("iter/cgroup")
int read_facts(struct bpf_iter__cgroup *ctx)
{
	struct memcg_vmstats *vmstats = NULL;
	struct cg_facts *f;
	__u32 zero = 0;

	f = bpf_map_lookup_elem(&facts, &zero);
	if (!f || !ctx->cgroup)
		return 0;
	if (bpf_core_field_exists(vmstats->state) &&
	    bpf_core_field_exists(vmstats->events)) {
		f->state_words =
			bpf_core_field_size(vmstats->state) / sizeof(__u64);
		f->events_words =
			bpf_core_field_size(vmstats->events) / sizeof(__u64);
	}
	f->state_items = NUMBER(enum memcg_stat_item, MEMCG_NR_STAT);
	f->events_items = NUMBER(enum vm_event_item, NR_VM_EVENT_ITEMS);
	f->state_table_read =
		f->state_table &&
		!bpf_probe_read_kernel(f->state_table_bytes,
				       sizeof(f->state_table_bytes),
				       (void *)f->state_table);
	f->events_table_read =
		f->events_table &&
		!bpf_probe_read_kernel(f->events_table_bytes,
				       sizeof(f->events_table_bytes),
				       (void *)f->events_table);
	ITEM(f, CG_ITEM_ANON, enum node_stat_item, NR_ANON_MAPPED);
	ITEM(f, CG_ITEM_FILE, enum node_stat_item, NR_FILE_PAGES);
	ITEM(f, CG_ITEM_KERNEL, enum memcg_stat_item, MEMCG_KMEM);
	ITEM(f, CG_ITEM_KERNEL_STACK, enum node_stat_item, NR_KERNEL_STACK_KB);
	ITEM(f, CG_ITEM_PAGETABLES, enum node_stat_item, NR_PAGETABLE);
	ITEM(f, CG_ITEM_PERCPU, enum memcg_stat_item, MEMCG_PERCPU_B);
	ITEM(f, CG_ITEM_SOCK, enum memcg_stat_item, MEMCG_SOCK);
	ITEM(f, CG_ITEM_VMALLOC, enum memcg_stat_item, MEMCG_VMALLOC);
	ITEM(f, CG_ITEM_SHMEM, enum node_stat_item, NR_SHMEM);
	ITEM(f, CG_ITEM_FILE_MAPPED, enum node_stat_item, NR_FILE_MAPPED);
	ITEM(f, CG_ITEM_FILE_DIRTY, enum node_stat_item, NR_FILE_DIRTY);
	ITEM(f, CG_ITEM_FILE_WRITEBACK, enum node_stat_item, NR_WRITEBACK);
	ITEM(f, CG_ITEM_SWAPCACHED, enum node_stat_item, NR_SWAPCACHE);
	ITEM(f, CG_ITEM_ANON_THP, enum node_stat_item, NR_ANON_THPS);
	ITEM(f, CG_ITEM_SHMEM_THP, enum node_stat_item, NR_SHMEM_THPS);
	ITEM(f, CG_ITEM_INACTIVE_ANON, enum node_stat_item, NR_INACTIVE_ANON);
	ITEM(f, CG_ITEM_ACTIVE_ANON, enum node_stat_item, NR_ACTIVE_ANON);
	ITEM(f, CG_ITEM_INACTIVE_FILE, enum node_stat_item, NR_INACTIVE_FILE);
	ITEM(f, CG_ITEM_ACTIVE_FILE, enum node_stat_item, NR_ACTIVE_FILE);
	ITEM(f, CG_ITEM_UNEVICTABLE, enum node_stat_item, NR_UNEVICTABLE);
	ITEM(f, CG_ITEM_SLAB_RECLAIMABLE, enum node_stat_item,
	     NR_SLAB_RECLAIMABLE_B);
	ITEM(f, CG_ITEM_SLAB_UNRECLAIMABLE, enum node_stat_item,
	     NR_SLAB_UNRECLAIMABLE_B);
	ITEM(f, CG_ITEM_WORKINGSET_REFAULT_ANON, enum node_stat_item,
	     WORKINGSET_REFAULT_ANON);
	ITEM(f, CG_ITEM_WORKINGSET_REFAULT_FILE, enum node_stat_item,
	     WORKINGSET_REFAULT_FILE);
	ITEM(f, CG_ITEM_PGSCAN_KSWAPD, enum vm_event_item, PGSCAN_KSWAPD);
	ITEM(f, CG_ITEM_PGSCAN_DIRECT, enum vm_event_item, PGSCAN_DIRECT);
	ITEM(f, CG_ITEM_PGSCAN_KHUGEPAGED, enum vm_event_item,
	     PGSCAN_KHUGEPAGED);
	ITEM(f, CG_ITEM_PGSCAN_PROACTIVE, enum vm_event_item, PGSCAN_PROACTIVE);
	ITEM(f, CG_ITEM_PGSTEAL_KSWAPD, enum vm_event_item, PGSTEAL_KSWAPD);
	ITEM(f, CG_ITEM_PGSTEAL_DIRECT, enum vm_event_item, PGSTEAL_DIRECT);
	ITEM(f, CG_ITEM_PGSTEAL_KHUGEPAGED, enum vm_event_item,
	     PGSTEAL_KHUGEPAGED);
	ITEM(f, CG_ITEM_PGSTEAL_PROACTIVE, enum vm_event_item,
	     PGSTEAL_PROACTIVE);
	ITEM(f, CG_ITEM_PGFAULT, enum vm_event_item, PGFAULT);
	ITEM(f, CG_ITEM_PGMAJFAULT, enum vm_event_item, PGMAJFAULT);
	ITEM(f, CG_ITEM_PGREFILL, enum vm_event_item, PGREFILL);
	ITEM(f, CG_ITEM_PGACTIVATE, enum vm_event_item, PGACTIVATE);
	ITEM(f, CG_ITEM_PGDEACTIVATE, enum vm_event_item, PGDEACTIVATE);
	ITEM(f, CG_ITEM_PGLAZYFREE, enum vm_event_item, PGLAZYFREE);
	ITEM(f, CG_ITEM_PGLAZYFREED, enum vm_event_item, PGLAZYFREED);
	ITEM(f, CG_ITEM_THP_FAULT_ALLOC, enum vm_event_item, THP_FAULT_ALLOC);
	NODE_ITEM(f, CG_ITEM_NODE_VMALLOC, NR_VMALLOC);
	NODE_ITEM(f, CG_ITEM_NODE_PGSCAN_KSWAPD, PGSCAN_KSWAPD___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGSCAN_DIRECT, PGSCAN_DIRECT___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGSCAN_KHUGEPAGED, PGSCAN_KHUGEPAGED___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGSCAN_PROACTIVE, PGSCAN_PROACTIVE___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGSTEAL_KSWAPD, PGSTEAL_KSWAPD___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGSTEAL_DIRECT, PGSTEAL_DIRECT___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGSTEAL_KHUGEPAGED,
		  PGSTEAL_KHUGEPAGED___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGSTEAL_PROACTIVE, PGSTEAL_PROACTIVE___node);
	NODE_ITEM(f, CG_ITEM_NODE_PGREFILL, PGREFILL___node);
	return 1;
}
