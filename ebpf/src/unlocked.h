/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The unlocked engine. walk_unlocked is attached with SELF_ONLY, remembers the
 * cgroup, and does its work in the call behind the last cgroup, which the
 * iterator makes after it released cgroup_mutex (kernel/bpf/cgroup_iter.c,
 * cgroup_iter_seq_stop).
 *
 * It follows the tree's own pointers. The program is not sleepable, so it runs
 * under RCU, by which cgroups and their lists are freed (kernel/cgroup/cgroup.c,
 * css_next_child, css_free_rwork_fn), and the session keeps the cgroup that it
 * starts from. As nothing reschedules meanwhile, one session is one slice: it
 * ends after slice_ns_max, and the walk goes on in a session at its cursor.
 */
#ifndef CGFLEET_UNLOCKED_H
#define CGFLEET_UNLOCKED_H

#include "record.h"

/* A slice looks at the clock once in so many records; a power of two. */
#define RECORDS_PER_LOOK 32
/* Never reached: a slice ends long before, by its records or by its time. */
#define STEPS_MAX	 (1 << 22)

/*
 * A slice under way: a cgroup, and where the walk stands with respect to it.
 * BPF_CORE_READ takes a copy of css: it would relocate this struct as well.
 */
struct slice {
	struct cgroup_subsys_state *css;
	__u64 started_ns;
	__u32 at; /* enum cg_at */
};

static __always_inline struct cgroup_subsys_state *
sibling_of(struct list_head *entry, struct cgroup_subsys_state *parent)
{
	struct list_head *end =
		__builtin_preserve_access_index(&parent->children);

	if (!entry || entry == end)
		return NULL;
	return (void *)entry -
	       bpf_core_field_offset(struct cgroup_subsys_state, sibling);
}

static __always_inline struct cgroup_subsys_state *
first_child(struct cgroup_subsys_state *css)
{
	return sibling_of(BPF_CORE_READ(css, children.next), css);
}

static __always_inline struct cgroup_subsys_state *
next_sibling(struct cgroup_subsys_state *css)
{
	return sibling_of(BPF_CORE_READ(css, sibling.next),
			  BPF_CORE_READ(css, parent));
}

/* Records the slice's cgroup if it is online. True: the slice ends behind it. */
static __always_inline bool visit(struct cg_walk *w, struct slice *slice)
{
	struct cgroup_subsys_state *css = slice->css;

	if (!(BPF_CORE_READ(css, flags) & CSS_ONLINE))
		return false;
	w->end = record_cgroup(w, BPF_CORE_READ(css, cgroup));
	if (w->end)
		return true;
	if (w->records < w->records_max && w->names < w->names_max &&
	    ((w->records & (RECORDS_PER_LOOK - 1)) ||
	     bpf_ktime_get_ns() - slice->started_ns < w->slice_ns_max))
		return false;
	w->cursor_id = BPF_CORE_READ(css, cgroup, kn, id);
	w->cursor_parent_id = BPF_CORE_READ(css, parent, cgroup, kn, id);
	w->cursor_serial = BPF_CORE_READ(css, serial_nr);
	w->cursor_at = slice->at;
	w->end = CG_END_SLICE;
	return true;
}

static __always_inline bool is_visited_on_entering(const struct cg_walk *w,
						   __u32 level)
{
	if (w->order == CG_ORDER_DESCENDANTS_POST)
		return false;
	return w->order != CG_ORDER_CHILDREN || level != w->start_level;
}

