/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The layout that the kernel side and the agent share: the only place where it
 * is written down. The agent reads it through bindgen.
 */
#ifndef CGFLEET_H
#define CGFLEET_H

#include <linux/types.h>

/*
 * A cgroup's name has at most NAME_MAX (255) bytes; one more for the NUL that
 * bpf_probe_read_kernel_str() writes.
 */
#define CG_NAME_BYTES 256

/*
 * Levels of the tree, from where a slice ended upward, at which the walk can go
 * on should those below be removed. A walk that is deeper begins again then.
 */
#define CG_PLACES_MAX 32

/* enum bpf_cgroup_iter_order of the kernel's uapi. */
enum cg_order {
	CG_ORDER_SELF_ONLY = 1,
	CG_ORDER_DESCENDANTS_PRE = 2,
	CG_ORDER_DESCENDANTS_POST = 3,
	CG_ORDER_ANCESTORS_UP = 4,
	CG_ORDER_CHILDREN = 5, /* of the kernel's iterator from 7.0 on */
};

/* Record groups: which of them a walk is asked for, and which a record holds. */
enum cg_group {
	CG_GROUP_CPU = 1 << 0,
};

/* Why a walk ended. 0 while it has not. */
enum cg_end {
	CG_END_COMPLETE = 1, /* the kernel had no more cgroups */
	CG_END_LIMIT = 2, /* cg_walk.limit records were written */
	CG_END_STOP_AT = 3, /* cg_walk.stop_at_id was recorded */
	CG_END_RECORDS_FULL = 4, /* records_max or names_max were reached */
	CG_END_SLICE =
		5, /* unlocked: go on at the cursor, in another session */
};

/*
 * Where in the tree an unlocked walk stands with respect to one cgroup. A slice
 * ends behind a cgroup, so never at CG_AT_ENTER.
 */
enum cg_at {
	CG_AT_ENTER = 0, /* it was just reached */
	CG_AT_DESCEND = 1, /* its children come next */
	CG_AT_LEAVE = 2, /* its children are done */
	CG_AT_ADVANCE =
		3, /* it is done; its next sibling or its parent follows */
	CG_AT_SEEK = 4, /* look on for a sibling behind resume_serial */
};

/* A cgroup at which a walk can go on. */
struct cg_place {
	__u64 id; /* 0: it was dying already */
	__u64 serial; /* siblings are in the order of their serials */
};

/* One cgroup. Groups that are not in valid hold nothing. */
struct cg_record {
	__u64 id;
	__u64 parent_id; /* 0: this is the root of its hierarchy */
	__u32 hierarchy_id; /* 0: cgroup v2 */
	__u32 level;
	__u32 valid; /* enum cg_group */
	__u32 name_hash; /* kernfs's own hash; changes when a cgroup is renamed */
	__u64 serial; /* of its css: grows from cgroup to cgroup, host-wide */
	__u64 cpu_usage_ns; /* CG_GROUP_CPU */
};

/* The name of a cgroup. */
struct cg_name {
	__u64 id;
	__u32 hierarchy_id;
	__u32 length; /* without the NUL */
	__u8 name[CG_NAME_BYTES];
};

/*
 * The control block of a walk. The agent fills the first part before it reads
 * the iterator, the programs fill the second.
 */
struct cg_walk {
	/* Request. */
	__u64 stop_at_id; /* end after this cgroup; 0: never */
	__u64 names_from; /* name cgroups with this serial or a higher one */
	__u32 limit; /* end after so many records; 0: never */
	__u32 groups; /* enum cg_group */
	/* Entries of the record array. Locked: visits of one session, too. */
	__u32 records_max;
	__u32 names_max; /* entries of the name array */
	__u32 order; /* enum cg_order */
	__u32 max_depth; /* levels below the start that are recorded */

	/* Where the walk began; 0: at the first cgroup of this session. */
	__u64 start_id;

	/* Request of walk_unlocked, from the answer of the slice before. */
	__u64 resume_serial; /* of the child that is gone, for CG_AT_SEEK */
	__u64 slice_ns_max; /* end the slice after this time */
	__u32 start_level;
	__u32 resume_at; /* enum cg_at, of the session's cgroup */

	/* Answer of flush_locked and flush_unlocked. */
	__u64 flushed_id; /* 0: nothing had to be flushed */
	__u64 flush_ns;
	__u64 flush_mutex_held_ns;

	/* Answer of walk_locked and walk_unlocked. */
	__u64 visited;
	__u64 first_visit_ns; /* CLOCK_MONOTONIC; 0: no cgroup was visited */
	/*
	 * Locked: first visit to end, all of it under cgroup_mutex. Unlocked:
	 * the time of the slice, all of it without a point to reschedule.
	 */
	__u64 walk_ns;
	__u32 records;
	__u32 names;
	__u32 iterates_children; /* locked: the iterator has CG_ORDER_CHILDREN */
	__u32 end; /* enum cg_end */

	/*
	 * Answer of walk_unlocked: the cgroup behind which the slice ended, and
	 * those above it up to the start, or to the root if the walk goes up.
	 */
	struct cg_place cursor[CG_PLACES_MAX];
	__u32 cursor_places; /* so many there are, also beyond those above */
	__u32 cursor_at; /* enum cg_at, of the first of them */
	__u32 hierarchy_id; /* of the session's cgroup */
	__u32 cursor_padding;

	__u64 session_held_ns; /* time for which the session held cgroup_mutex */

	/* Between the two calls of one walk_unlocked session. */
	__u64 session_css;
};

#endif
