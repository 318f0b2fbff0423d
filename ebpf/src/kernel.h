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

struct cgroup {
	struct cgroup_subsys_state self;
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	struct cgroup_base_stat bstat;
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
