// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * The kernel's iterator and nothing else: what a visit of every cgroup costs
 * before anything is done there. The benchmarks measure the walks against it;
 * no agent loads it.
 *
 * Its time is what walk_locked calls walk_ns: from the first visit to the call
 * behind the last cgroup. Visits are counted, so that a walk that was cut short
 * cannot pass for a fast one.
 */
#include "control.h"

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("iter.s/cgroup")
int noop(struct bpf_iter__cgroup *ctx)
{
	struct cg_walk *w = the_walk();

	if (!w)
		return 0;
	if (!ctx->cgroup) {
		if (w->first_visit_ns)
			w->walk_ns = bpf_ktime_get_ns() - w->first_visit_ns;
		return 0;
	}
	if (!w->visited++)
		w->first_visit_ns = bpf_ktime_get_ns();
	return 0;
}
