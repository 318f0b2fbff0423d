/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * What every collector has: numbers for each cgroup, counted on each CPU by
 * itself, and how they come to be sums over CPUs and subtrees. A collector's file
 * defines COLLECTOR_WORDS, so many numbers it counts, and, if one of them is a
 * maximum and no sum, COLLECTOR_MAX_WORD; then it includes this.
 *
 * own is written by the CPU that counts. totals is what is read: where the kernel
 * lets programs be attached to bpf_rstat_flush, fold() moves there what own has
 * become since, and hands it on to the parent (kernel/cgroup/rstat.c); elsewhere
 * the agent adds own up.
 */
#ifndef CGFLEET_COLLECTOR_H
#define CGFLEET_COLLECTOR_H

#include "../kernel.h"

#include <bpf/bpf_tracing.h>

/* BPF_PROG() gives every program a ctx, and a tracepoint what not all need. */
#pragma clang diagnostic ignored "-Wunused-parameter"

#ifndef COLLECTOR_MAX_WORD
#define COLLECTOR_MAX_WORD COLLECTOR_WORDS
#endif

/* Deeper cgroups are counted at their ancestor of this level. */
#define LEVELS_MAX 32
#define DEPTH_MAX  256
/* Of a host; bpf_loop() ends at those that are there. */
#define CPUS_MAX   8192

#pragma clang attribute push(__attribute__((preserve_access_index)), \
			     apply_to = record)

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	int pid;
	struct css_set *cgroups;
};

#pragma clang attribute pop

/* enum cg_mark: constants for the verifier, set before the programs are loaded. */
const volatile __u32 mark_by = CG_MARK_NONE;

/* Numbers of a cgroup. They only grow. */
struct counts {
	__u64 words[COLLECTOR_WORDS];
};

/* Of one cgroup on one CPU; what of it was folded follows. */
struct own {
	struct counts counts;
	struct counts folded;
};

/* Of one cgroup and all below it. */
struct total {
	__u64 parent_id; /* 0: the root of its hierarchy */
	/* 1: events that are missing here may be counted at an ancestor. */
	__u64 is_partial;
	struct counts counts;
	/*
	 * Not in counts yet: from children, also from those that are gone, and
	 * what had no place of its own.
	 */
	struct counts pending;
};

/*
 * The agent sets the bounds of both. Where a cgroup has a total, so have all above
 * it. That it has no place of its own, though there is room, happens: the kernel
 * has one or two such entries at hand on each CPU (kernel/bpf/memalloc.c,
 * init_refill_work).
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct cg_key);
	__type(value, struct own);
} own SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct cg_key);
	__type(value, struct total);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_collector_state);
} state SEC(".maps");

/* When the agent switched it on, of CLOCK_MONOTONIC. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} on_since_ns SEC(".maps");

/* Too large for the stack. */
struct own no_own;
struct total no_total;

extern struct cgroup *bpf_cgroup_acquire(struct cgroup *cgrp) __ksym __weak;
extern void bpf_cgroup_release(struct cgroup *cgrp) __ksym __weak;
extern void css_rstat_updated(struct cgroup_subsys_state *css,
			      int cpu) __ksym __weak;
extern void cgroup_rstat_updated(struct cgroup *cgrp, int cpu) __ksym __weak;

static __always_inline struct cg_collector_state *the_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&state, &zero);
}

/* An event of the cgroup with this serial is counted at an ancestor. */
static __always_inline void count_drop(__u64 serial)
{
	struct cg_collector_state *s = the_state();

	if (!s)
		return;
	if (serial > s->dropped_serial)
		s->dropped_serial = serial;
	__sync_fetch_and_add(&s->dropped_events, 1);
}

/* An event is counted nowhere. */
static __always_inline void count_loss(void)
{
	struct cg_collector_state *s = the_state();

	if (s)
		__sync_fetch_and_add(&s->lost_events, 1);
}

/* Whether something began before the collector was switched on. */
static __always_inline bool is_stale(__u64 began_ns)
{
	__u32 zero = 0;
	__u64 *since = bpf_map_lookup_elem(&on_since_ns, &zero);

	return !since || began_ns < *since;
}

static __always_inline void count_cgroup(void)
{
	struct cg_collector_state *s = the_state();
	__u64 cgroups;

	if (!s)
		return;
	cgroups = __sync_fetch_and_add(&s->cgroups, 1) + 1;
	if (cgroups > s->cgroups_peak)
		s->cgroups_peak = cgroups;
}

