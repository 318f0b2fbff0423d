/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The maps of a walk, and how one cgroup becomes one record: shared by both
 * engines. Cgroups are read by address, so that it does not matter to the
 * verifier how an engine came to them.
 */
#ifndef CGFLEET_RECORD_H
#define CGFLEET_RECORD_H

#include "kernel.h"

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
					   BPF_CORE_READ(cgrp, kn, name));
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
	record->cpu_usage_ns =
		BPF_CORE_READ(cgrp, bstat.cputime.sum_exec_runtime);
	record->valid |= CG_GROUP_CPU;
}

/* Records one cgroup, and says why the walk ends behind it; 0 if it does not. */
static __always_inline __u32 record_cgroup(struct cg_walk *w,
					   struct cgroup *cgrp)
{
	struct cg_record *record;
	__u32 slot = w->records;

	record = bpf_map_lookup_elem(&records, &slot);
	if (!record || slot >= w->records_max)
		return CG_END_RECORDS_FULL;
	w->visited++;
	record->id = BPF_CORE_READ(cgrp, kn, id);
	/* A failed read gives 0: the root has no parent. */
	record->parent_id = BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id);
	record->hierarchy_id = BPF_CORE_READ(cgrp, root, hierarchy_id);
	record->level = BPF_CORE_READ(cgrp, level);
	record->name_hash = BPF_CORE_READ(cgrp, kn, hash);
	record->valid = 0;
	if (w->groups & CG_GROUP_CPU)
		record_cpu(record, cgrp);
	record_name(w, cgrp, record);
	w->records = slot + 1;
	if (record->id == w->stop_at_id)
		return CG_END_STOP_AT;
	if (w->limit && w->records >= w->limit)
		return CG_END_LIMIT;
	return 0;
}

#endif
