/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The flush before a walk: once, at the topmost cgroup of the answer, for a
 * flush goes downward only. flush_topmost is attached in the walk's direction:
 * SELF_ONLY, or ANCESTORS_UP for an ancestors walk.
 */
#ifndef CGFLEET_FLUSH_H
#define CGFLEET_FLUSH_H

#include "record.h"

/* The topmost cgroup of an answer that starts at or below cgrp. */
static __always_inline bool is_topmost(const struct cg_walk *w,
				       struct cgroup *cgrp)
{
	if (w->order != CG_ORDER_ANCESTORS_UP)
		return true;
	if (w->limit && w->visited == w->limit)
		return true;
	return cgrp->kn->id == w->stop_at_id || cgrp->level <= 1;
}

/*
 * The root's own values do not come from rstat, and flushing it means the whole
 * host: only an answer that goes down from the root needs that.
 */
static __always_inline bool is_flush_needed(const struct cg_walk *w,
					    struct cgroup *cgrp)
{
	return cgrp->level > 0 || w->order == CG_ORDER_DESCENDANTS_PRE ||
	       w->order == CG_ORDER_DESCENDANTS_POST;
}

SEC("iter.s/cgroup")
int flush_topmost(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgrp = ctx->cgroup;
	struct cg_walk *w = the_walk();
	__u64 now;

	if (!w)
		return 0;
	now = bpf_ktime_get_ns();
	if (!cgrp) {
		if (w->first_visit_ns)
			w->flush_mutex_held_ns = now - w->first_visit_ns;
		return 0;
	}
	if (!w->first_visit_ns)
		w->first_visit_ns = now;
	w->visited++;
	if (!is_topmost(w, cgrp))
		return 0;
	if (!is_flush_needed(w, cgrp))
		return 1;
	rstat_flush(cgrp);
	w->flush_ns = bpf_ktime_get_ns() - now;
	w->flushed_id = cgrp->kn->id;
	return 1;
}

#endif
