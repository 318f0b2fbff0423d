-- Why: people, psql and Grafana ask for minutes and hours of a few metrics, over weeks. Computed once, when a window of a
-- host's ticks is compacted, in the transaction that writes its chunks. They may take a quarter of the head's bytes, so:
-- a minute is an element of arrays, in a row per cgroup and hour; what did not change has no element; and a cgroup of which
-- nothing changed in an hour has its row in rollup_hour alone. The views (0009) know all this, and are what others read.
-- Rows have no unique key: the watermark of `compaction` is what makes them exactly once, and an index that may hold equal
-- keys costs a tenth.

-- Partitions are days in UTC.
create table rollup_minute (
    host_id      uuid        not null,
    boot_id      uuid        not null,
    cgroup_id    bigint      not null,
    -- The UTC hour; a minute is a bit of the masks, the first one the lowest.
    from_at      timestamptz not null,
    -- The minutes that have a tick with the cgroup.
    present      bigint      not null,
    -- Of these, the minutes that are elements of the arrays. Of the others each is as the element before it says: gauges stay at
    -- its last, and counters that it has do not grow. The first minute that is present is stored.
    stored       bigint      not null,
    hierarchy_id integer     not null,

    -- An element a stored minute; where all behind are equal, the first of these is the last one written. Null elements were not
    -- measured; null arrays have null elements only. Rates are per second.
    cpu_usage_usec_rate       real[],
    cpu_throttled_usec_rate   real[],
    io_rbytes_rate            real[],
    io_wbytes_rate            real[],
    memory_current_bytes_last real[],
    -- Null if it is no other than last, element by element; so for max, and for pids.
    memory_current_bytes_mean real[],
    memory_current_bytes_max  real[],
    pids_current_last         real[],
    pids_current_mean         real[],
    pids_current_max          real[]
) partition by range (from_at);

create index rollup_minute_by_cgroup on rollup_minute (host_id, hierarchy_id, cgroup_id);

-- Partitions are months in UTC.
create table rollup_hour (
    host_id      uuid        not null,
    boot_id      uuid        not null,
    cgroup_id    bigint      not null,
    from_at      timestamptz not null,
    present      bigint      not null,

    -- What the counter showed at its last tick.
    cpu_usage_usec_last       bigint,
    cpu_throttled_usec_last   bigint,
    io_rbytes_last            bigint,
    io_wbytes_last            bigint,
    -- Per second, over the time between ticks that follow each other and in which it was not reset.
    cpu_usage_usec_rate       real,
    cpu_throttled_usec_rate   real,
    io_rbytes_rate            real,
    io_wbytes_rate            real,
    memory_current_bytes_last real,
    memory_current_bytes_mean real,
    memory_current_bytes_max  real,
    pids_current_last         real,
    pids_current_mean         real,
    pids_current_max          real,

    hierarchy_id integer     not null,
    -- Ticks with the cgroup, and the time that its rates cover.
    tick_count   integer     not null,
    seconds      real        not null,
    -- The same for each metric alone (seconds of the counters, ticks of the gauges, in the order above); null where all that
    -- are present have the row's. With it, a later window of the same hour is added exactly.
    coverage     real[],
    -- Nothing changed: every minute that is present is as the row says, and there is no row in rollup_minute.
    constant     boolean     not null
) partition by range (from_at);

create index rollup_hour_by_cgroup on rollup_hour (host_id, hierarchy_id, cgroup_id);
-- A later window of the same hour is added to the host's rows.
create index rollup_hour_by_hour on rollup_hour (host_id, from_at);

-- Arrays stay in their row: there they are compressed if the row is large, and are read with it.
alter table rollup_minute
    alter column cpu_usage_usec_rate       set storage main,
    alter column cpu_throttled_usec_rate   set storage main,
    alter column io_rbytes_rate            set storage main,
    alter column io_wbytes_rate            set storage main,
    alter column memory_current_bytes_last set storage main,
    alter column memory_current_bytes_mean set storage main,
    alter column memory_current_bytes_max  set storage main,
    alter column pids_current_last         set storage main,
    alter column pids_current_mean         set storage main,
    alter column pids_current_max          set storage main;
