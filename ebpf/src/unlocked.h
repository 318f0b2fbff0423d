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

/* A slice looks at the clock once in so many cgroups; a power of two. */
#define VISITS_PER_LOOK 32
/* Never reached: a slice ends long before, by its records or by its time. */
#define STEPS_MAX	(1 << 22)

#define CSS_CHILDREN bpf_core_field_offset(struct cgroup_subsys_state, children)
#define CSS_SIBLING  bpf_core_field_offset(struct cgroup_subsys_state, sibling)
#define CGROUP_SELF  bpf_core_field_offset(struct cgroup, self)

/* A slice under way: a cgroup, and where the walk stands with respect to it. */
struct slice {
	__u64 css;
	__u64 parent; /* its css; 0: css is the root of its hierarchy */
	__u64 started_ns;
	__u64 next; /* behind css in the list of its siblings */
	__u64 cpu_usage_ns; /* of css */
	struct place place; /* of css */
	__u32 at; /* enum cg_at */
	__u32 visits;
};

/*
 * In a map, and not on the stack, where the verifier would keep track of values
 * and go through a step once more for every combination of them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slice);
} slices SEC(".maps");

static __always_inline struct slice *the_slice(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&slices, &zero);
}

/* The cgroup that a css is in: its address is by a load less than css->cgroup. */
static __always_inline struct cgroup *cgroup_at(__u64 css, bool probed)
{
	return AT(probed, struct cgroup, css - CGROUP_SELF);
}

static __always_inline bool is_online(const struct slice *slice, bool probed)
{
	struct cgroup *cgrp = cgroup_at(slice->css, probed);

	return READ(probed, cgrp, self.flags) & CSS_ONLINE;
}

/* Counts a cgroup, and looks at the clock now and then. */
static __always_inline bool is_time_over(const struct cg_walk *w,
					 struct slice *slice)
{
	slice->visits++;
	if (slice->visits & (VISITS_PER_LOOK - 1))
		return false;
	return bpf_ktime_get_ns() - slice->started_ns >= w->slice_ns_max;
}

/*
 * Records the slice's cgroup if it is online. True: the slice ends behind it;
 * dying cgroups stay in the lists for long, so that may be one of them.
 */
static __always_inline bool visit(struct cg_walk *w, struct slice *slice,
				  bool probed)
{
	struct cgroup *cgrp = cgroup_at(slice->css, probed);

	if (is_online(slice, probed))
		w->end = record_cgroup(w, cgrp, &slice->place,
				       slice->cpu_usage_ns, probed);
	if (w->end)
		return true;
	if (!is_time_over(w, slice) && has_room(w))
		return false;
	w->cursor_at = slice->at;
	w->end = CG_END_SLICE;
	return true;
}

/*
 * Reads of the slice's cgroup what its visit and the way on from it need, all at
 * once: cgroups are strewn over memory, and the CPU waits for cache lines at the
 * same time only where the loads are near each other. A visit that is short lets
 * it begin with the next cgroup, too; to fetch that ahead makes the visit longer.
 */
static __always_inline void arrive(struct slice *slice, bool probed)
{
	struct cgroup *cgrp = cgroup_at(slice->css, probed);

	slice->next = (__u64)READ(probed, cgrp, self.sibling.next);
	slice->place.serial = READ(probed, cgrp, self.serial_nr);
	slice->cpu_usage_ns =
		READ(probed, cgrp, bstat.cputime.sum_exec_runtime);
}

/* To the first child; false if there is none. */
static __always_inline bool descend(struct slice *slice, bool probed)
{
	struct cgroup *cgrp = cgroup_at(slice->css, probed);
	__u64 entry = (__u64)READ(probed, cgrp, self.children.next);

	if (!entry || entry == slice->css + CSS_CHILDREN)
		return false;
	slice->parent = slice->css;
	slice->place.parent_serial = slice->place.serial;
	slice->place.level++;
	slice->css = entry - CSS_SIBLING;
	arrive(slice, probed);
	return true;
}