/* One step of a walk downward. 1: the slice ends. */
static __always_inline long step_down(struct cg_walk *w, struct slice *slice)
{
	struct cgroup_subsys_state *css = slice->css, *next = NULL;
	__u32 level = BPF_CORE_READ(css, cgroup, level);

	switch (slice->at) {
	case CG_AT_ENTER:
		slice->at = CG_AT_DESCEND;
		return is_visited_on_entering(w, level) && visit(w, slice);
	case CG_AT_DESCEND:
		slice->at = CG_AT_LEAVE;
		if (level - w->start_level < w->max_depth)
			next = first_child(css);
		break;
	case CG_AT_LEAVE:
		slice->at = CG_AT_ADVANCE;
		return w->order == CG_ORDER_DESCENDANTS_POST && visit(w, slice);
	case CG_AT_ADVANCE:
		if (BPF_CORE_READ(css, cgroup, kn, id) == w->start_id) {
			w->end = CG_END_COMPLETE;
			return 1;
		}
		next = next_sibling(css);
		if (!next) {
			slice->css = BPF_CORE_READ(css, parent);
			slice->at = CG_AT_LEAVE;
		}
		break;
	}
	if (next) {
		slice->css = next;
		slice->at = CG_AT_ENTER;
	}
	return 0;
}

/* One step of a walk upward, or of one that goes nowhere. 1: the slice ends. */
static __always_inline long step_up(struct cg_walk *w, struct slice *slice)
{
	struct cgroup_subsys_state *css = slice->css, *parent = NULL;

	if (slice->at == CG_AT_ENTER) {
		slice->at = CG_AT_ADVANCE;
		return visit(w, slice);
	}
	if (w->order == CG_ORDER_ANCESTORS_UP)
		parent = BPF_CORE_READ(css, parent);
	if (!parent) {
		w->end = CG_END_COMPLETE;
		return 1;
	}
	slice->css = parent;
	slice->at = CG_AT_ENTER;
	return 0;
}

/*
 * One step among the children of a cgroup whose child at the cursor is gone:
 * siblings are in the order of their serial numbers.
 */
static __always_inline long step_seek(struct cg_walk *w, struct slice *slice)
{
	struct cgroup_subsys_state *css = slice->css, *next;

	if (BPF_CORE_READ(css, serial_nr) > w->resume_serial) {
		slice->at = CG_AT_ENTER;
		return 0;
	}
	next = next_sibling(css);
	slice->css = next ?: BPF_CORE_READ(css, parent);
	slice->at = next ? CG_AT_SEEK : CG_AT_LEAVE;
	return 0;
}

static long step(__u32 index, void *data)
{
	struct slice *slice = data;
	struct cg_walk *w = the_walk();

	(void)index;
	if (!w)
		return 1;
	if (slice->at == CG_AT_SEEK)
		return step_seek(w, slice);
	if (w->order == CG_ORDER_SELF_ONLY || w->order == CG_ORDER_ANCESTORS_UP)
		return step_up(w, slice);
	return step_down(w, slice);
}

SEC("iter/cgroup")
int walk_unlocked(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgrp = ctx->cgroup;
	struct cg_walk *w = the_walk();
	struct cgroup_subsys_state *css, *child;
	struct slice slice = {};

	if (!w)
		return 0;
	if (cgrp) {
		/* The session keeps the cgroup, so its address stays good. */
		w->session_css = (__u64)&cgrp->self;
		w->first_visit_ns = bpf_ktime_get_ns();
		return 0;
	}
	if (!w->session_css)
		return 0;
	css = (void *)w->session_css;
	slice.css = css;
	slice.at = w->resume_at;
	slice.started_ns = bpf_ktime_get_ns();
	w->session_held_ns = slice.started_ns - w->first_visit_ns;
	if (!w->start_id) {
		w->start_id = BPF_CORE_READ(css, cgroup, kn, id);
		w->start_level = BPF_CORE_READ(css, cgroup, level);
	}
	if (slice.at == CG_AT_SEEK) {
		child = first_child(css);
		slice.at = child ? CG_AT_SEEK : CG_AT_LEAVE;
		slice.css = child ?: css;
	}
	bpf_loop(STEPS_MAX, step, &slice, 0);
	w->walk_ns = bpf_ktime_get_ns() - slice.started_ns;
	return 0;
}

#endif
