// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * The locked walk: cgroup iterator programs that write fixed records to an
 * mmapable array. Nothing goes to the seq_file, whose buffer ends a walk at
 * 32 KiB (kernel/bpf/bpf_iter.c, bpf_seq_read).
 *
 * A walk is two sessions. First flush_topmost, attached in the walk's direction
 * (SELF_ONLY, or ANCESTORS_UP for an ancestors walk), flushes rstat once at the
 * topmost cgroup of the answer, for a flush goes downward only. Then
 * walk_locked visits and records.
 */
#include "kernel.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* The agent sets the bounds of the arrays from its configuration. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_walk);
} walk SEC(".maps");

/* A walk that fills it ends with CG_END_RECORDS_FULL. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_record);
} records SEC(".maps");

/* What does not fit is counted in names_dropped, and comes with a later walk. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_name);
} names SEC(".maps");

/*
 * Cgroups whose name the agent has. When it is full, names are sent again at
 * each walk: slower, and still right. The agent removes what is gone.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct cg_key);
	__type(value, __u32);
} known SEC(".maps");

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

/* Writes the name of a cgroup that the agent does not know, or not by it. */
static __always_inline void record_name(struct cg_walk *w, struct cgroup *cgrp,
					const struct cg_record *record)
{
	struct cg_key key = { .id = record->id,
			      .hierarchy_id = record->hierarchy_id };
	__u32 *known_hash, hash = record->name_hash, slot = w->names;
	struct cg_name *name;
	long length;

	known_hash = bpf_map_lookup_elem(&known, &key);
	if (known_hash && *known_hash == hash)
		return;
	name = bpf_map_lookup_elem(&names, &slot);
	if (!name || slot >= w->names_max) {
		w->names_dropped++;
		return;
	}
	length = bpf_probe_read_kernel_str(name->name, sizeof(name->name),
					   cgrp->kn->name);
	name->id = record->id;
	name->hierarchy_id = record->hierarchy_id;
	name->length = length > 0 ? length - 1 : 0;
	w->names = slot + 1;
	bpf_map_update_elem(&known, &key, &hash, BPF_ANY);
}

static __always_inline void record_cpu(struct cg_record *record,
				       struct cgroup *cgrp)
{
	/*
	 * rstat keeps it for v2 cgroups below the root; elsewhere the field is
	 * there and 0 (kernel/cgroup/rstat.c, cgroup_base_stat_flush).
	 */
	if (record->hierarchy_id != 0 || record->level == 0)
		return;
	record->cpu_usage_ns = cgrp->bstat.cputime.sum_exec_runtime;
	record->valid |= CG_GROUP_CPU;
}

SEC("iter.s/cgroup")
int walk_locked(struct bpf_iter__cgroup *ctx)
{
	struct cgroup_subsys_state *parent;
	struct cgroup *cgrp = ctx->cgroup;
	struct cg_walk *w = the_walk();
	struct cg_record *record;
	__u32 slot;

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

	slot = w->records;
	record = bpf_map_lookup_elem(&records, &slot);
	if (!record || slot >= w->records_max) {
		w->end = CG_END_RECORDS_FULL;
		return 1;
	}
	w->visited++;
	record->id = cgrp->kn->id;
	record->level = cgrp->level;
	record->hierarchy_id = cgrp->root->hierarchy_id;
	record->name_hash = cgrp->kn->hash;
	parent = cgrp->self.parent;
	record->parent_id = parent ? BPF_CORE_READ(parent, cgroup, kn, id) : 0;
	record->valid = 0;
	if (w->groups & CG_GROUP_CPU)
		record_cpu(record, cgrp);
	record_name(w, cgrp, record);
	w->records = slot + 1;

	if (record->id == w->stop_at_id) {
		w->end = CG_END_STOP_AT;
		return 1;
	}
	if (w->limit && w->records >= w->limit) {
		w->end = CG_END_LIMIT;
		return 1;
	}
	return 0;
}
