/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * Record groups that come from a cgroup's controllers, from its pressure
 * information and from its own structure. Each says where the kernel keeps what it
 * reads; elsewhere it is absent.
 */
#ifndef CGFLEET_GROUPS_H
#define CGFLEET_GROUPS_H

#include "kernel.h"

/* The cgroup's state of a controller; NULL where that is not enabled. */
#define CONTROLLER(probed, cgrp, id)                                       \
	({                                                                 \
		struct cgroup_subsys_state *css = NULL;                    \
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, id)) \
			css = READ(probed, cgrp,                           \
				   subsys[bpf_core_enum_value(             \
					   enum cgroup_subsys_id, id)]);   \
		css;                                                       \
	})

static __always_inline __u32 read_bandwidth(struct cg_details *details,
					    struct cgroup_subsys_state *css,
					    bool probed)
{
	struct task_group *group = AT(probed, struct task_group, css);

	if (!css || !bpf_core_field_exists(group->cfs_bandwidth))
		return 0;
	details->words[CG_NR_PERIODS] =
		READ(probed, group, cfs_bandwidth.nr_periods);
	details->words[CG_NR_THROTTLED] =
		READ(probed, group, cfs_bandwidth.nr_throttled);
	details->words[CG_THROTTLED_NS] =
		READ(probed, group, cfs_bandwidth.throttled_time);
	return CG_GROUP_BANDWIDTH;
}

static __always_inline void read_memory(struct cg_details *details,
					struct mem_cgroup *memcg, bool probed)
{
	details->words[CG_MEMORY_USAGE] =
		READ(probed, memcg, memory.usage.counter);
	details->words[CG_MEMORY_WATERMARK] =
		READ(probed, memcg, memory.watermark);
	details->words[CG_MEMORY_MIN] = READ(probed, memcg, memory.min);
	details->words[CG_MEMORY_LOW] = READ(probed, memcg, memory.low);
	details->words[CG_MEMORY_HIGH] = READ(probed, memcg, memory.high);
	details->words[CG_MEMORY_MAX] = READ(probed, memcg, memory.max);
	/* On v1 this is memory and swap together: for the agent to leave out. */
	details->words[CG_SWAP_USAGE] = READ(probed, memcg, swap.usage.counter);
	details->words[CG_SWAP_MAX] = READ(probed, memcg, swap.max);
}

/* The first six are the same on all kernels (enum memcg_memory_event). */
#define READ_MEMORY_EVENTS(memcg, array, words) \
	bpf_core_read(words, 6 * sizeof(__u64), &(memcg)->array)

/* The whole arrays at once: which of it is what, the agent knows. */
static __always_inline void read_memory_stat(struct cg_memory_stat *stat,
					     struct mem_cgroup *memcg,
					     bool probed)
{
	struct memcg_vmstats *vmstats = READ(probed, memcg, vmstats);
	__u32 state_bytes = bpf_core_field_size(vmstats->state);
	__u32 events_bytes = bpf_core_field_size(vmstats->events);

	if (state_bytes > sizeof(stat->state))
		state_bytes = sizeof(stat->state);
	if (events_bytes > sizeof(stat->events))
		events_bytes = sizeof(stat->events);
	bpf_probe_read_kernel(stat->state, state_bytes, &vmstats->state);
	bpf_probe_read_kernel(stat->events, events_bytes, &vmstats->events);
}

/* What is the memory controller's. On a root it charges and counts no usage. */
static __always_inline __u32 read_memory_groups(__u32 asked, __u32 level,
						struct cg_details *details,
						struct cg_memory_stat *stat,
						struct cgroup_subsys_state *css,
						bool probed)
{
	struct mem_cgroup *memcg = AT(probed, struct mem_cgroup, css);
	__u32 valid = 0;

	if (!css)
		return 0;
	if (asked & CG_GROUP_MEMORY_STAT) {
		read_memory_stat(stat, memcg, probed);
		valid |= CG_GROUP_MEMORY_STAT;
	}
	if (level == 0)
		return valid;
	if (asked & CG_GROUP_MEMORY) {
		read_memory(details, memcg, probed);
		valid |= CG_GROUP_MEMORY;
	}
	if (asked & CG_GROUP_MEMORY_EVENTS) {
		READ_MEMORY_EVENTS(memcg, memory_events,
				   &details->words[CG_EVENTS_LOW]);
		valid |= CG_GROUP_MEMORY_EVENTS;
	}
	if (asked & CG_GROUP_MEMORY_EVENTS_LOCAL) {
		READ_MEMORY_EVENTS(memcg, memory_events_local,
				   &details->words[CG_EVENTS_LOCAL_LOW]);
		valid |= CG_GROUP_MEMORY_EVENTS_LOCAL;
	}
	return valid;
}

static __always_inline __u32 read_pids(struct cg_details *details,
				       struct cgroup_subsys_state *css,
				       bool probed)
{
	struct pids_cgroup *pids = AT(probed, struct pids_cgroup, css);

	if (!css)
		return 0;
	details->words[CG_PIDS_COUNTER] = READ(probed, pids, counter.counter);
	details->words[CG_PIDS_LIMIT] = READ(probed, pids, limit.counter);
	return CG_GROUP_PIDS;
}

/* Of v2 below the root: the root's is in psi_system, and v1's stays 0. */
static __always_inline __u32 read_pressure(struct cg_details *details,
					   struct cgroup *cgrp, bool probed)
{
	struct psi_group *psi = NULL;

	if (!bpf_core_field_exists(psi->total))
		return 0;
	psi = READ(probed, cgrp, psi);
	if (!psi || !READ(probed, psi, enabled))
		return 0;
	bpf_probe_read_kernel(&details->words[CG_PSI_IO_SOME_NS],
			      6 * sizeof(__u64), &psi->total);
	return CG_GROUP_PRESSURE;
}

static __always_inline __u32 read_structure(struct cg_details *details,
					    struct cgroup *cgrp, bool probed)
{
	int csets = bpf_core_field_exists(cgrp->nr_populated_csets)
			    ? READ(probed, cgrp, nr_populated_csets)
			    : READ(probed, cgrp, self.nr_populated_csets);

	details->words[CG_POPULATED] =
		csets || READ(probed, cgrp, nr_populated_domain_children) ||
		READ(probed, cgrp, nr_populated_threaded_children);
	details->words[CG_FROZEN] =
		READ(probed, cgrp, flags) >> CGRP_FROZEN & 1;
	details->words[CG_NR_DESCENDANTS] = READ(probed, cgrp, nr_descendants);
	details->words[CG_NR_DYING_DESCENDANTS] =
		READ(probed, cgrp, nr_dying_descendants);
	return CG_GROUP_STRUCTURE;
}

#endif
