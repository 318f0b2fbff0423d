/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The few kernel types that the programs read, with only the fields they use.
 * CO-RE relocates every access against the running kernel's BTF, so neither
 * order nor size matters here, and the build needs no vmlinux.h.
 */
#ifndef CGFLEET_KERNEL_H
#define CGFLEET_KERNEL_H

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "cgfleet.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), \
			     apply_to = record)

struct kernfs_node {
	const char *name;
	unsigned int hash;
	__u64 id;
};

struct cgroup;

struct list_head {
	struct list_head *next;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct list_head
		sibling; /* among the parent's children, by serial_nr */
	struct list_head children;
	unsigned int flags;
	__u64 serial_nr;
	struct cgroup_subsys_state *parent;
	int nr_populated_csets; /* here in 7.3, in struct cgroup up to 6.18 */
};

/* The flags are an enum without a name, which CO-RE cannot look up. */
#define CSS_ONLINE (1 << 1) /* include/linux/cgroup-defs.h, since 3.12 */

struct cgroup_root {
	int hierarchy_id;
};

struct task_cputime {
	unsigned long long sum_exec_runtime;
};

struct cgroup_base_stat {
	struct task_cputime cputime;
};

/* Of one CPU: what it counted, and what of that was flushed. */
struct cgroup_rstat_cpu {
	struct cgroup_base_stat bstat;
	struct cgroup_base_stat last_bstat;
};

/* The same from 6.16 on. */
struct cgroup_rstat_base_cpu {
	struct cgroup_base_stat bstat;
	struct cgroup_base_stat last_bstat;
};

/* Which of these a kernel has, and at which number, is asked of its BTF. */
enum cgroup_subsys_id {
	cpu_cgrp_id = 1,
	memory_cgrp_id,
	io_cgrp_id,
	pids_cgrp_id,
};

struct psi_group {
	bool enabled;
	__u64 total[6]; /* of the first aggregator, PSI_AVGS */
};

struct cgroup {
	struct cgroup_subsys_state self;
	unsigned long flags;
	int level;
	int nr_descendants;
	int nr_dying_descendants;
	int nr_populated_csets;
	int nr_populated_domain_children;
	int nr_populated_threaded_children;
	struct kernfs_node *kn;
	struct cgroup_subsys_state *subsys[1]; /* by enum cgroup_subsys_id */
	struct cgroup_root *root;
	struct cgroup_rstat_cpu *rstat_cpu; /* per CPU, up to 6.15 */
	struct cgroup_rstat_base_cpu *rstat_base_cpu;
	struct cgroup_base_stat bstat;
	struct psi_group *psi;
};

/* An enum without a name too: include/linux/cgroup-defs.h, since 5.2. */
#define CGRP_FROZEN 3

struct cfs_bandwidth {
	int nr_periods;
	int nr_throttled;
	__u64 throttled_time;
};

struct task_group {
	struct cfs_bandwidth cfs_bandwidth;
};

typedef struct {
	long counter;
} atomic_long_t;

struct page_counter {
	atomic_long_t usage;
	unsigned long watermark;
	unsigned long min;
	unsigned long low;
	unsigned long high;
	unsigned long max;
};

struct memcg_vmstats {
	long state[1];
	unsigned long events[1];
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	struct page_counter swap;
	struct memcg_vmstats *vmstats;
	atomic_long_t memory_events[6]; /* by enum memcg_memory_event */
	atomic_long_t memory_events_local[6];
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct pids_cgroup {
	atomic64_t counter;
	atomic64_t limit;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct gendisk {
	int major;
	int first_minor;
};

struct request_queue {
	struct gendisk *disk;
};

struct blkg_iostat {
	__u64 bytes[3]; /* read, write, discard */
	__u64 ios[3];
};

struct blkg_iostat_set {
	struct blkg_iostat cur;
};

struct blkcg_gq {
	struct request_queue *q;
	struct hlist_node blkcg_node;
	struct blkg_iostat_set iostat;
};

struct blkcg {
	struct hlist_head blkg_list;
};

struct bpf_iter_meta;

struct bpf_iter__cgroup {
	struct bpf_iter_meta *meta;
	struct cgroup *cgroup;
};

#pragma clang attribute pop

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

/*
 * Reads a chain of pointers: with loads that the verifier knows the types of,
 * or, where it does not, with a helper for each. probed is a constant.
 */
#define READ(probed, src, a, ...)                        \
	((probed) ? BPF_CORE_READ(src, a, ##__VA_ARGS__) \
		  : ___arrow(src, a, ##__VA_ARGS__))

/* An address as a struct that READ() can go on from. */
#define AT(probed, type, address)                              \
	((probed) ? (type *)(address)                          \
		  : (type *)bpf_rdonly_cast((void *)(address), \
					    bpf_core_type_id_kernel(type)))

/* Newer libbpf headers have it; the agent makes it a constant before loading. */
#ifndef bpf_ksym_exists
#define bpf_ksym_exists(sym) (!!(sym))
#endif

/*
 * rstat's kfuncs were renamed in 6.16 (kernel/cgroup/rstat.c); the agent binds
 * whichever the running kernel has and the verifier prunes the other branch.
 */
extern void css_rstat_flush(struct cgroup_subsys_state *css) __ksym __weak;
extern void cgroup_rstat_flush(struct cgroup *cgrp) __ksym __weak;

static __always_inline void rstat_flush(struct cgroup *cgrp)
{
	if (bpf_ksym_exists(css_rstat_flush))
		css_rstat_flush(&cgrp->self);
	else if (bpf_ksym_exists(cgroup_rstat_flush))
		cgroup_rstat_flush(cgrp);
}

#endif
