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

/* Tasks whose waits are known; of more, those that waited long ago are forgotten. */
#define TASKS_MAX 16384

/*
 * Since when a task waits; 0: it does not. Made of memory that is there already:
 * under a run queue's lock none may be asked for, which wakes kswapd.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TASKS_MAX);
	__type(key, int); /* pid */
	__type(value, __u64);
} waits_since_ns SEC(".maps");

static __always_inline void begin_wait(struct task_struct *task)
{
	__u64 now = bpf_ktime_get_ns();
	int pid = task->pid;

	if (bpf_map_update_elem(&waits_since_ns, &pid, &now, BPF_ANY))
		count_loss();
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
	int pid;

	/* The idle task never waits. What is preempted could run on. */
	if ((preempt || prev_state == TASK_RUNNING) && prev->pid)
		begin_wait(prev);
	pid = next->pid;
	since = bpf_map_lookup_elem(&waits_since_ns, &pid);
	if (!since || !*since)
		return 0;
	if (is_stale(*since)) {
		*since = 0;
		return 0;
	}
	cgrp = next->cgroups->dfl_cgrp;
	to = counts_of(cgrp, &key);
	if (to) {
		add_latency(to, bpf_ktime_get_ns() - *since);
		mark_updated(cgrp);
	}
	*since = 0;
	return 0;
}