/* To the parent; false if there is none. */
static __always_inline bool ascend(struct slice *slice, bool probed)
{
	struct cgroup_subsys_state *parent;
	struct cgroup *cgrp;

	if (!slice->parent)
		return false;
	slice->css = slice->parent;
	slice->place.level--;
	cgrp = cgroup_at(slice->css, probed);
	parent = READ(probed, cgrp, self.parent);
	slice->parent = (__u64)parent;
	slice->place.parent_serial =
		parent ? READ(probed, parent, serial_nr) : 0;
	arrive(slice, probed);
	return true;
}

/* To the next sibling; false if there is none. */
static __always_inline bool advance(struct slice *slice, bool probed)
{
	__u64 entry = slice->next;

	if (!entry || !slice->parent || entry == slice->parent + CSS_CHILDREN)
		return false;
	slice->css = entry - CSS_SIBLING;
	arrive(slice, probed);
	return true;
}

static __always_inline bool is_upward(const struct cg_walk *w)
{
	return w->order == CG_ORDER_SELF_ONLY ||
	       w->order == CG_ORDER_ANCESTORS_UP;
}

/*
 * Whether the order visits the cgroup where the walk now stands, which then goes
 * on from there. Asked for in one place, for the verifier goes through all of a
 * visit at every place that it is written.
 */
static __always_inline bool comes_to_visit(const struct cg_walk *w,
					   struct slice *slice)
{
	switch (slice->at) {
	case CG_AT_ENTER:
		slice->at = is_upward(w) ? CG_AT_ADVANCE : CG_AT_DESCEND;
		if (w->order == CG_ORDER_CHILDREN)
			return slice->place.level != w->start_level;
		return w->order != CG_ORDER_DESCENDANTS_POST;
	case CG_AT_LEAVE:
		slice->at = CG_AT_ADVANCE;
		return w->order == CG_ORDER_DESCENDANTS_POST;
	default:
		return false;
	}
}

/* One step of a walk downward, behind the visit. 1: the slice ends. */
static __always_inline long step_down(struct cg_walk *w, struct slice *slice,
				      bool probed)
{
	if (slice->at == CG_AT_DESCEND) {
		if (slice->place.level - w->start_level < w->max_depth &&
		    descend(slice, probed)) {
			slice->at = CG_AT_ENTER;
			return 0;
		}
		if (w->order == CG_ORDER_DESCENDANTS_POST) {
			/* The next step visits it. */
			slice->at = CG_AT_LEAVE;
			return 0;
		}
	}
	if (slice->place.level == w->start_level) {
		w->end = CG_END_COMPLETE;
		return 1;
	}
	if (advance(slice, probed)) {
		slice->at = CG_AT_ENTER;
		return 0;
	}
	slice->at = CG_AT_LEAVE;
	return !ascend(slice, probed);
}

/* One step of a walk upward, or of one that goes nowhere. 1: the slice ends. */
static __always_inline long step_up(struct cg_walk *w, struct slice *slice,
				    bool probed)
{
	slice->at = CG_AT_ENTER;
	if (w->order == CG_ORDER_ANCESTORS_UP && ascend(slice, probed))
		return 0;
	w->end = CG_END_COMPLETE;
	return 1;
}

/*
 * One step among the children of a cgroup whose child at the cursor is gone:
 * siblings are in the order of their serials.
 */
static __always_inline long step_seek(struct cg_walk *w, struct slice *slice,
				      bool probed)
{
	if (slice->place.serial > w->resume_serial) {
		slice->at = CG_AT_ENTER;
		return 0;
	}
	/* A slice cannot go on at one that is dying. */
	if (is_time_over(w, slice) && is_online(slice, probed)) {
		w->cursor_at = CG_AT_SEEK;
		w->end = CG_END_SLICE;
		return 1;
	}
	if (advance(slice, probed))
		return 0;
	slice->at = CG_AT_LEAVE;
	return !ascend(slice, probed);
}

/* What steps work on: looked up once, and not once a step. */
struct stepping {
	struct cg_walk *w;
	struct slice *slice;
};

