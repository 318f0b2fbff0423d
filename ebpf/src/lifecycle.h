/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * Cgroups v2 as they come and go. Whoever includes this defines hold(), which
 * keeps a removed cgroup until its CPU time has been flushed, if it can.
 *
 * Both tracepoints are hit under cgroup_mutex, with interrupts off
 * (kernel/cgroup/cgroup-internal.h, TRACE_CGROUP_PATH): no two at a time, and not
 * for long. A removed cgroup still has its controllers there: they go when their
 * references are gone (kernel/cgroup/cgroup.c, css_killed_work_fn).
 *
 * The path that the kernel gives them ends after 1023 bytes
 * (TRACE_CGROUP_PATH_LEN), and begins at the real root; so names are read here.
 */
#ifndef CGFLEET_LIFECYCLE_H
#define CGFLEET_LIFECYCLE_H

#include "groups.h"

#include <bpf/bpf_tracing.h>

/* BPF_PROG() gives every program a ctx, and a tracepoint what not all need. */
#pragma clang diagnostic ignored "-Wunused-parameter"

/* The kernel allows no deeper tree than INT_MAX; names end before that. */
#define LEVELS_MAX CG_PATH_BYTES

/* What needs no flush. memory.stat and io do, and no program can flush theirs. */
#define GROUPS_AT_REMOVAL                                        \
	(CG_GROUP_CPU | CG_GROUP_BANDWIDTH | CG_GROUP_MEMORY |   \
	 CG_GROUP_MEMORY_EVENTS | CG_GROUP_MEMORY_EVENTS_LOCAL | \
	 CG_GROUP_PIDS | CG_GROUP_PRESSURE | CG_GROUP_STRUCTURE)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_lifecycle);
} lifecycle SEC(".maps");

/* The agent sets its size. What finds no room is counted in lost. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

/* Where an entry is put together; too large for the stack. */
struct scratch {
	struct cg_removed removed;
	/* The last of them may begin at the last byte. */
	__u8 names[CG_PATH_BYTES + CG_NAME_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct cg_lifecycle *the_lifecycle(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&lifecycle, &zero);
}

static __always_inline struct scratch *the_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

static __always_inline void hold(struct cg_lifecycle *l, struct cgroup *cgrp);

/* Where on the way up to the mount's root the names are. */
struct climb {
	__u64 css;
	__u64 root_id;
	bool is_at_root;
};

static long climb_one(__u32 level, struct climb *climb)
{
	struct cgroup_subsys_state *css = (void *)climb->css;
	struct scratch *s = the_scratch();
	struct cgroup *cgrp;
	const char *name;
	long length;
	__u32 at;

	if (!s || !css)
		return 1;
	cgrp = BPF_CORE_READ(css, cgroup);
	climb->is_at_root = BPF_CORE_READ(cgrp, kn, id) == climb->root_id;
	if (climb->is_at_root)
		return 1;
	name = BPF_CORE_READ(cgrp, kn, name);
	climb->css = (__u64)BPF_CORE_READ(css, parent);
	/* Of the scratch, and not of the stack: no verifier follows it there. */
	at = s->removed.names_bytes;
	/* Nothing between: older verifiers forget what was compared. */
	barrier_var(at);
	if (at >= CG_PATH_BYTES)
		return 1;
	length = bpf_probe_read_kernel_str(s->names + at, CG_NAME_BYTES, name);
	if (length > 0)
		s->removed.names_bytes = at + length;
	return 0;
}

/* CPU time that was not flushed yet. */
struct unflushed {
	__u64 offsets;
	__u64 per_cpu;
	__u64 ns;
};

#define SINCE_FLUSH(type, address)                                          \
	({                                                                  \
		struct type *of_cpu = (void *)(address);                    \
		BPF_CORE_READ(of_cpu, bstat.cputime.sum_exec_runtime) -     \
			BPF_CORE_READ(of_cpu,                               \
				      last_bstat.cputime.sum_exec_runtime); \
	})

static long add_unflushed(__u32 cpu, struct unflushed *sum)
{
	struct cgroup *cgrp = NULL;
	__u64 offset = 0;

	bpf_probe_read_kernel(&offset, sizeof(offset),
			      (void *)(sum->offsets + cpu * sizeof(offset)));
	if (bpf_core_field_exists(cgrp->rstat_cpu))
		sum->ns += SINCE_FLUSH(cgroup_rstat_cpu, sum->per_cpu + offset);
	else if (bpf_core_field_exists(cgrp->rstat_base_cpu))
		sum->ns += SINCE_FLUSH(cgroup_rstat_base_cpu,
				       sum->per_cpu + offset);
	return 0;
}

/*
 * CPU time as far as it is known without a flush: what was flushed, and what the
 * CPUs have of this cgroup itself. Of cgroups below that were removed shortly
 * before, something may be missing. Without the CPUs' part, nothing flushed is
 * nothing known.
 */
static __always_inline __u32 read_cpu(const struct cg_lifecycle *l,
				      struct cg_removed *removed,
				      struct cgroup *cgrp)
{
	struct unflushed sum = { .offsets = l->per_cpu_offsets };
	__u64 flushed = cgrp->bstat.cputime.sum_exec_runtime;

