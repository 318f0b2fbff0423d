/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The maps of a walk, and how one cgroup becomes one record: shared by both
 * engines.
 */
#ifndef CGFLEET_RECORD_H
#define CGFLEET_RECORD_H

#include "control.h"

/* The agent sets the bounds of the arrays from its configuration. */

/* A walk that fills it ends with CG_END_RECORDS_FULL. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_record);
} records SEC(".maps");

/* A walk ends its slice, or its session, when it is full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_name);
} names SEC(".maps");

static __always_inline void
record_name(struct cg_walk *w, const struct cg_record *record, const char *text)
{
	__u32 slot = w->names;
	struct cg_name *name;
	long length;

	name = bpf_map_lookup_elem(&names, &slot);
	if (!name || slot >= w->names_max)
		return;
	length =
		bpf_probe_read_kernel_str(name->name, sizeof(name->name), text);
	name->id = record->id;
	name->hierarchy_id = record->hierarchy_id;
	name->length = length > 0 ? length - 1 : 0;
	w->names = slot + 1;
}

static __always_inline void record_cpu(struct cg_record *record,
				       struct cgroup *cgrp, bool probed)
{
	/*
	 * rstat keeps it for v2 cgroups below the root; elsewhere the field is
	 * there and 0 (kernel/cgroup/rstat.c, cgroup_base_stat_flush).
	 */
	if (record->hierarchy_id != 0 || record->level == 0)
		return;
	record->cpu_usage_ns =
		READ(probed, cgrp, bstat.cputime.sum_exec_runtime);
	record->valid |= CG_GROUP_CPU;
}

/* Where a cgroup is, as far as its engine knows without reading it again. */
struct place {
	__u64 parent_id;
	__u32 hierarchy_id;
	__u32 level;
};

/* Records one cgroup, and says why the walk ends behind it; 0 if it does not. */
static __always_inline __u32 record_cgroup(struct cg_walk *w,
					   struct cgroup *cgrp,
					   const struct place *place,
					   bool probed)
{
	struct cg_record *record;
	struct kernfs_node *kn;
	__u32 slot = w->records;

	record = bpf_map_lookup_elem(&records, &slot);
	if (!record || slot >= w->records_max)
		return CG_END_RECORDS_FULL;
	w->visited++;
	kn = READ(probed, cgrp, kn);
	record->id = READ(probed, kn, id);
	record->parent_id = place->parent_id;
	record->hierarchy_id = place->hierarchy_id;
	record->level = place->level;
	record->name_hash = READ(probed, kn, hash);
	record->serial = READ(probed, cgrp, self.serial_nr);
	record->valid = 0;
	if (w->groups & CG_GROUP_CPU)
		record_cpu(record, cgrp, probed);
	/* A root's serial is 0. */
	if (record->serial >= w->names_from)
		record_name(w, record, READ(probed, kn, name));
	w->records = slot + 1;
	if (record->id == w->stop_at_id)
		return CG_END_STOP_AT;
	if (w->limit && w->records >= w->limit)
		return CG_END_LIMIT;
	return 0;
}

#endif
