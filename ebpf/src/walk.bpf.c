// SPDX-License-Identifier: (GPL-2.0-only OR MIT OR Apache-2.0)
/*
 * Walks: cgroup iterator programs that write fixed records to an mmapable
 * array. Nothing goes to the seq_file, whose buffer ends a walk at 32 KiB
 * (kernel/bpf/bpf_iter.c, bpf_seq_read).
 *
 * A walk begins with one session of a flush (control.h); then one of the engines
 * visits and records. Both engines share the maps, so they are one object.
 */
#include "flush.h"
#include "locked.h"
#include "unlocked.h"

char _license[] SEC("license") = "Dual MIT/GPL";
