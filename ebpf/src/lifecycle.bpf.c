// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * Cgroups as they come and go, and the final CPU time of those that went: they
 * are held until a session of finals has flushed it.
 */
#include "lifecycle.h"

char _license[] SEC("license") = "Dual MIT/GPL";

extern struct cgroup *bpf_cgroup_acquire(struct cgroup *cgrp) __ksym __weak;
extern void bpf_cgroup_release(struct cgroup *cgrp) __ksym __weak;

struct held {
	struct cgroup __kptr *cgroup;
};

/* The agent sets the bound of this and the next. What is displaced is counted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held);
} held SEC(".maps");

/* By the same slots. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_final);
} finals SEC(".maps");

/* The cgroup of the session of finals. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct held);
} topmost SEC(".maps");

static __always_inline void hold(struct cg_lifecycle *l, struct cgroup *cgrp)
{
	__u32 slot = l->slots ? l->removed % l->slots : 0;
	struct held *at = bpf_map_lookup_elem(&held, &slot);
	struct cgroup *before, *cg;

	if (!at)
		return;
	cg = bpf_cgroup_acquire(cgrp);
	if (!cg)
		return;
	before = bpf_kptr_xchg(&at->cgroup, cg);
	if (!before)
		return;
	bpf_cgroup_release(before);
	l->displaced++;
}

/* What a session of finals goes through. */
struct taking {
	__u64 from;
	__u32 slots;
	bool is_flushed;
};

static long take_one(__u32 index, struct taking *taking)
{
	__u32 slot = taking->slots ? (taking->from + index) % taking->slots : 0;
	struct held *at = bpf_map_lookup_elem(&held, &slot);
	struct cg_final *final;
	struct cgroup *cgrp;

	if (!at)
		return 1;
	cgrp = bpf_kptr_xchg(&at->cgroup, NULL);
	if (!cgrp)
		return 0;
	final = bpf_map_lookup_elem(&finals, &slot);
	if (final && taking->is_flushed) {
		final->sequence = taking->from + index;
		final->cpu_usage_ns = cgrp->bstat.cputime.sum_exec_runtime;
		final->id = cgrp->kn->id;
	}
	bpf_cgroup_release(cgrp);
	return 0;
}

/*
 * A flush, below the cgroup of the session, of all that the held ones have, and
 * then these are let go of: in the call behind the last cgroup, without
 * cgroup_mutex (see flush_unlocked.bpf.c).
 */
SEC("iter.s/cgroup")
int take_finals(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgrp = ctx->cgroup, *top;
	struct cg_lifecycle *l = the_lifecycle();
	struct taking taking = {};
	struct held *slot;
	__u64 to, count;
	__u32 zero = 0;

	slot = bpf_map_lookup_elem(&topmost, &zero);
	if (!l || !slot)
		return 0;
	if (cgrp) {
		top = bpf_cgroup_acquire(cgrp);
		if (!top)
			return 1;
		/* Something is there only if a session was cut short. */
		top = bpf_kptr_xchg(&slot->cgroup, top);
		if (top)
			bpf_cgroup_release(top);
		return 1;
	}
	/* What is held from here on may have something that is not flushed. */
	to = *(volatile __u64 *)&l->removed;
	taking.slots = l->slots;
	taking.from = l->taken_to;
	if (to - taking.from > taking.slots)
		taking.from = to - taking.slots;
	top = bpf_kptr_xchg(&slot->cgroup, NULL);
	if (top) {
		rstat_flush(top);
		taking.is_flushed = true;
		bpf_cgroup_release(top);
	}
	count = to - taking.from;
	if (count > CG_FINALS_MAX)
		count = CG_FINALS_MAX;
	bpf_loop(count, take_one, &taking, 0);
	l->flushed = taking.is_flushed;
	l->taken_from = taking.from;
	l->taken_to = taking.from + count;
	return 0;
}
