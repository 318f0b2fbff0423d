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
    hierarchy_id integer     not null,

    -- Of each metric the minutes that are elements of its arrays, and these. Of the others each is as the element before it
    -- says: a gauge stays at its last, and a counter that is there does not grow. The first minute that is present is an element.
    -- Null if the metric was never measured; null elements were not. Rates are per second.
    cpu_usage_usec_stored       bigint,
    cpu_throttled_usec_stored   bigint,
    io_rbytes_stored            bigint,
    io_wbytes_stored            bigint,
    memory_current_bytes_stored bigint,
    pids_current_stored         bigint,
    cpu_usage_usec_rate         real[],
    cpu_throttled_usec_rate     real[],
    io_rbytes_rate              real[],
    io_wbytes_rate              real[],
    memory_current_bytes_last   real[],
    -- Null if it is no other than last, element by element; so for max, and for pids.
    memory_current_bytes_mean   real[],
    memory_current_bytes_max    real[],
    pids_current_last           real[],
    pids_current_mean           real[],
    pids_current_max            real[]
) partition by range (from_at);

create index rollup_minute_by_cgroup on rollup_minute (host_id, cgroup_id);

-- Partitions are months in UTC.
create table rollup_hour (
    host_id      uuid        not null,
    boot_id      uuid        not null,
    cgroup_id    bigint      not null,
    from_at      timestamptz not null,
    present      bigint      not null,

    -- Per second, over the time between ticks that follow each other and in which it was not reset. Null where there is none
    -- such time; and where it is 0, to take no room. What counters showed is in chunks alone.
    cpu_usage_usec_rate       real,
    cpu_throttled_usec_rate   real,
    io_rbytes_rate            real,
    io_wbytes_rate            real,
    memory_current_bytes_last real,
    -- Null if it is last; so for max, and for pids.
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
    -- A bit for each counter that was measured, the first one the lowest.
    measured     smallint    not null,
    -- Nothing changed: every minute that is present is as the row says, and there is no row in rollup_minute.
    constant     boolean     not null
) partition by range (from_at);

create index rollup_hour_by_cgroup on rollup_hour (host_id, cgroup_id);
-- A later window of the same hour is added to the host's rows; and a month is long. Rows come in the order of their hours, so
-- a summary of each few pages is enough.
create index rollup_hour_by_hour on rollup_hour using brin (from_at) with (pages_per_range = 16, autosummarize = on);

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
