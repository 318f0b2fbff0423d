-- Why: who opens a host's stream does not know which cgroups its last tick had. With the first tick that it stores, those of
-- the host that are there as far as is known, and not in that tick, are found by this and said to be gone.

create index cgroup_present on cgroup (host_id) where last_tick_at is null;
