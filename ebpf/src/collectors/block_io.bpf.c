// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * block_io: how long block requests took, from when the device was given them
 * until they were complete. Charged to the cgroup that the block layer charges:
 * the nearest one with the io controller.
 *
 * A request's way to its cgroup is none that the kernel takes as an argument, so
 * nothing is marked, and the agent folds.
 */
#include "latency.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* Requests under way. */
#define REQUESTS_MAX 8192

#pragma clang attribute push(__attribute__((preserve_access_index)), \
			     apply_to = record)

struct blkcg___of_css {
	struct cgroup_subsys_state css;
};

struct blkcg_gq___of_blkcg {
	struct blkcg___of_css *blkcg;
};

struct bio {
	struct blkcg_gq___of_blkcg *bi_blkg;
};

struct request {
	struct bio *bio;
};

#pragma clang attribute pop

struct issued {
	__u64 at_ns;
	struct cg_key key; /* where it is counted */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, REQUESTS_MAX);
	__type(key, __u64); /* the request's address */
	__type(value, struct issued);
} requests SEC(".maps");

SEC("tp_btf/block_rq_issue")
int BPF_PROG(request_issued, struct request *request)
{
	struct issued issued = {};
	struct cgroup *cgrp;
	__u64 address = (__u64)request;

	/* Of a flush, for example, there is none. */
	cgrp = BPF_CORE_READ(request, bio, bi_blkg, blkcg, css.cgroup);
	if (!cgrp)
		return 0;
	if (!counts_of(cgrp, &issued.key))
		return 0;
	issued.at_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&requests, &address, &issued, BPF_ANY))
		count_loss();
	return 0;
}

/* By then its cgroup may be gone, though hardly: a request keeps its blkg. */
static __always_inline struct counts *counts_at(const struct cg_key *key)
{
	struct own *found = bpf_map_lookup_elem(&own, key);

	return found ? &found->counts : pending_of(key);
}

/* A request that is done in parts is so more than once: the first part counts. */
SEC("tp_btf/block_rq_complete")
int BPF_PROG(request_completed, struct request *request)
{
	__u64 address = (__u64)request;
	struct issued *issued;
	struct counts *to;

	issued = bpf_map_lookup_elem(&requests, &address);
	if (!issued)
		return 0;
	to = counts_at(&issued->key);
	if (!to)
		count_loss();
	else if (!is_stale(issued->at_ns))
		add_latency(to, bpf_ktime_get_ns() - issued->at_ns);
	bpf_map_delete_elem(&requests, &address);
	return 0;
}
