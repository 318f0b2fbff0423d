//! A host's last tick, as the store has it.

use std::time::SystemTime;

use cgfleet_proto::v1::{CgroupSample, Workload};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, StoreError,
    codec::{CgroupKey, HeadDecoder},
    timestamp::{from_timestamptz, to_timestamptz},
};

/// A tick that was read back.
#[derive(Debug)]
pub struct StoredTick {
    /// The agent process that took it.
    pub agent_epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
    /// The kernel's boot id.
    pub boot_id: Uuid,
    /// Its time by the server's clock.
    pub tick_at: SystemTime,
    /// Its time by the agent's wall clock.
    pub sampled_at: SystemTime,
    /// Every cgroup, with what runs in it.
    pub samples: Vec<CgroupSample>,
}

struct HeadRow {
    agent_epoch: Uuid,
    sequence: i64,
    boot_id: Uuid,
    tick_at: SystemTime,
    sampled_at: SystemTime,
    payload: Vec<u8>,
}

impl Store {
    /// The host's last tick, if there ever was one and it is still kept.
    pub async fn latest_tick(&self, host_id: Uuid) -> Result<Option<StoredTick>, StoreError> {
        let mut decoder = HeadDecoder::default();
        let rows = self.latest_head_rows(host_id).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        for row in &rows {
            let damaged = |source| StoreError::Payload { host_id, tick_at: row.tick_at, source };
            decoder.apply(&row.payload).map_err(damaged)?;
        }
        let mut samples = self.cgroups_at(host_id, last.boot_id, last.tick_at).await?;
        samples.retain_mut(|sample| {
            let values = decoder.tick().and_then(|tick| tick.get(CgroupKey::of(sample)));
            values.inspect(|values| values.write_to(sample)).is_some()
        });
        Ok(Some(StoredTick {
            agent_epoch: last.agent_epoch,
            sequence: last.sequence.cast_unsigned(),
            boot_id: last.boot_id,
            tick_at: last.tick_at,
            sampled_at: last.sampled_at,
            samples,
        }))
    }

    /// The host's last keyframe, and what is behind it.
    async fn latest_head_rows(&self, host_id: Uuid) -> Result<Vec<HeadRow>, StoreError> {
        sqlx::query(
            "select agent_epoch, sequence, boot_id, tick_at, sampled_at, payload
             from head
             where host_id = $1
               and tick_at >= (select tick_at from head
                               where host_id = $1 and keyframe
                               order by tick_at desc
                               limit 1)
             order by tick_at",
        )
        .bind(host_id)
        .try_map(|row: PgRow| {
            Ok(HeadRow {
                agent_epoch: row.try_get("agent_epoch")?,
                sequence: row.try_get("sequence")?,
                boot_id: row.try_get("boot_id")?,
                tick_at: from_timestamptz(row.try_get("tick_at")?),
                sampled_at: from_timestamptz(row.try_get("sampled_at")?),
                payload: row.try_get("payload")?,
            })
        })
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("read the last tick"))
    }

    /// The cgroups that a host had at a tick, without values.
    async fn cgroups_at(
        &self,
        host_id: Uuid,
        boot_id: Uuid,
        tick_at: SystemTime,
    ) -> Result<Vec<CgroupSample>, StoreError> {
        sqlx::query(
            "select hierarchy_id, cgroup_id, parent_id, level, path, pod_namespace, pod_name, pod_uid,
                    container_name, container_id, runtime, systemd_unit, systemd_slice
             from cgroup
             where host_id = $1 and boot_id = $2 and (last_tick_at is null or last_tick_at > $3)",
        )
        .bind(host_id)
        .bind(boot_id)
        .bind(to_timestamptz(tick_at))
        .try_map(|row: PgRow| cgroup(&row))
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::during("read the cgroups of the last tick"))
    }
}

fn cgroup(row: &PgRow) -> Result<CgroupSample, sqlx::Error> {
    let text =
        |column: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<String>, _>(column)?.unwrap_or_default());
    let workload = Workload {
        pod_namespace: text("pod_namespace")?,
        pod_name: text("pod_name")?,
        pod_uid: text("pod_uid")?,
        container_name: text("container_name")?,
        container_id: text("container_id")?,
        runtime: text("runtime")?,
        systemd_unit: text("systemd_unit")?,
        systemd_slice: text("systemd_slice")?,
    };
    let [cgroup_id, parent_id]: [i64; 2] = [row.try_get("cgroup_id")?, row.try_get("parent_id")?];
    let [hierarchy_id, level]: [i32; 2] = [row.try_get("hierarchy_id")?, row.try_get("level")?];
    Ok(CgroupSample {
        hierarchy_id: hierarchy_id.cast_unsigned(),
        cgroup_id: cgroup_id.cast_unsigned(),
        parent_id: parent_id.cast_unsigned(),
        level: level.cast_unsigned(),
        path: row.try_get("path")?,
        workload: Some(Box::new(workload)).filter(|workload| **workload != Workload::default()),
        ..CgroupSample::default()
    })
}
