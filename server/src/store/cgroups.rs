//! The dimension: what each cgroup is, what runs in it, and from which tick to which it was there.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use cgfleet_proto::v1::Workload;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{CgroupIdentity, GoneCgroup, TickRow, codec::CgroupKey, timestamp::to_timestamptz};

/// A row's primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RowKey {
    host_id: Uuid,
    key: CgroupKey,
    boot_id: Uuid,
}

/// Keys as columns.
#[derive(Debug, Default)]
struct Keys {
    host_ids: Vec<Uuid>,
    hierarchy_ids: Vec<i32>,
    cgroup_ids: Vec<i64>,
    boot_ids: Vec<Uuid>,
}

/// What ticks, in their order, say of cgroups.
#[derive(Debug, Default)]
struct Notes<'a> {
    /// Hosts of which all else is gone, since this tick.
    fresh: Vec<(Uuid, SystemTime)>,
    /// The first tick of each.
    new: Vec<(RowKey, &'a CgroupIdentity, SystemTime)>,
    named: HashMap<RowKey, &'a Workload>,
    gone: HashMap<RowKey, GoneCgroup>,
}

/// Writes what these ticks say. A tick that was built upon nothing is the first of its host.
pub(super) async fn note(connection: &mut PgConnection, rows: &[&TickRow]) -> Result<(), sqlx::Error> {
    let notes = Notes::of(rows);
    let new_keys: Keys = notes.new.iter().map(|(key, ..)| *key).collect();
    if !notes.fresh.is_empty() {
        end_others(connection, &notes.fresh, &new_keys).await?;
    }
    if !notes.new.is_empty() {
        insert(connection, &notes.new, new_keys).await?;
    }
    if !notes.named.is_empty() {
        set_names(connection, &notes.named).await?;
    }
    if !notes.gone.is_empty() {
        set_gone(connection, &notes.gone).await?;
    }
    Ok(())
}

