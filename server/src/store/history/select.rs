//! Which cgroups a question on the past is about.

use std::time::SystemTime;

use cgfleet_model::{Runtime, TimeRange, Workload, WorkloadFilter, escape_path};
use cgfleet_proto::v1;
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use super::super::{CgroupIdentity, Store, StoreError, codec::CgroupKey, timestamp::to_timestamptz};

/// Names a cgroup of one hierarchy. Over time, a path may have named several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupSelector<'a> {
    /// By the path from the hierarchy's root.
    Path {
        /// The hierarchy; 0 is cgroup v2.
        hierarchy_id: u32,
        /// The path, escaped as in `CgroupSample.path`.
        path: &'a str,
    },
    /// By id, in whichever boot.
    Key(CgroupKey),
}

/// Chooses cgroups of cgroup v2: what is set has to be true.
#[derive(Debug, Clone, Default)]
pub struct CgroupFilter {
    /// The whole path matches this: `*` is any characters but `/`, `**` any at all, `?` one but `/`.
    pub path_glob: Option<String>,
    /// The path, or one above it.
    pub subtree: Option<String>,
    /// What runs in it: as asked for, and parsed.
    pub workload: Option<(v1::WorkloadFilter, WorkloadFilter)>,
}

/// What runs in a cgroup, as far as it was known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadNames {
    /// The pod's namespace.
    pub pod_namespace: Option<String>,
    /// The pod's name.
    pub pod_name: Option<String>,
    /// The pod's uid.
    pub pod_uid: Option<String>,
    /// The container's name in its pod.
    pub container_name: Option<String>,
    /// The container's id.
    pub container_id: Option<String>,
    /// What runs the container.
    pub runtime: Option<String>,
    /// The innermost systemd unit that is no slice.
    pub systemd_unit: Option<String>,
    /// The innermost systemd slice.
    pub systemd_slice: Option<String>,
}

/// A cgroup of a host that something was stored of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCgroup {
    /// The host.
    pub host_id: Uuid,
    /// Which, and where.
    pub identity: CgroupIdentity,
    /// What runs in it.
    pub names: WorkloadNames,
}

impl StoredCgroup {
    /// All that its names and its path say.
    fn workload(&self) -> Workload {
        let by_path = Workload::of_path(&self.identity.path);
        let names = self.names.clone();
        Workload {
            pod_namespace: names.pod_namespace,
            pod_name: names.pod_name,
            pod_uid: names.pod_uid.or(by_path.pod_uid),
            container_name: names.container_name,
            container_id: names.container_id.or(by_path.container_id),
            runtime: by_path.runtime,
            units: by_path.units,
        }
    }
}

impl Store {
    /// The cgroups of a host that answer to a selector and were there before `until`, the newest first, at most
    /// `limit`.
    pub async fn find_cgroups(
        &self,
        host_id: Uuid,
        selector: CgroupSelector<'_>,
        until: SystemTime,
        limit: u32,
    ) -> Result<Vec<CgroupIdentity>, StoreError> {
        let found = self.named_cgroups(&[host_id], selector, until, limit).await?;
        Ok(found.into_iter().map(|cgroup| cgroup.identity).collect())
    }

