/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * Block I/O: a cgroup's total, and the same by device.
 */
#ifndef CGFLEET_IO_H
#define CGFLEET_IO_H

#include "control.h"

/* More of the cgroups, at the places of their records. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_details);
} details SEC(".maps");

/* A walk that fills it ends as one that fills the records does. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cg_io_device);
} io_devices SEC(".maps");

static __always_inline bool is_idle(const __u64 *words)
{
	return !(words[0] | words[1] | words[2] | words[3] | words[4] |
		 words[5]);
}

static __always_inline void record_io_device(struct cg_walk *w, __u32 slot,
					     struct blkcg_gq *blkg,
					     const __u64 *words)
{
	struct cg_io_device *device;
	__u32 at = w->io_devices;

	device = bpf_map_lookup_elem(&io_devices, &at);
	if (!device || at >= w->io_devices_max)
		return;
	device->slot = slot;
	device->major = BPF_CORE_READ(blkg, q, disk, major);
	device->minor = BPF_CORE_READ(blkg, q, disk, first_minor);
	__builtin_memcpy(device->words, words, sizeof(device->words));
	w->io_devices = at + 1;
}

/*
 * Of v2 below the root: the root's comes from the disks, and v1 keeps it elsewhere
 * (block/blk-cgroup.c, blk_cgroup_bio_start). A cgroup has few devices or none, and
 * most cgroups none.
 */
__noinline __u32 record_io(__u32 slot)
{
	struct cg_walk *w = the_walk();
	struct cg_details *detail;
	struct hlist_node *node;
	struct blkcg *blkcg = NULL;
	struct blkcg_gq *blkg;
	__u64 words[6];

	detail = bpf_map_lookup_elem(&details, &slot);
	if (!w || !detail)
		return 0;
	if (!bpf_core_field_exists(blkcg->blkg_list))
		return 0;
	blkcg = (void *)w->io_css;
	__builtin_memset(&detail->words[CG_IO_RBYTES], 0, sizeof(words));
	node = BPF_CORE_READ(blkcg, blkg_list.first);
	for (int i = 0; i < CG_IO_DEVICES_MAX && node; i++) {
		blkg = (void *)node -
		       bpf_core_field_offset(struct blkcg_gq, blkcg_node);
		bpf_core_read(words, sizeof(words), &blkg->iostat.cur);
		node = BPF_CORE_READ(node, next);
		/* The file shows none of a disk that is gone. */
		if (is_idle(words) || !BPF_CORE_READ(blkg, q, disk))
			continue;
		for (int word = 0; word < 6; word++)
			detail->words[CG_IO_RBYTES + word] += words[word];
		record_io_device(w, slot, blkg, words);
	}
	/* Half a sum is none. */
	return node ? 0 : CG_GROUP_IO;
}

#endif
