// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * reclaim: times that tasks of a cgroup had to reclaim memory of a memory cgroup
 * that is at its limit, and for how long (mm/vmscan.c,
 * try_to_free_mem_cgroup_pages). Charged to the cgroup of the task that reclaims.
 * Nothing is taken from the tracepoints' arguments, which change in 7.3.
 */
#define COLLECTOR_WORDS 2 /* the count, nanoseconds */
#define COLLECTOR_FOLDS
#include "collector.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* When a task began; 0: it is not at it. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} began_ns SEC(".maps");

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int BPF_PROG(reclaim_begins)
{
	__u64 *began;

	began = bpf_task_storage_get(&began_ns, bpf_get_current_task_btf(), 0,
				     BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (began)
		*began = bpf_ktime_get_ns();
	else
		count_loss();
	return 0;
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int BPF_PROG(reclaim_ends)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup *cgrp;
	struct cg_key key;
	struct counts *to;
	__u64 *began;

	began = bpf_task_storage_get(&began_ns, task, 0, 0);
	if (!began || !*began)
		return 0;
	cgrp = task->cgroups->dfl_cgrp;
	to = is_stale(*began) ? NULL : counts_of(cgrp, &key);
	if (to) {
		add(to, 0, 1);
		add(to, 1, bpf_ktime_get_ns() - *began);
		mark_updated(cgrp);
	}
	*began = 0;
	return 0;
}