impl<'a> Notes<'a> {
    fn of(rows: &[&'a TickRow]) -> Self {
        let mut notes = Self::default();
        let mut met = HashSet::new();
        for row in rows {
            let row_key = |key| RowKey { host_id: row.host_id, key, boot_id: row.boot_id };
            notes
                .fresh
                .extend(row.follows.filter(|_| row.is_fresh).map(|last| (row.host_id, last.last_tick_at)));
            for cgroup in &row.new_cgroups {
                let key = row_key(cgroup.key);
                // One that was missing for a tick is there again.
                notes.gone.remove(&key);
                if met.insert(key) {
                    notes.new.push((key, cgroup, row.tick_at));
                }
            }
            notes.named.extend(row.names.iter().map(|(key, workload)| (row_key(*key), workload)));
            notes.gone.extend(row.gone.iter().map(|gone| (row_key(gone.key), *gone)));
        }
        notes
    }
}

impl FromIterator<RowKey> for Keys {
    fn from_iter<I: IntoIterator<Item = RowKey>>(keys: I) -> Self {
        let mut columns = Self::default();
        for RowKey { host_id, key, boot_id } in keys {
            columns.host_ids.push(host_id);
            columns.hierarchy_ids.push(key.hierarchy_id.cast_signed());
            columns.cgroup_ids.push(key.cgroup_id.cast_signed());
            columns.boot_ids.push(boot_id);
        }
        columns
    }
}

/// Of hosts whose last tick nobody holds: what is not in the next one was last in that.
async fn end_others(
    connection: &mut PgConnection,
    fresh: &[(Uuid, SystemTime)],
    present: &Keys,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update cgroup
         set last_tick_at = fresh.last_tick_at
         from unnest($1::uuid[], $2::timestamptz[]) as fresh (host_id, last_tick_at)
         where cgroup.host_id = fresh.host_id and cgroup.last_tick_at is null
           and not exists (
               select from unnest($3::uuid[], $4::integer[], $5::bigint[], $6::uuid[])
                   as present (host_id, hierarchy_id, cgroup_id, boot_id)
               where (present.host_id, present.hierarchy_id, present.cgroup_id, present.boot_id)
                   = (cgroup.host_id, cgroup.hierarchy_id, cgroup.cgroup_id, cgroup.boot_id))",
    )
    .bind(fresh.iter().map(|(host_id, _)| *host_id).collect::<Vec<_>>())
    .bind(fresh.iter().map(|(_, last_tick_at)| to_timestamptz(*last_tick_at)).collect::<Vec<_>>())
    .bind(&present.host_ids)
    .bind(&present.hierarchy_ids)
    .bind(&present.cgroup_ids)
    .bind(&present.boot_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes cgroups that are not known yet: after a stream was opened, all of them look new.
async fn insert(
    connection: &mut PgConnection,
    new: &[(RowKey, &CgroupIdentity, SystemTime)],
    keys: Keys,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into cgroup
             (host_id, hierarchy_id, cgroup_id, boot_id, parent_id, level, path, first_tick_at)
         select * from unnest($1::uuid[], $2::integer[], $3::bigint[], $4::uuid[], $5::bigint[],
                              $6::integer[], $7::text[], $8::timestamptz[])
         on conflict (host_id, hierarchy_id, cgroup_id, boot_id)
             do update set last_tick_at = null
             where cgroup.last_tick_at is not null",
    )
    .bind(keys.host_ids)
    .bind(keys.hierarchy_ids)
    .bind(keys.cgroup_ids)
    .bind(keys.boot_ids)
    .bind(new.iter().map(|(_, cgroup, _)| cgroup.parent_id.cast_signed()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup, _)| cgroup.level.cast_signed()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, cgroup, _)| cgroup.path.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|(.., tick_at)| to_timestamptz(*tick_at)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes what runs in cgroups, where that is not what is known.
async fn set_names(
    connection: &mut PgConnection,
    named: &HashMap<RowKey, &Workload>,
) -> Result<(), sqlx::Error> {
    let (keys, workloads): (Vec<RowKey>, Vec<&Workload>) = named.iter().map(|(key, of)| (*key, *of)).unzip();
    let keys: Keys = keys.into_iter().collect();
    let column = |of: fn(&Workload) -> &str| -> Vec<Option<&str>> {
        let text = |workload| Some(of(workload)).filter(|text| !text.is_empty());
        workloads.iter().copied().map(text).collect()
    };
    sqlx::query(
        "update cgroup
         set pod_namespace = named.pod_namespace, pod_name = named.pod_name, pod_uid = named.pod_uid,
             container_name = named.container_name, container_id = named.container_id,
             runtime = named.runtime, systemd_unit = named.systemd_unit, systemd_slice = named.systemd_slice
         from unnest($1::uuid[], $2::integer[], $3::bigint[], $4::uuid[], $5::text[], $6::text[],
                     $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[])
             as named (host_id, hierarchy_id, cgroup_id, boot_id, pod_namespace, pod_name, pod_uid,
                       container_name, container_id, runtime, systemd_unit, systemd_slice)
         where (cgroup.host_id, cgroup.hierarchy_id, cgroup.cgroup_id, cgroup.boot_id)
             = (named.host_id, named.hierarchy_id, named.cgroup_id, named.boot_id)
           and (cgroup.pod_namespace, cgroup.pod_name, cgroup.pod_uid, cgroup.container_name,
                cgroup.container_id, cgroup.runtime, cgroup.systemd_unit, cgroup.systemd_slice)
             is distinct from
               (named.pod_namespace, named.pod_name, named.pod_uid, named.container_name,
                named.container_id, named.runtime, named.systemd_unit, named.systemd_slice)",
    )
    .bind(keys.host_ids)
    .bind(keys.hierarchy_ids)
    .bind(keys.cgroup_ids)
    .bind(keys.boot_ids)
    .bind(column(|workload| &workload.pod_namespace))
    .bind(column(|workload| &workload.pod_name))
    .bind(column(|workload| &workload.pod_uid))
    .bind(column(|workload| &workload.container_name))
    .bind(column(|workload| &workload.container_id))
    .bind(column(|workload| &workload.runtime))
    .bind(column(|workload| &workload.systemd_unit))
    .bind(column(|workload| &workload.systemd_slice))
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes which cgroups are gone, and when they were made, where that was seen.
async fn set_gone(
    connection: &mut PgConnection,
    gone: &HashMap<RowKey, GoneCgroup>,
) -> Result<(), sqlx::Error> {
    let (keys, gone): (Vec<RowKey>, Vec<GoneCgroup>) = gone.iter().map(|(key, gone)| (*key, *gone)).unzip();
    let keys: Keys = keys.into_iter().collect();
    sqlx::query(
        "update cgroup
         set last_tick_at = gone.last_tick_at, created_at = coalesce(gone.created_at, cgroup.created_at)
         from unnest($1::uuid[], $2::integer[], $3::bigint[], $4::uuid[], $5::timestamptz[],
                     $6::timestamptz[])
             as gone (host_id, hierarchy_id, cgroup_id, boot_id, created_at, last_tick_at)
         where (cgroup.host_id, cgroup.hierarchy_id, cgroup.cgroup_id, cgroup.boot_id)
             = (gone.host_id, gone.hierarchy_id, gone.cgroup_id, gone.boot_id)",
    )
    .bind(keys.host_ids)
    .bind(keys.hierarchy_ids)
    .bind(keys.cgroup_ids)
    .bind(keys.boot_ids)
    .bind(gone.iter().map(|gone| gone.created_at.map(to_timestamptz)).collect::<Vec<_>>())
    .bind(gone.iter().map(|gone| to_timestamptz(gone.last_tick_at)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
