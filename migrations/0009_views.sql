-- Why: these two views are what psql, Grafana and other people's programs read: they stay as they are (columns may be added at
-- the end), whatever the tables become. docs/sql.md says what each column means.

-- A row per cgroup and minute that has a tick with it. `hour` is there for conditions, which find partitions by it alone.
create view cgroup_minute as
select r.from_at + make_interval(mins => minute.number) as minute, r.from_at as hour,
       host.hostname, cgroup.path, cgroup.pod_namespace, cgroup.pod_name, cgroup.container_name, cgroup.systemd_unit,
       r.host_id, r.hierarchy_id, r.cgroup_id, r.boot_id,
       minute.grown * r.cpu_usage_usec_rate[least(minute.place, cardinality(r.cpu_usage_usec_rate))] as cpu_usage_usec_rate,
       minute.grown * r.cpu_throttled_usec_rate[least(minute.place, cardinality(r.cpu_throttled_usec_rate))] as cpu_throttled_usec_rate,
       minute.grown * r.io_rbytes_rate[least(minute.place, cardinality(r.io_rbytes_rate))] as io_rbytes_rate,
       minute.grown * r.io_wbytes_rate[least(minute.place, cardinality(r.io_wbytes_rate))] as io_wbytes_rate,
       r.memory_current_bytes_last[least(minute.place, cardinality(r.memory_current_bytes_last))] as memory_current_bytes_last,
       coalesce(case when minute.stored then r.memory_current_bytes_mean[least(minute.place, cardinality(r.memory_current_bytes_mean))] end, r.memory_current_bytes_last[least(minute.place, cardinality(r.memory_current_bytes_last))]) as memory_current_bytes_mean,
       coalesce(case when minute.stored then r.memory_current_bytes_max[least(minute.place, cardinality(r.memory_current_bytes_max))] end, r.memory_current_bytes_last[least(minute.place, cardinality(r.memory_current_bytes_last))]) as memory_current_bytes_max,
       r.pids_current_last[least(minute.place, cardinality(r.pids_current_last))] as pids_current_last,
       coalesce(case when minute.stored then r.pids_current_mean[least(minute.place, cardinality(r.pids_current_mean))] end, r.pids_current_last[least(minute.place, cardinality(r.pids_current_last))]) as pids_current_mean,
       coalesce(case when minute.stored then r.pids_current_max[least(minute.place, cardinality(r.pids_current_max))] end, r.pids_current_last[least(minute.place, cardinality(r.pids_current_last))]) as pids_current_max
from rollup_minute as r
cross join lateral (
    select number,
           (r.stored >> number) & 1 = 1 as stored,
           -- Counters do not grow in the others.
           ((r.stored >> number) & 1)::real as grown,
           -- Which element: the one of the last minute up to this one that is stored.
           bit_count((r.stored & ((2::bigint << number) - 1))::bit(64))::integer as place
    from generate_series(0, 59) as number
    where (r.present >> number) & 1 = 1
) as minute
left join host on host.host_id = r.host_id
left join cgroup on cgroup.host_id = r.host_id and cgroup.hierarchy_id = r.hierarchy_id
                and cgroup.cgroup_id = r.cgroup_id and cgroup.boot_id = r.boot_id
union all
select r.from_at + make_interval(mins => number), r.from_at,
       host.hostname, cgroup.path, cgroup.pod_namespace, cgroup.pod_name, cgroup.container_name, cgroup.systemd_unit,
       r.host_id, r.hierarchy_id, r.cgroup_id, r.boot_id,
       r.cpu_usage_usec_rate,
       r.cpu_throttled_usec_rate,
       r.io_rbytes_rate,
       r.io_wbytes_rate,
       r.memory_current_bytes_last,
       r.memory_current_bytes_last,
       r.memory_current_bytes_last,
       r.pids_current_last,
       r.pids_current_last,
       r.pids_current_last
from rollup_hour as r
cross join generate_series(0, 59) as number
left join host on host.host_id = r.host_id
left join cgroup on cgroup.host_id = r.host_id and cgroup.hierarchy_id = r.hierarchy_id
                and cgroup.cgroup_id = r.cgroup_id and cgroup.boot_id = r.boot_id
where r.constant and (r.present >> number) & 1 = 1;

-- A row per cgroup and hour that has a tick with it.
create view cgroup_hour as
select r.from_at as hour,
       host.hostname, cgroup.path, cgroup.pod_namespace, cgroup.pod_name, cgroup.container_name, cgroup.systemd_unit,
       r.host_id, r.hierarchy_id, r.cgroup_id, r.boot_id,
       bit_count(r.present::bit(64))::integer as minutes, r.tick_count as ticks,
       r.cpu_usage_usec_last,
       r.cpu_usage_usec_rate,
       r.cpu_throttled_usec_last,
       r.cpu_throttled_usec_rate,
       r.io_rbytes_last,
       r.io_rbytes_rate,
       r.io_wbytes_last,
       r.io_wbytes_rate,
       r.memory_current_bytes_last,
       r.memory_current_bytes_mean,
       r.memory_current_bytes_max,
       r.pids_current_last,
       r.pids_current_mean,
       r.pids_current_max
from rollup_hour as r
left join host on host.host_id = r.host_id
left join cgroup on cgroup.host_id = r.host_id and cgroup.hierarchy_id = r.hierarchy_id
                and cgroup.cgroup_id = r.cgroup_id and cgroup.boot_id = r.boot_id;
