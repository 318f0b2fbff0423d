// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * Text views: a line about each cgroup, for whoever reads the file that an
 * iterator's link is pinned as. docs/views.md has the format.
 *
 * The kernel has one buffer for all the text of a walk, and a walk that does not
 * fit ends with EOPNOTSUPP, without what was to be said about it
 * (kernel/bpf/bpf_iter.c, bpf_seq_read). So the walk is ended here before that,
 * and the last line tells.
 *
 * A program each, as a program cannot tell by which of its links it was called.
 */
#include "groups.h"

char _license[] SEC("license") = "Dual MIT/GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), \
			     apply_to = record)

struct seq_file {
	unsigned long size;
	unsigned long count;
};

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

#pragma clang attribute pop

/* The longest line of a cgroup: ten numbers and a name. */
#define ROW_BYTES_MAX 512
/* The longest last line. */
#define END_BYTES_MAX 128

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CG_VIEWS_MAX);
	__type(key, __u32);
	__type(value, struct cg_view);
} views SEC(".maps");

/* A read under way. */
struct session {
	__u64 id;
	__u32 cgroups;
	__u32 is_truncated;
};

/*
 * Visits are under cgroup_mutex, so one session at a time comes through them; but
 * the last call comes after that was released, when the next may have begun.
 * The host numbers all sessions, so it takes as many as there are places here,
 * begun within that call, to be in each other's.
 */
#define SESSIONS 256

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SESSIONS);
	__type(key, __u32);
	__type(value, struct session);
} sessions SEC(".maps");

/* What is read of one cgroup: too large for the stack. Under cgroup_mutex too. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_details);
} scratch SEC(".maps");

static __always_inline void put(struct seq_file *seq, bool is_known,
				__u64 value)
{
	if (is_known)
		BPF_SEQ_PRINTF(seq, " %llu", value);
	else
		BPF_SEQ_PRINTF(seq, " -");
}

static __always_inline void put_columns(struct seq_file *seq,
					const struct cg_view *view,
					struct cgroup *cgrp)
{
	bool is_below_root = cgrp->level > 0;
	struct cgroup_subsys_state *css;
	__u32 asked = view->columns;
	struct cg_details *found;
	__u32 zero = 0;

	found = bpf_map_lookup_elem(&scratch, &zero);
	if (!found)
		return;
	/* Of v2 below the root, as in record.h. */
	if (asked & CG_VIEW_CPU_USAGE)
		put(seq, is_below_root && cgrp->root->hierarchy_id == 0,
		    cgrp->bstat.cputime.sum_exec_runtime / 1000);
	if (asked & CG_VIEW_MEMORY_CURRENT) {
		css = CONTROLLER(true, cgrp, memory_cgrp_id);
		if (css)
			read_memory(found, AT(true, struct mem_cgroup, css),
				    true);
		put(seq, css && is_below_root,
		    found->words[CG_MEMORY_USAGE] * view->page_bytes);
	}
	if (asked & CG_VIEW_PIDS_CURRENT) {
		css = CONTROLLER(true, cgrp, pids_cgrp_id);
		read_pids(found, css, true);
		put(seq, css && is_below_root, found->words[CG_PIDS_COUNTER]);
	}
	read_structure(found, cgrp, true);
	if (asked & CG_VIEW_POPULATED)
		put(seq, true, found->words[CG_POPULATED]);
	if (asked & CG_VIEW_FROZEN)
		put(seq, true, found->words[CG_FROZEN]);
	if (asked & CG_VIEW_NR_DESCENDANTS)
		put(seq, true, found->words[CG_NR_DESCENDANTS]);
	if (asked & CG_VIEW_NR_DYING_DESCENDANTS)
		put(seq, true, found->words[CG_NR_DYING_DESCENDANTS]);
}

static __always_inline void
put_row(struct seq_file *seq, const struct cg_view *view, struct cgroup *cgrp)
{
	__u64 parent_id = 0;

	if (cgrp->level > 0)
		parent_id = BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id);
	BPF_SEQ_PRINTF(seq, "%llu %llu %u", cgrp->kn->id, parent_id,
		       cgrp->level);
	put_columns(seq, view, cgrp);
	if (cgrp->level > 0)
		BPF_SEQ_PRINTF(seq, " %s\n", BPF_CORE_READ(cgrp, kn, name));
	else
		BPF_SEQ_PRINTF(seq, " /\n");
}

