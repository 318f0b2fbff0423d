/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The locked engine: the iterator calls walk_locked for every cgroup, under
 * cgroup_mutex.
 */
#ifndef CGFLEET_LOCKED_H
#define CGFLEET_LOCKED_H

#include "record.h"

SEC("iter.s/cgroup")
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
		if (!w->end)
			w->end = CG_END_COMPLETE;
		return 0;
	}
	if (!w->first_visit_ns)
		w->first_visit_ns = bpf_ktime_get_ns();
	parent = cgrp->self.parent;
	if (parent)
		place.parent_id = parent->cgroup->kn->id;
	place.hierarchy_id = cgrp->root->hierarchy_id;
	place.level = cgrp->level;
	w->end = record_cgroup(w, cgrp, &place, false);
	return w->end != 0;
}

#endif
