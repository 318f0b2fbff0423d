/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The control block, and what it says about the flush before a walk: once, at
 * the topmost cgroup of the answer, for a flush goes downward only. A flush is
 * a session of its own, attached in the walk's direction: SELF_ONLY, or
 * ANCESTORS_UP for an ancestors walk.
 */
#ifndef CGFLEET_CONTROL_H
#define CGFLEET_CONTROL_H

#include "kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_walk);
} walk SEC(".maps");

static __always_inline struct cg_walk *the_walk(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&walk, &zero);
}

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
	if (cgrp->level > 0)
		return true;
	return w->max_depth > 0 && w->order != CG_ORDER_SELF_ONLY &&
	       w->order != CG_ORDER_ANCESTORS_UP;
}

#endif