static __always_inline bool can_flush(void)
{
	bool can = false;

	if (bpf_ksym_exists(css_rstat_flush))
		can = true;
	/* Or the compiler combines the addresses, which the verifier refuses. */
	barrier_var(can);
	if (bpf_ksym_exists(cgroup_rstat_flush))
		can = true;
	return can;
}

/* Only CPU time comes from rstat here. */
static __always_inline bool needs_flush(const struct cg_view *view)
{
	return view->columns & CG_VIEW_CPU_USAGE;
}

/*
 * A flush goes downward only. Where the first cgroup is the topmost, it does
 * for all; elsewhere each is flushed as it comes, which costs little where
 * there is nothing left to do. An answer that goes up to the root or is of it alone
 * needs nothing from it, and flushing it means the whole host.
 */
static __always_inline bool is_flushed_here(const struct cg_view *view,
					    struct cgroup *cgrp, bool is_first)
{
	if (!needs_flush(view))
		return false;
	if (view->order == CG_ORDER_DESCENDANTS_PRE)
		return is_first;
	return cgrp->level > 0;
}

static __always_inline void begin(struct seq_file *seq, struct cg_view *view)
{
	if (!needs_flush(view))
		BPF_SEQ_PRINTF(seq,
			       "# cgfleet-view 1 flushed unneeded columns %s\n",
			       view->heading);
	else if (can_flush())
		BPF_SEQ_PRINTF(seq, "# cgfleet-view 1 flushed yes columns %s\n",
			       view->heading);
	else
		BPF_SEQ_PRINTF(seq, "# cgfleet-view 1 flushed no columns %s\n",
			       view->heading);
}

/* The call behind the last cgroup. */
static __always_inline void end(struct bpf_iter_meta *meta,
				struct cg_view *view, struct session *session)
{
	struct seq_file *seq = meta->seq;

	if (session->id == meta->session_id) {
		if (session->is_truncated)
			BPF_SEQ_PRINTF(
				seq,
				"# truncated after %u cgroups: more than %lu bytes\n",
				session->cgroups, seq->size);
		else
			BPF_SEQ_PRINTF(seq, "# end of %u cgroups\n",
				       session->cgroups);
	} else if (!meta->seq_num) {
		begin(seq, view);
		BPF_SEQ_PRINTF(seq, "# end of 0 cgroups\n");
	} else {
		/* Only removed ones, or too many readers. */
		BPF_SEQ_PRINTF(seq, "# incomplete: read again\n");
	}
}

static __noinline int show(struct bpf_iter__cgroup *ctx, __u32 number)
{
	struct bpf_iter_meta *meta = ctx->meta;
	struct cgroup *cgrp = ctx->cgroup;
	struct seq_file *seq = meta->seq;
	__u32 place = meta->session_id % SESSIONS;
	struct session *session;
	struct cg_view *view;
	bool is_first;

	view = bpf_map_lookup_elem(&views, &number);
	session = bpf_map_lookup_elem(&sessions, &place);
	if (!view || !session)
		return 0;
	if (!cgrp) {
		end(meta, view, session);
		return 0;
	}
	is_first = session->id != meta->session_id;
	if (is_first) {
		session->id = meta->session_id;
		session->cgroups = 0;
		session->is_truncated = 0;
		begin(seq, view);
	}
	if (seq->count + ROW_BYTES_MAX + END_BYTES_MAX > seq->size) {
		session->is_truncated = 1;
		return 1;
	}
	if (is_flushed_here(view, cgrp, is_first))
		rstat_flush(cgrp);
	put_row(seq, view, cgrp);
	session->cgroups++;
	return 0;
}

#define VIEW(number)                                    \
	SEC("iter.s/cgroup")                            \
	int view_##number(struct bpf_iter__cgroup *ctx) \
	{                                               \
		return show(ctx, number);               \
	}

VIEW(0)
VIEW(1)
VIEW(2)
VIEW(3)
VIEW(4)
VIEW(5)
VIEW(6)
VIEW(7)
VIEW(8)
VIEW(9)
VIEW(10)
VIEW(11)
VIEW(12)
VIEW(13)
VIEW(14)
VIEW(15)
