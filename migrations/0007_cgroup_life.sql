-- Why: people ask for pods and units, not for paths, and the dimension must not grow forever: what was removed, and of which
-- no tick is kept any more, can go.

alter table cgroup
    -- When it was made, by the agent's wall clock; null if that was not seen.
    add column created_at     timestamptz,
    -- The last tick that had it, by the server's clock; null while it is there, as far as is known.
    add column last_tick_at   timestamptz,
    add column pod_namespace  text,
    add column pod_name       text,
    add column pod_uid        text,
    add column container_name text,
    add column container_id   text,
    add column runtime        text,
    add column systemd_unit   text,
    add column systemd_slice  text;

create index cgroup_by_last_tick on cgroup (last_tick_at) where last_tick_at is not null;
