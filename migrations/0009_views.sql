-- Why: these two views are what psql, Grafana and other people's programs read: they stay as they are (columns may be added at
-- the end), whatever the tables become. docs/sql.md says what each column means.

-- A row per cgroup and minute that has a tick with it. `hour` is there for conditions, which find partitions by it alone.
create view cgroup_minute as
select r.from_at + make_interval(mins => number) as minute, r.from_at as hour,
       host.hostname, cgroup.path, cgroup.pod_namespace, cgroup.pod_name, cgroup.container_name, cgroup.systemd_unit,
       r.host_id, r.hierarchy_id, r.cgroup_id, r.boot_id,
       ((r.cpu_usage_usec_stored >> number) & 1)::real * r.cpu_usage_usec_rate[place.cpu_usage_usec] as cpu_usage_usec_rate,
       ((r.cpu_throttled_usec_stored >> number) & 1)::real * r.cpu_throttled_usec_rate[place.cpu_throttled_usec] as cpu_throttled_usec_rate,
       ((r.io_rbytes_stored >> number) & 1)::real * r.io_rbytes_rate[place.io_rbytes] as io_rbytes_rate,
       ((r.io_wbytes_stored >> number) & 1)::real * r.io_wbytes_rate[place.io_wbytes] as io_wbytes_rate,
       r.memory_current_bytes_last[place.memory_current_bytes] as memory_current_bytes_last,
       coalesce(case when (r.memory_current_bytes_stored >> number) & 1 = 1 then r.memory_current_bytes_mean[place.memory_current_bytes] end, r.memory_current_bytes_last[place.memory_current_bytes]) as memory_current_bytes_mean,
       coalesce(case when (r.memory_current_bytes_stored >> number) & 1 = 1 then r.memory_current_bytes_max[place.memory_current_bytes] end, r.memory_current_bytes_last[place.memory_current_bytes]) as memory_current_bytes_max,
       r.pids_current_last[place.pids_current] as pids_current_last,
       coalesce(case when (r.pids_current_stored >> number) & 1 = 1 then r.pids_current_mean[place.pids_current] end, r.pids_current_last[place.pids_current]) as pids_current_mean,
       coalesce(case when (r.pids_current_stored >> number) & 1 = 1 then r.pids_current_max[place.pids_current] end, r.pids_current_last[place.pids_current]) as pids_current_max
from rollup_minute as r
cross join lateral (
    select number, (2::bigint << number) - 1 as upto
    from generate_series(0, 59) as number
    where (r.present >> number) & 1 = 1
) as minute
-- Of each metric, which element: that of the last minute up to this one that is stored.
cross join lateral (
    select
           bit_count((r.cpu_usage_usec_stored & upto)::bit(64))::integer as cpu_usage_usec,
           bit_count((r.cpu_throttled_usec_stored & upto)::bit(64))::integer as cpu_throttled_usec,
           bit_count((r.io_rbytes_stored & upto)::bit(64))::integer as io_rbytes,
           bit_count((r.io_wbytes_stored & upto)::bit(64))::integer as io_wbytes,
           bit_count((r.memory_current_bytes_stored & upto)::bit(64))::integer as memory_current_bytes,
           bit_count((r.pids_current_stored & upto)::bit(64))::integer as pids_current
) as place
left join host on host.host_id = r.host_id
left join cgroup on cgroup.host_id = r.host_id and cgroup.hierarchy_id = r.hierarchy_id
                and cgroup.cgroup_id = r.cgroup_id and cgroup.boot_id = r.boot_id
union all
select r.from_at + make_interval(mins => number), r.from_at,
       host.hostname, cgroup.path, cgroup.pod_namespace, cgroup.pod_name, cgroup.container_name, cgroup.systemd_unit,
       r.host_id, r.hierarchy_id, r.cgroup_id, r.boot_id,
       coalesce(r.cpu_usage_usec_rate, case when r.measured & 1 > 0 and coalesce(r.coverage[1], r.seconds) > 0 then 0 end),
       coalesce(r.cpu_throttled_usec_rate, case when r.measured & 2 > 0 and coalesce(r.coverage[2], r.seconds) > 0 then 0 end),
       coalesce(r.io_rbytes_rate, case when r.measured & 4 > 0 and coalesce(r.coverage[3], r.seconds) > 0 then 0 end),
       coalesce(r.io_wbytes_rate, case when r.measured & 8 > 0 and coalesce(r.coverage[4], r.seconds) > 0 then 0 end),
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
       coalesce(r.cpu_usage_usec_rate, case when r.measured & 1 > 0 and coalesce(r.coverage[1], r.seconds) > 0 then 0 end) as cpu_usage_usec_rate,
       coalesce(r.cpu_throttled_usec_rate, case when r.measured & 2 > 0 and coalesce(r.coverage[2], r.seconds) > 0 then 0 end) as cpu_throttled_usec_rate,
       coalesce(r.io_rbytes_rate, case when r.measured & 4 > 0 and coalesce(r.coverage[3], r.seconds) > 0 then 0 end) as io_rbytes_rate,
       coalesce(r.io_wbytes_rate, case when r.measured & 8 > 0 and coalesce(r.coverage[4], r.seconds) > 0 then 0 end) as io_wbytes_rate,
       r.memory_current_bytes_last,
       coalesce(r.memory_current_bytes_mean, r.memory_current_bytes_last) as memory_current_bytes_mean,
       coalesce(r.memory_current_bytes_max, r.memory_current_bytes_last) as memory_current_bytes_max,
       r.pids_current_last,
       coalesce(r.pids_current_mean, r.pids_current_last) as pids_current_mean,
       coalesce(r.pids_current_max, r.pids_current_last) as pids_current_max
from rollup_hour as r
left join host on host.host_id = r.host_id
left join cgroup on cgroup.host_id = r.host_id and cgroup.hierarchy_id = r.hierarchy_id
                and cgroup.cgroup_id = r.cgroup_id and cgroup.boot_id = r.boot_id;