/* Gives a cgroup a total; false if there is no room. */
static __noinline bool admit_one(const struct cg_key *key, __u64 parent_id,
				 __u64 serial)
{
	struct cg_collector_state *s = the_state();
	struct total *total;

	if (bpf_map_lookup_elem(&totals, key))
		return true;
	if (!bpf_map_update_elem(&totals, key, &no_total, BPF_NOEXIST))
		count_cgroup();
	/* Another CPU may have been first. */
	total = bpf_map_lookup_elem(&totals, key);
	if (!total)
		return false;
	total->parent_id = parent_id;
	/* Cgroups that were made later have no event that was dropped. */
	total->is_partial =
		s && s->dropped_events && serial <= s->dropped_serial;
	return true;
}

/*
 * Gives a cgroup and all above it their totals, from the root downward, so that
 * nothing is counted where its sum could not go up. In key is then the lowest of
 * them that has one; false if none has.
 */
static __always_inline bool admit(struct cgroup *cgrp, struct cg_key *key)
{
	__u32 level = BPF_CORE_READ(cgrp, level), at;
	__u64 serial = BPF_CORE_READ(cgrp, self.serial_nr);
	struct cgroup_subsys_state *css;
	__u64 ids[LEVELS_MAX] = {};
	__u64 parent_id = 0;
	bool is_any = false;

	css = (void *)cgrp + bpf_core_field_offset(struct cgroup, self);
	for (at = 0; at < DEPTH_MAX && level >= LEVELS_MAX; at++) {
		css = BPF_CORE_READ(css, parent);
		level--;
	}
	/* Deeper than that, and none of these is the root. */
	if (level >= LEVELS_MAX)
		return false;
	/* Unrolled: verifiers lose count of where in an array a loop is. */
#pragma unroll
	for (__u32 up = 0; up < LEVELS_MAX; up++) {
		if (css) {
			ids[up] = BPF_CORE_READ(css, cgroup, kn, id);
			css = BPF_CORE_READ(css, parent);
		}
	}
#pragma unroll
	for (__u32 down = LEVELS_MAX; down > 0; down--) {
		struct cg_key place = { .id = ids[down - 1],
					.hierarchy_id = key->hierarchy_id };

		if (!place.id)
			continue;
		/* Of those above it is known only that they are older. */
		if (!admit_one(&place, parent_id, down == 1 ? serial : 0))
			break;
		key->id = place.id;
		parent_id = place.id;
		is_any = true;
	}
	return is_any;
}

static __always_inline void key_of(struct cgroup *cgrp, struct cg_key *key)
{
	key->id = BPF_CORE_READ(cgrp, kn, id);
	key->hierarchy_id = BPF_CORE_READ(cgrp, root, hierarchy_id);
	key->padding = 0;
}

static __always_inline struct counts *pending_of(const struct cg_key *key)
{
	struct total *total = bpf_map_lookup_elem(&totals, key);

	if (!total)
		return NULL;
	/* So that it is not made of what may be NULL, which the verifier minds. */
	barrier_var(total);
	return &total->pending;
}

/*
 * Where this CPU counts an event of a cgroup: in its own place, or in what its
 * total has pending, or, without room for that, in what that of its nearest
 * ancestor has, so that the sums above are right. In key is then whose it is.
 */
static __always_inline struct counts *counts_of(struct cgroup *cgrp,
						struct cg_key *key)
{
	struct own *found;
	__u64 id;

	key_of(cgrp, key);
	found = bpf_map_lookup_elem(&own, key);
	if (found)
		return &found->counts;
	id = key->id;
	if (!admit(cgrp, key)) {
		count_loss();
		return NULL;
	}
	if (key->id == id) {
		bpf_map_update_elem(&own, key, &no_own, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&own, key);
		if (found)
			return &found->counts;
	} else {
		count_drop(BPF_CORE_READ(cgrp, self.serial_nr));
	}
	return pending_of(key);
}

/* What counts may be preempted by what counts, and totals are shared by CPUs. */
static __always_inline void add(struct counts *to, __u32 word, __u64 number)
{
	__sync_fetch_and_add(&to->words[word], number);
}

/* Not exact where CPUs share it, and then too small. */
static __always_inline void raise(struct counts *to, __u32 word, __u64 number)
{
	if (number > to->words[word])
		to->words[word] = number;
}

static __always_inline void rstat_updated(struct cgroup *cgrp, int cpu)
{
	if (bpf_ksym_exists(css_rstat_updated))
		css_rstat_updated(&cgrp->self, cpu);
	else if (bpf_ksym_exists(cgroup_rstat_updated))
		cgroup_rstat_updated(cgrp, cpu);
}

