/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The maps of a walk, and how one cgroup becomes one record: shared by both
 * engines.
 */
#ifndef CGFLEET_RECORD_H
#define CGFLEET_RECORD_H

#include "control.h"
#include "groups.h"
#include "io.h"

/* The agent sets the bounds of the arrays from its configuration. */

/* A walk that fills it ends with CG_END_RECORDS_FULL. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_record);
} records SEC(".maps");

/* As details, of what is asked for less often and is larger. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_memory_stat);
} memory_stats SEC(".maps");

/* A walk ends its slice, or its session, when it is full. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_name);
} names SEC(".maps");

/* Where a cgroup is, as far as its engine knows without reading it again. */
struct place {
	__u64 serial;
	__u64 parent_serial;
	__u32 hierarchy_id;
	__u32 level;
};

static __always_inline void record_name(struct cg_walk *w,
					const struct place *place,
					struct kernfs_node *kn, bool probed)
{
	__u32 slot = w->names;
	struct cg_name *name;
	long length;

	name = bpf_map_lookup_elem(&names, &slot);
	if (!name || slot >= w->names_max)
		return;
	length = bpf_probe_read_kernel_str(name->name, sizeof(name->name),
					   READ(probed, kn, name));
	name->id = READ(probed, kn, id);
	name->serial = place->serial;
	name->hierarchy_id = place->hierarchy_id;
	name->length = length > 0 ? length - 1 : 0;
	w->names = slot + 1;
}

static __always_inline __u32 read_details(__u32 slot, __u32 level, bool is_v2,
					  bool probed)
{
	bool is_v2_below_root = is_v2 && level > 0;
	struct cgroup_subsys_state *css;
	struct cg_walk *w = the_walk();
	struct cg_memory_stat *stat;
	struct cg_details *detail;
	struct cgroup *cgrp;
	__u32 valid = 0;
	__u32 asked;

	detail = bpf_map_lookup_elem(&details, &slot);
	stat = bpf_map_lookup_elem(&memory_stats, &slot);
	if (!w || !detail || !stat)
		return 0;
	cgrp = AT(probed, struct cgroup, w->cgroup);
	asked = w->groups;
	if ((asked & CG_GROUP_BANDWIDTH) && level > 0)
		valid |= read_bandwidth(
			detail, CONTROLLER(probed, cgrp, cpu_cgrp_id), probed);
	if (asked & CG_GROUPS_OF_MEMORY)
		valid |= read_memory_groups(
			asked, level, detail, stat,
			CONTROLLER(probed, cgrp, memory_cgrp_id), probed);
	if ((asked & CG_GROUP_IO) && is_v2_below_root) {
		css = CONTROLLER(probed, cgrp, io_cgrp_id);
		w->io_css = (__u64)css;
		if (css)
			valid |= record_io(slot);
	}
	if ((asked & CG_GROUP_PIDS) && level > 0)
		valid |= read_pids(
			detail, CONTROLLER(probed, cgrp, pids_cgrp_id), probed);
	if ((asked & CG_GROUP_PRESSURE) && is_v2_below_root)
		valid |= read_pressure(detail, cgrp, probed);
	if (asked & CG_GROUP_STRUCTURE)
		valid |= read_structure(detail, cgrp, probed);
	return valid;
}

/*
 * These are global functions, for the verifier then goes through them once: their
 * ways are many, and so are the places that call them.
 */
__noinline __u32 record_details_typed(__u32 slot, __u32 level, __u32 is_v2)
{
	if (!bpf_ksym_exists(bpf_rdonly_cast))
		return 0;
	return read_details(slot, level, is_v2, false);
}

__noinline __u32 record_details_probed(__u32 slot, __u32 level, __u32 is_v2)
{
	return read_details(slot, level, is_v2, true);
}

static __always_inline __u32 record_details(struct cg_walk *w, __u32 slot,
					    const struct place *place,
					    struct cgroup *cgrp)
{
	__u32 is_v2 = place->hierarchy_id == 0;

	/* A global function takes numbers only. */
	w->cgroup = (__u64)cgrp;
	if (bpf_ksym_exists(bpf_rdonly_cast))
		return record_details_typed(slot, place->level, is_v2);
	return record_details_probed(slot, place->level, is_v2);
}

/* Whether the walk's condition holds for the cgroup that was just recorded. */
static __always_inline bool is_stop_when(const struct cg_walk *w, __u32 slot,
					 const struct cg_record *record)
{
	__u32 detail = w->stop_detail;
	struct cg_details *found;
	__u64 value;

	if (!w->stop_comparison || !(record->valid & w->stop_group))
		return false;
	if (detail == CG_DETAIL_CPU_USAGE) {
		value = record->cpu_usage_ns;
	} else {
		found = bpf_map_lookup_elem(&details, &slot);
		if (!found || detail >= CG_DETAILS)
			return false;
		value = found->words[detail];
	}
	return w->stop_comparison == CG_LESS ? value < w->stop_value
					     : value >= w->stop_value;
}

/*
 * Whether rstat keeps the CPU time of a cgroup: it does for those of v2 below the
 * root; elsewhere the field is there and 0 (kernel/cgroup/rstat.c,
 * cgroup_base_stat_flush).
 */
static __always_inline bool has_cpu(const struct place *place)
{
	return place->hierarchy_id == 0 && place->level > 0;
}

/*
 * Records one cgroup, and says why the walk ends behind it; 0 if it does not.
 * What is read of it is what its engine has not: the less cache lines, the faster.
 */
static __always_inline __u32 record_cgroup(struct cg_walk *w,
					   struct cgroup *cgrp,
					   const struct place *place,
					   __u64 cpu_usage_ns, bool probed)
{
	struct cg_record *record;
	__u32 slot = w->records;

	record = bpf_map_lookup_elem(&records, &slot);
	if (!record)
		return CG_END_RECORDS_FULL;
	w->visited++;
	record->serial = place->serial;
	record->parent_serial = place->parent_serial;
	record->hierarchy_id = place->hierarchy_id;
	record->level = place->level;
	record->name_hash = 0;
	/* Only v1 can rename. */
	if (place->hierarchy_id)
		record->name_hash = READ(probed, cgrp, kn, hash);
	record->valid = 0;
	if ((w->groups & CG_GROUP_CPU) && has_cpu(place)) {
		record->cpu_usage_ns = cpu_usage_ns;
		record->valid = CG_GROUP_CPU;
	}
	if (w->groups & ~CG_GROUP_CPU)
		record->valid |= record_details(w, slot, place, cgrp);
	/* A root's serial is 0. */
	if (place->serial >= w->names_from)
		record_name(w, place, READ(probed, cgrp, kn), probed);
	w->records = slot + 1;
	if (w->stop_at_id && READ(probed, cgrp, kn, id) == w->stop_at_id)
		return CG_END_STOP_AT;
	if (is_stop_when(w, slot, record))
		return CG_END_STOP_WHEN;
	if (w->limit && w->records >= w->limit)
		return CG_END_LIMIT;
	return 0;
}

/* Whether there is room for what one more cgroup may bring. */
static __always_inline bool has_room(const struct cg_walk *w)
{
	return w->records < w->records_max && w->names < w->names_max &&
	       w->io_devices + CG_IO_DEVICES_MAX <= w->io_devices_max;
}

#endif
