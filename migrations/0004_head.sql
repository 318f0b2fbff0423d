-- Why: the durable form of a tick is one row, and not one row per cgroup: a payload that holds every cgroup (keyframe) or
-- what changed since the tick before it. Only the server's store can read a payload. Partitions are days in UTC, made ahead by the store, so that old ticks leave by dropping a table.

create table head (
    host_id      uuid        not null,
    -- The tick by the server's clock; the only time that orders ticks.
    tick_at      timestamptz not null,
    agent_epoch  uuid        not null,
    sequence     bigint      not null,
    boot_id      uuid        not null,
    -- The agent's wall clock, which may be wrong.
    sampled_at   timestamptz not null,
    keyframe     boolean     not null,
    cgroup_count integer     not null,
    payload      bytea       not null,

    primary key (host_id, tick_at)
) partition by range (tick_at);

-- Payloads are compressed already.
alter table head alter column payload set storage external;