static __always_inline long step(const struct stepping *stepping, bool probed)
{
	struct slice *slice = stepping->slice;
	struct cg_walk *w = stepping->w;

	if (slice->at == CG_AT_SEEK)
		return step_seek(w, slice, probed);
	if (comes_to_visit(w, slice) && visit(w, slice, probed))
		return 1;
	return is_upward(w) ? step_up(w, slice, probed)
			    : step_down(w, slice, probed);
}

static long step_typed(__u32 index, struct stepping *stepping)
{
	(void)index;
	return step(stepping, false);
}

static long step_probed(__u32 index, struct stepping *stepping)
{
	(void)index;
	return step(stepping, true);
}

/* The slice begins at the cgroup of this session. */
static __always_inline void begin_slice(struct cg_walk *w, struct slice *slice)
{
	struct cgroup_subsys_state *css = (void *)w->session_css;
	struct cgroup_subsys_state *parent = BPF_CORE_READ(css, parent);

	slice->css = w->session_css;
	slice->parent = (__u64)parent;
	slice->visits = 0;
	slice->place.parent_serial =
		parent ? BPF_CORE_READ(parent, serial_nr) : 0;
	slice->place.hierarchy_id =
		BPF_CORE_READ(css, cgroup, root, hierarchy_id);
	slice->place.level = BPF_CORE_READ(css, cgroup, level);
	w->hierarchy_id = slice->place.hierarchy_id;
	slice->at = w->resume_at;
	arrive(slice, true);
	if (!w->is_started) {
		w->is_started = 1;
		w->start_level = slice->place.level;
	}
	/* Without a child left, the cgroup itself is next to be left. */
	if (slice->at == CG_AT_SEEK_BELOW)
		slice->at = descend(slice, true) ? CG_AT_SEEK : CG_AT_LEAVE;
}

/*
 * Tells where the slice ended: its cgroup, and those above, at which the walk
 * goes on should it be removed meanwhile.
 */
static __always_inline void end_slice(struct cg_walk *w,
				      const struct slice *slice)
{
	__u32 level = slice->place.level, top = w->start_level, place;
	struct cgroup_subsys_state *css = (void *)slice->css;

	if (w->order == CG_ORDER_ANCESTORS_UP)
		top = 0;
	w->cursor_places = level - top + 1;
	for (place = 0; place < CG_PLACES_MAX; place++) {
		if (place > level - top)
			break;
		w->cursor[place].id = 0;
		if (BPF_CORE_READ(css, flags) & CSS_ONLINE)
			w->cursor[place].id =
				BPF_CORE_READ(css, cgroup, kn, id);
		w->cursor[place].serial = BPF_CORE_READ(css, serial_nr);
		css = BPF_CORE_READ(css, parent);
	}
}

static __always_inline int walk_slice(struct bpf_iter__cgroup *ctx, bool probed)
{
	struct cgroup *cgrp = ctx->cgroup;
	struct slice *slice = the_slice();
	struct cg_walk *w = the_walk();
	struct stepping stepping = { w, slice };

	if (!w || !slice)
		return 0;
	if (cgrp) {
		/* The session keeps the cgroup, so its address stays good. */
		w->session_css = (__u64)&cgrp->self;
		w->first_visit_ns = bpf_ktime_get_ns();
		return 0;
	}
	if (!w->session_css)
		return 0;
	slice->started_ns = bpf_ktime_get_ns();
	w->session_held_ns = slice->started_ns - w->first_visit_ns;
	begin_slice(w, slice);
	if (probed)
		bpf_loop(STEPS_MAX, step_probed, &stepping, 0);
	else
		bpf_loop(STEPS_MAX, step_typed, &stepping, 0);
	if (w->end == CG_END_SLICE)
		end_slice(w, slice);
	w->walk_ns = bpf_ktime_get_ns() - slice->started_ns;
	return 0;
}

SEC("iter/cgroup")
int walk_unlocked(struct bpf_iter__cgroup *ctx)
{
	return walk_slice(ctx, false);
}

/* For 6.1, which has no bpf_rdonly_cast(). */
SEC("iter/cgroup")
int walk_probed(struct bpf_iter__cgroup *ctx)
{
	return walk_slice(ctx, true);
}

#endif
