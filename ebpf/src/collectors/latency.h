/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/* What a collector counts that measures how long something takes: enum cg_latency. */
#ifndef CGFLEET_LATENCY_H
#define CGFLEET_LATENCY_H

#define COLLECTOR_WORDS	   CG_LATENCY_WORDS
#define COLLECTOR_MAX_WORD CG_LATENCY_MAX_NS

#include "collector.h"

/* The bucket of a time: its logarithm to the base of 2. */
static __always_inline __u32 bucket_of(__u64 ns)
{
	__u32 low = ns, bucket = 0;

	if (ns >> 32)
		return CG_LATENCY_WORDS - CG_LATENCY_BUCKETS - 1;
#pragma unroll
	for (__u32 step = 16; step > 0; step >>= 1) {
		if (low >> step) {
			low >>= step;
			bucket += step;
		}
	}
	return bucket & 31;
}

static __always_inline void add_latency(struct counts *to, __u64 ns)
{
	add(to, CG_LATENCY_COUNT, 1);
	add(to, CG_LATENCY_TOTAL_NS, ns);
	add(to, CG_LATENCY_BUCKETS + bucket_of(ns), 1);
	raise(to, CG_LATENCY_MAX_NS, ns);
}

#endif
