/* SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0) */
/*
 * The flush under cgroup_mutex, which every kernel with the iterator can do.
 */
#ifndef CGFLEET_FLUSH_H
#define CGFLEET_FLUSH_H

#include "control.h"

SEC("iter.s/cgroup")
int flush_locked(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgrp = ctx->cgroup;
	struct cg_walk *w = the_walk();
	__u64 now;

	if (!w)
		return 0;
	now = bpf_ktime_get_ns();
	if (!cgrp) {
		if (w->first_visit_ns)
			w->flush_mutex_held_ns = now - w->first_visit_ns;
		return 0;
	}
	if (!w->first_visit_ns)
		w->first_visit_ns = now;
	w->visited++;
	if (!is_topmost(w, cgrp))
		return 0;
	if (!is_flush_needed(w, cgrp))
		return 1;
	rstat_flush(cgrp);
	w->flush_ns = bpf_ktime_get_ns() - now;
	w->flushed_id = cgrp->kn->id;
	w->flushed_serial = cgrp->self.serial_nr;
	return 1;
}

#endif
