// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * Cgroups as they come and go, where a map cannot hold a reference to one
 * (before 6.2): what is told at a removal is all that will be known.
 */
#include "lifecycle.h"

char _license[] SEC("license") = "Dual MIT/GPL";

static __always_inline void hold(struct cg_lifecycle *l, struct cgroup *cgrp)
{
}