    /// The same of several hosts.
    pub async fn named_cgroups(
        &self,
        host_ids: &[Uuid],
        selector: CgroupSelector<'_>,
        until: SystemTime,
        limit: u32,
    ) -> Result<Vec<StoredCgroup>, StoreError> {
        let query = match selector {
            CgroupSelector::Path { hierarchy_id, path } => sqlx::query(
                "select host_id, boot_id, hierarchy_id, cgroup_id, parent_id, level, path, pod_namespace, pod_name,
                        pod_uid, container_name, container_id, runtime, systemd_unit, systemd_slice
                 from cgroup
                 where host_id = any($1) and hierarchy_id = $2 and left(path, 500) = left($3, 500) and path = $3
                   and first_tick_at < $4
                 order by first_tick_at desc
                 limit $5",
            )
            .bind(host_ids)
            .bind(hierarchy_id.cast_signed())
            .bind(path),
            CgroupSelector::Key(key) => sqlx::query(
                "select host_id, boot_id, hierarchy_id, cgroup_id, parent_id, level, path, pod_namespace, pod_name,
                        pod_uid, container_name, container_id, runtime, systemd_unit, systemd_slice
                 from cgroup
                 where host_id = any($1) and hierarchy_id = $2 and cgroup_id = $3 and first_tick_at < $4
                 order by first_tick_at desc
                 limit $5",
            )
            .bind(host_ids)
            .bind(key.hierarchy_id.cast_signed())
            .bind(key.cgroup_id.cast_signed()),
        };
        query
            .bind(to_timestamptz(until))
            .bind(i64::from(limit))
            .try_map(|row: PgRow| stored_cgroup(&row))
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::during("find cgroups"))
    }

    /// The cgroups of these hosts that a filter chooses and that were there in a range; at most `limit`, in no order.
    pub async fn filtered_cgroups(
        &self,
        host_ids: &[Uuid],
        filter: &CgroupFilter,
        range: TimeRange,
        limit: u32,
    ) -> Result<Vec<StoredCgroup>, StoreError> {
        let asked = filter.workload.as_ref().map(|(asked, _)| asked);
        let part = |text: fn(&v1::WorkloadFilter) -> &String| {
            asked.map(text).filter(|text| !text.is_empty()).map(String::as_str)
        };
        let (pod, container, unit) = (part(|of| &of.pod), part(|of| &of.container), part(|of| &of.unit));
        // What a pod or a container may be called by is for the filter to know: here, only what cannot be is left out.
        let pod = pod.map(|pod| pod.rsplit('/').next().unwrap_or(pod));
        let found = sqlx::query(
            "select host_id, boot_id, hierarchy_id, cgroup_id, parent_id, level, path, pod_namespace, pod_name,
                    pod_uid, container_name, container_id, runtime, systemd_unit, systemd_slice
             from cgroup
             where host_id = any($1) and hierarchy_id = 0
               and first_tick_at < $2 and (last_tick_at is null or last_tick_at >= $3)
               and ($4::text is null or path ~ $4)
               and ($5::text is null or path = $5 or starts_with(path, $5 || '/') or $5 = '/')
               and ($6::text is null or pod_name = $6 or pod_uid = lower($6) or pod_uid is null and path like '%pod%')
               and ($7::text is null or container_name = $7 or starts_with(container_id, $7)
                    or container_id is null and strpos(path, $7) > 0)
               and ($8::text is null or strpos(path, $8) > 0)
             limit $9",
        )
        .bind(host_ids)
        .bind(to_timestamptz(range.until()))
        .bind(to_timestamptz(range.since()))
        .bind(filter.path_glob.as_deref().map(regex_of_glob))
        .bind(filter.subtree.as_deref())
        .bind(pod)
        .bind(container)
        .bind(unit.map(|unit| escape_path(unit.as_bytes())))
        .bind(i64::from(limit))
        .try_map(|row: PgRow| stored_cgroup(&row))
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("find cgroups"))?;
        let is_chosen = |cgroup: &StoredCgroup| {
            filter.workload.as_ref().is_none_or(|(_, filter)| filter.matches(&cgroup.workload()))
        };
        Ok(found.into_iter().filter(is_chosen).collect())
    }

    /// What is known of cgroups that ticks have.
    pub async fn cgroups_by_key(
        &self,
        cgroups: &[(Uuid, Uuid, CgroupKey)],
    ) -> Result<Vec<StoredCgroup>, StoreError> {
        sqlx::query(
            "select host_id, boot_id, hierarchy_id, cgroup_id, parent_id, level, path, pod_namespace, pod_name,
                    pod_uid, container_name, container_id, runtime, systemd_unit, systemd_slice
             from unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[])
                      as wanted (host_id, boot_id, hierarchy_id, cgroup_id)
             join cgroup using (host_id, hierarchy_id, cgroup_id, boot_id)",
        )
        .bind(cgroups.iter().map(|(host_id, ..)| *host_id).collect::<Vec<_>>())
        .bind(cgroups.iter().map(|(_, boot_id, _)| *boot_id).collect::<Vec<_>>())
        .bind(cgroups.iter().map(|(.., key)| key.hierarchy_id.cast_signed()).collect::<Vec<_>>())
        .bind(cgroups.iter().map(|(.., key)| key.cgroup_id.cast_signed()).collect::<Vec<_>>())
        .try_map(|row: PgRow| stored_cgroup(&row))
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("name cgroups"))
    }
}

/// A glob as Postgres's regular expression.
fn regex_of_glob(glob: &str) -> String {
    let mut regex = "^".to_owned();
    let mut rest = glob.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '*' if rest.next_if_eq(&'*').is_some() => regex.push_str(".*"),
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            char if char.is_ascii_punctuation() => regex.extend(['\\', char]),
            char => regex.push(char),
        }
    }
    regex.push('$');
    regex
}

fn stored_cgroup(row: &PgRow) -> Result<StoredCgroup, sqlx::Error> {
    let [cgroup_id, parent_id]: [i64; 2] = [row.try_get("cgroup_id")?, row.try_get("parent_id")?];
    let [hierarchy_id, level]: [i32; 2] = [row.try_get("hierarchy_id")?, row.try_get("level")?];
    let path: String = row.try_get("path")?;
    let mut names = WorkloadNames {
        pod_namespace: row.try_get("pod_namespace")?,
        pod_name: row.try_get("pod_name")?,
        pod_uid: row.try_get("pod_uid")?,
        container_name: row.try_get("container_name")?,
        container_id: row.try_get("container_id")?,
        runtime: row.try_get("runtime")?,
        systemd_unit: row.try_get("systemd_unit")?,
        systemd_slice: row.try_get("systemd_slice")?,
    };
    names.add_what_says(&path);
    Ok(StoredCgroup {
        host_id: row.try_get("host_id")?,
        identity: CgroupIdentity {
            boot_id: row.try_get("boot_id")?,
            key: CgroupKey {
                hierarchy_id: hierarchy_id.cast_unsigned(),
                cgroup_id: cgroup_id.cast_unsigned(),
            },
            parent_id: parent_id.cast_unsigned(),
            level: level.cast_unsigned(),
            path,
        },
        names,
    })
}

impl WorkloadNames {
    /// Of cgroups that were stored before names were, only their paths say what ran in them.
    fn add_what_says(&mut self, path: &str) {
        let is_named = [&self.pod_uid, &self.container_id, &self.systemd_unit, &self.systemd_slice]
            .iter()
            .any(|name| name.is_some());
        if is_named {
            return;
        }
        let by_path = Workload::of_path(path);
        self.systemd_unit = by_path.systemd_unit().map(str::to_owned);
        self.systemd_slice = by_path.systemd_slice().map(str::to_owned);
        self.runtime = by_path.runtime.map(|runtime: Runtime| runtime.name().to_owned());
        (self.pod_uid, self.container_id) = (by_path.pod_uid, by_path.container_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_is_a_regular_expression_of_whole_paths() {
        let check = |glob: &str, expect: &str| assert_eq!(regex_of_glob(glob), expect);
        check("/a.slice/**", r"^\/a\.slice\/.*$");
        check("/*/b?", r"^\/[^/]*\/b[^/]$");
        check(r"/a\x2db", r"^\/a\\x2db$");
        check("**é", "^.*é$");
    }
}
