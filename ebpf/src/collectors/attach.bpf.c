// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * attach: processes and threads that were moved into a cgroup. A fork begins
 * where its parent is, and is not counted.
 */
#define COLLECTOR_WORDS 1 /* the count */
#define COLLECTOR_FOLDS
#include "collector.h"

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(attached, struct cgroup *cgrp)
{
	struct cg_key key;
	struct counts *to = counts_of(cgrp, &key);

	if (!to)
		return 0;
	add(to, 0, 1);
	mark_updated(cgrp);
	return 0;
}