/* Says that this CPU has counted something, here and so above. */
static __always_inline void mark_updated(struct cgroup *cgrp)
{
	int cpu = bpf_get_smp_processor_id();

	if (mark_by == CG_MARK_ACQUIRED) {
		cgrp = bpf_cgroup_acquire(cgrp);
		if (!cgrp)
			return;
		rstat_updated(cgrp, cpu);
		bpf_cgroup_release(cgrp);
	} else if (mark_by == CG_MARK_POINTER) {
		rstat_updated(cgrp, cpu);
	}
}

/* What was counted and not taken before: nothing is taken twice, by whomever. */
static __always_inline __u64 take(struct own *from, __u32 word)
{
	__u64 now = *(volatile __u64 *)&from->counts.words[word];

	return now - __sync_lock_test_and_set(&from->folded.words[word], now);
}

static __always_inline __u64 take_pending(struct total *total, __u32 word)
{
	return __sync_lock_test_and_set(&total->pending.words[word], 0);
}

struct moving {
	struct cg_key from;
	struct cg_key to;
};

/* Moves what one CPU counted in a cgroup, and was not folded, to another's total. */
static long move_cpu(__u32 cpu, struct moving *moving)
{
	struct total *to;
	struct own *from;
	__u32 word;

	from = bpf_map_lookup_percpu_elem(&own, &moving->from, cpu);
	to = bpf_map_lookup_elem(&totals, &moving->to);
	if (!from || !to)
		return 1;
	for (word = 0; word < COLLECTOR_WORDS; word++) {
		if (word == COLLECTOR_MAX_WORD)
			raise(&to->pending, word, from->counts.words[word]);
		else
			add(&to->pending, word, take(from, word));
	}
	return 0;
}

/*
 * A cgroup is freed, after those below it (kernel/cgroup/cgroup.c,
 * css_release_work_fn): its places are given back, and what its parent has not
 * been handed is handed to it. The flush that follows finds nothing.
 */
SEC("tp_btf/cgroup_release")
int BPF_PROG(release, struct cgroup *cgrp, const char *path)
{
	struct cg_collector_state *s = the_state();
	struct total *total, *parent;
	struct moving moving = {};
	__u32 word;

	key_of(cgrp, &moving.from);
	total = bpf_map_lookup_elem(&totals, &moving.from);
	if (!total)
		return 0;
	moving.to = moving.from;
	moving.to.id = total->parent_id;
	bpf_loop(CPUS_MAX, move_cpu, &moving, 0);
	parent = bpf_map_lookup_elem(&totals, &moving.to);
	for (word = 0; parent && word < COLLECTOR_WORDS; word++) {
		if (word == COLLECTOR_MAX_WORD)
			raise(&parent->pending, word,
			      total->pending.words[word]);
		else
			add(&parent->pending, word, take_pending(total, word));
	}
	bpf_map_delete_elem(&own, &moving.from);
	if (!bpf_map_delete_elem(&totals, &moving.from) && s)
		__sync_fetch_and_add(&s->cgroups, -1);
	return 0;
}

#ifdef COLLECTOR_FOLDS

/* What a root hands on, to nobody. */
struct total no_parent;

/* What became of a word, to its sum and to what the parent is handed. */
static __always_inline void fold_word(struct total *total, struct total *parent,
				      struct own *from, __u32 word)
{
	__u64 delta = take_pending(total, word) + take(from, word);

	total->counts.words[word] += delta;
	add(&parent->pending, word, delta);
}

static __always_inline void fold_max(struct total *total, struct total *parent,
				     const struct own *from, __u32 word)
{
	raise(&total->counts, word, total->pending.words[word]);
	raise(&total->counts, word, from->counts.words[word]);
	raise(&parent->pending, word, total->counts.words[word]);
}

/* Called for each cgroup and CPU that was marked, children first, locked. */
SEC("fentry/bpf_rstat_flush")
int BPF_PROG(fold, struct cgroup *cgrp, struct cgroup *parent, int cpu)
{
	struct total *total, *above = NULL;
	struct cg_key key;
	struct own *from;
	__u32 word;

	key_of(cgrp, &key);
	total = bpf_map_lookup_elem(&totals, &key);
	if (!total)
		return 0;
	from = bpf_map_lookup_percpu_elem(&own, &key, cpu);
	if (parent) {
		key.id = total->parent_id;
		above = bpf_map_lookup_elem(&totals, &key);
	}
	/* It stays empty. */
	if (!from)
		from = &no_own;
	if (!above)
		above = &no_parent;
	for (word = 0; word < COLLECTOR_WORDS; word++) {
		if (word == COLLECTOR_MAX_WORD)
			fold_max(total, above, from, word);
		else
			fold_word(total, above, from, word);
	}
	return 0;
}

#endif

#endif
