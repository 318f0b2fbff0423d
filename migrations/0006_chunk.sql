-- Why: rows of `head` are durable at once and cheap to write, and dear to read a cgroup from. Compaction turns a host's ticks
-- of some time (a window: up to a UTC hour, within one boot) into a row per cgroup, whose payload holds each metric as a column.
-- Cgroups that were there for a few ticks share one row of their host, whose cgroup_id is 0: no cgroup has that id.
-- Partitions are days in UTC of first_at.

create table chunk (
    host_id      uuid        not null,
    hierarchy_id integer     not null,
    cgroup_id    bigint      not null,
    boot_id      uuid        not null,
    -- The first and the last tick in the payload.
    first_at     timestamptz not null,
    last_at      timestamptz not null,
    payload      bytea       not null,

    primary key (host_id, hierarchy_id, cgroup_id, first_at)
) partition by range (first_at);

-- Payloads are compressed already.
alter table chunk alter column payload set storage external;

-- How far each host's ticks are compacted: those up to and including compacted_through are read from `chunk`, later ones from
-- `head`. It moves in the transaction that writes the chunks, and only from the value that its writer found: whoever comes
-- second writes nothing. No tick is stored at or before it, for it never passes the cursor's last_tick_at.
create table compaction (
    host_id           uuid        not null primary key,
    compacted_through timestamptz not null
);
