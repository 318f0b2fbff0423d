// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * runqueue: how long tasks of a cgroup waited for a CPU, from when they could run
 * (woken, new, or preempted) until they did.
 */
#define COLLECTOR_FOLDS
#include "latency.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* prev_state of a task that could have run on (include/linux/sched.h). */
#define TASK_RUNNING 0

/* Since when a task waits; 0: it does not. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} waits_since_ns SEC(".maps");

static __always_inline void begin_wait(struct task_struct *task)
{
	__u64 *since;

	since = bpf_task_storage_get(&waits_since_ns, task, 0,
				     BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (since)
		*since = bpf_ktime_get_ns();
	else
		count_drop();
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(woken, struct task_struct *task)
{
	begin_wait(task);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(woken_new, struct task_struct *task)
{
	begin_wait(task);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switched, bool preempt, struct task_struct *prev,
	     struct task_struct *next, unsigned int prev_state)
{
	struct cgroup *cgrp;
	struct cg_key key;
	struct counts *to;
	__u64 *since;

	/* The idle task never waits, and has no storage of its own. */
	if (prev_state == TASK_RUNNING && prev->pid)
		begin_wait(prev);
	since = bpf_task_storage_get(&waits_since_ns, next, 0, 0);
	if (!since || !*since)
		return 0;
	cgrp = next->cgroups->dfl_cgrp;
	to = counts_of(cgrp, &key);
	if (to) {
		add_latency(to, bpf_ktime_get_ns() - *since);
		mark_updated(cgrp);
	}
	*since = 0;
	return 0;
}
