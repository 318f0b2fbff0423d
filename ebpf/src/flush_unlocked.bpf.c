// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * The flush without cgroup_mutex: the iterator's calls, which are made under
 * it, only keep a reference to the topmost cgroup; the call behind the last
 * cgroup, which is made after it was released (kernel/bpf/cgroup_iter.c,
 * cgroup_iter_seq_stop), flushes.
 *
 * An object of its own, for its map cannot be made before 6.2, where a
 * reference to a cgroup in a map is not known.
 */
#include "control.h"

char _license[] SEC("license") = "Dual MIT/GPL";

extern struct cgroup *bpf_cgroup_acquire(struct cgroup *cgrp) __ksym __weak;
extern void bpf_cgroup_release(struct cgroup *cgrp) __ksym __weak;

/* From 7.0 on (mm/bpf_memcontrol.c). */
extern struct mem_cgroup *
bpf_get_mem_cgroup(struct cgroup_subsys_state *css) __ksym __weak;
extern void bpf_put_mem_cgroup(struct mem_cgroup *memcg) __ksym __weak;

/*
 * Where rstat is flushed by controller, memory is not with the cgroup itself.
 * False if it cannot be here, or the cgroup has no memory controller.
 */
static __always_inline bool flush_memory(struct cgroup *cgrp)
{
	struct mem_cgroup *memcg;

	if (!bpf_ksym_exists(bpf_get_mem_cgroup) ||
	    !bpf_ksym_exists(css_rstat_flush))
		return false;
	memcg = bpf_get_mem_cgroup(&cgrp->self);
	if (!memcg)
		return false;
	css_rstat_flush(&memcg->css);
	bpf_put_mem_cgroup(memcg);
	return true;
}

struct kept {
	struct cgroup __kptr *topmost;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kept);
} kept SEC(".maps");

SEC("iter.s/cgroup")
int flush_unlocked(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgrp = ctx->cgroup, *topmost;
	struct cg_walk *w = the_walk();
	struct kept *slot;
	__u32 zero = 0;
	__u64 now;

	slot = bpf_map_lookup_elem(&kept, &zero);
	if (!w || !slot)
		return 0;
	now = bpf_ktime_get_ns();
	if (cgrp) {
		if (!w->first_visit_ns)
			w->first_visit_ns = now;
		w->visited++;
		if (!is_topmost(w, cgrp))
			return 0;
		if (!is_flush_needed(w, cgrp))
			return 1;
		topmost = bpf_cgroup_acquire(cgrp);
		if (!topmost)
			return 1;
		/* Something is there only if a session was cut short. */
		topmost = bpf_kptr_xchg(&slot->topmost, topmost);
		if (topmost)
			bpf_cgroup_release(topmost);
		return 1;
	}
	if (w->first_visit_ns)
		w->flush_mutex_held_ns = now - w->first_visit_ns;
	topmost = bpf_kptr_xchg(&slot->topmost, NULL);
	if (!topmost)
		return 0;
	rstat_flush(topmost);
	if (w->groups & CG_GROUP_MEMORY_STAT)
		w->flushed_memory = flush_memory(topmost);
	w->flush_ns = bpf_ktime_get_ns() - now;
	w->flushed_id = topmost->kn->id;
	w->flushed_serial = topmost->self.serial_nr;
	bpf_cgroup_release(topmost);
	return 0;
}