	if (bpf_core_field_exists(cgrp->rstat_cpu))
		sum.per_cpu = (__u64)BPF_CORE_READ(cgrp, rstat_cpu);
	else if (bpf_core_field_exists(cgrp->rstat_base_cpu))
		sum.per_cpu = (__u64)BPF_CORE_READ(cgrp, rstat_base_cpu);
	if (sum.offsets && sum.per_cpu)
		bpf_loop(l->cpus, add_unflushed, &sum, 0);
	else if (!flushed)
		return 0;
	removed->cpu_usage_ns = flushed + sum.ns;
	return CG_GROUP_CPU;
}

static __always_inline __u32 read_groups(const struct cg_lifecycle *l,
					 struct cg_removed *removed,
					 struct cgroup *cgrp)
{
	__u32 asked = l->groups & GROUPS_AT_REMOVAL;
	struct cg_details *details = &removed->details;
	__u32 valid = 0;

	if (asked & CG_GROUP_CPU)
		valid |= read_cpu(l, removed, cgrp);
	if (asked & CG_GROUP_BANDWIDTH)
		valid |= read_bandwidth(
			details, CONTROLLER(true, cgrp, cpu_cgrp_id), true);
	if (asked & CG_GROUPS_OF_MEMORY)
		valid |= read_memory_groups(
			asked, removed->level, details, NULL,
			CONTROLLER(true, cgrp, memory_cgrp_id), true);
	if (asked & CG_GROUP_PIDS)
		valid |= read_pids(details,
				   CONTROLLER(true, cgrp, pids_cgrp_id), true);
	if (asked & CG_GROUP_PRESSURE)
		valid |= read_pressure(details, cgrp, true);
	if (asked & CG_GROUP_STRUCTURE)
		valid |= read_structure(details, cgrp, true);
	return valid;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(made, struct cgroup *cgrp, const char *path)
{
	struct cg_made made = { .event = CG_EVENT_MADE };

	if (cgrp->root->hierarchy_id)
		return 0;
	made.id = cgrp->kn->id;
	made.at_ns = bpf_ktime_get_boot_ns();
	/* What has no room is when it was made, and nothing else. */
	bpf_ringbuf_output(&events, &made, sizeof(made), BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(removed, struct cgroup *cgrp, const char *path)
{
	struct cg_lifecycle *l = the_lifecycle();
	struct scratch *s = the_scratch();
	struct cg_removed *removed;
	struct climb climb = {};
	__u64 names_bytes;

	if (!l || !s || cgrp->root->hierarchy_id)
		return 0;
	removed = &s->removed;
	removed->names_bytes = 0;
	climb.css = (__u64)cgrp + bpf_core_field_offset(struct cgroup, self);
	climb.root_id = l->root_id;
	bpf_loop(LEVELS_MAX, climb_one, &climb, 0);
	if (!climb.is_at_root && removed->names_bytes < CG_PATH_BYTES)
		return 0;
	removed->event = CG_EVENT_REMOVED;
	removed->id = cgrp->kn->id;
	removed->parent_id = BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id);
	removed->sequence = l->removed;
	removed->at_ns = bpf_ktime_get_boot_ns();
	removed->level = cgrp->level;
	removed->valid = read_groups(l, removed, cgrp);
	names_bytes = removed->names_bytes;
	barrier_var(names_bytes);
	if (names_bytes > CG_PATH_BYTES || !climb.is_at_root ||
	    bpf_ringbuf_output(&events, s, sizeof(*removed) + names_bytes,
			       BPF_RB_NO_WAKEUP)) {
		l->lost++;
		return 0;
	}
	/* Told first: who finds it held finds it told. */
	hold(l, cgrp);
	*(volatile __u64 *)&l->removed = l->removed + 1;
	return 0;
}

/*
 * Nothing: its session takes cgroup_mutex and releases it (kernel/bpf/cgroup_iter.c,
 * cgroup_iter_seq_start and _stop), so a removal that was under way has ended,
 * and with it the program above.
 */
SEC("iter/cgroup")
int pass(struct bpf_iter__cgroup *ctx)
{
	return 0;
}

#endif
