/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The locked engine: the iterator calls walk_locked for every cgroup, under
 * cgroup_mutex. What bounds the time of that is a bound on the visits of one
 * session: a walk that needs more is done in pieces, by the agent.
 */
#ifndef CGFLEET_LOCKED_H
#define CGFLEET_LOCKED_H

#include "record.h"

/* Of the order that came in 7.0; the build need not have it. */
enum bpf_cgroup_iter_order___7_0 {
	BPF_CGROUP_ITER_CHILDREN___7_0 = CG_ORDER_CHILDREN,
};

/*
 * Whether the walk wants this cgroup. Where the kernel has no order for the
 * children of a cgroup (before 7.0), or the walk a depth, the iterator comes to
 * more of them than that.
 */
static __always_inline bool is_wanted(const struct cg_walk *w, __u32 level)
{
	__u32 depth = level - w->start_level;

	if (w->order == CG_ORDER_CHILDREN && depth == 0)
		return false;
	return depth <= w->max_depth;
}

/* Not sleepable, so under RCU, by which what is read beside cgroups is freed. */
SEC("iter/cgroup")
int walk_locked(struct bpf_iter__cgroup *ctx)
{
	struct cgroup_subsys_state *parent;
	struct cgroup *cgrp = ctx->cgroup;
	struct cg_walk *w = the_walk();
	struct place place = {};

	if (!w)
		return 0;
	if (!cgrp) {
		/* After the last cgroup, and after cgroup_mutex was released. */
		if (w->first_visit_ns)
			w->walk_ns = bpf_ktime_get_ns() - w->first_visit_ns;
		w->iterates_children = bpf_core_enum_value_exists(
			enum bpf_cgroup_iter_order___7_0,
			BPF_CGROUP_ITER_CHILDREN___7_0);
		if (!w->end)
			w->end = CG_END_COMPLETE;
		return 0;
	}
	if (!w->first_visit_ns)
		w->first_visit_ns = bpf_ktime_get_ns();
	if (!w->is_started) {
		w->is_started = 1;
		w->start_level = cgrp->level;
	}
	if (w->visited >= w->records_max || !has_room(w)) {
		w->end = CG_END_RECORDS_FULL;
		return 1;
	}
	if (!is_wanted(w, cgrp->level)) {
		w->visited++;
		return 0;
	}
	parent = cgrp->self.parent;
	if (parent)
		place.parent_serial = parent->serial_nr;
	place.serial = cgrp->self.serial_nr;
	place.hierarchy_id = cgrp->root->hierarchy_id;
	place.level = cgrp->level;
	w->end = record_cgroup(w, cgrp, &place,
			       cgrp->bstat.cputime.sum_exec_runtime, false);
	return w->end != 0;
}

#endif
