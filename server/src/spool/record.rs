//! A tick's row as the body of a record, and back. Pure.
//!
//! The form is protobuf's: fields may be added, and a number is never used for something else.

use std::time::SystemTime;

use cgfleet_proto::v1::{GapReason, Workload};
use prost::Message;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{
    CgroupIdentity, Cursor, Fence, Gap, GoneCgroup, TickRow,
    codec::{CgroupKey, Frame},
    to_timestamptz,
};

#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(bytes = "vec", tag = "1")]
    host_id: Vec<u8>,
    #[prost(sint64, tag = "2")]
    fence: i64,
    #[prost(message, optional, tag = "3")]
    follows: Option<Follows>,
    #[prost(bytes = "vec", tag = "4")]
    agent_epoch: Vec<u8>,
    #[prost(uint64, tag = "5")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "6")]
    boot_id: Vec<u8>,
    #[prost(sint64, tag = "7")]
    tick_at_usec: i64,
    #[prost(sint64, tag = "8")]
    sampled_at_usec: i64,
    #[prost(bool, tag = "9")]
    keyframe: bool,
    #[prost(uint64, tag = "10")]
    cgroup_count: u64,
    #[prost(bytes = "vec", tag = "11")]
    payload: Vec<u8>,
    #[prost(message, repeated, tag = "12")]
    new_cgroups: Vec<NewCgroup>,
    #[prost(message, optional, tag = "13")]
    gap: Option<EndedGap>,
    #[prost(bool, tag = "14")]
    is_fresh: bool,
    #[prost(message, repeated, tag = "15")]
    names: Vec<Name>,
    #[prost(message, repeated, tag = "16")]
    gone: Vec<Gone>,
}

#[derive(Clone, PartialEq, Message)]
struct Follows {
    #[prost(bytes = "vec", tag = "1")]
    epoch: Vec<u8>,
    #[prost(uint64, tag = "2")]
    next_seq: u64,
    #[prost(sint64, tag = "3")]
    last_tick_at_usec: i64,
}

#[derive(Clone, PartialEq, Message)]
struct NewCgroup {
    #[prost(bytes = "vec", tag = "1")]
    boot_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    hierarchy_id: u32,
    #[prost(uint64, tag = "3")]
    cgroup_id: u64,
    #[prost(uint64, tag = "4")]
    parent_id: u64,
    #[prost(uint32, tag = "5")]
    level: u32,
    #[prost(string, tag = "6")]
    path: String,
}

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(uint32, tag = "1")]
    hierarchy_id: u32,
    #[prost(uint64, tag = "2")]
    cgroup_id: u64,
    #[prost(message, optional, tag = "3")]
    workload: Option<Workload>,
}

#[derive(Clone, PartialEq, Message)]
struct Gone {
    #[prost(uint32, tag = "1")]
    hierarchy_id: u32,
    #[prost(uint64, tag = "2")]
    cgroup_id: u64,
    #[prost(sint64, optional, tag = "3")]
    created_at_usec: Option<i64>,
    #[prost(sint64, tag = "4")]
    last_tick_at_usec: i64,
}

#[derive(Clone, PartialEq, Message)]
struct EndedGap {
    #[prost(sint64, tag = "1")]
    after_at_usec: i64,
    #[prost(sint64, tag = "2")]
    before_at_usec: i64,
    #[prost(enumeration = "GapReason", tag = "3")]
    reason: i32,
}

/// A record's body that is no row, although its checksum is right.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error(transparent)]
    Form(#[from] prost::DecodeError),
    #[error("an id is no uuid")]
    Id(#[from] uuid::Error),
    #[error("a time is out of range")]
    Time(#[from] time::error::ComponentRange),
    #[error("a count is out of range")]
    Count(#[from] std::num::TryFromIntError),
}

/// The body for a row.
pub(super) fn encode(row: &TickRow) -> Vec<u8> {
    let id = |id: Uuid| id.as_bytes().to_vec();
    let new_cgroup = |cgroup: &CgroupIdentity| NewCgroup {
        boot_id: id(cgroup.boot_id),
        hierarchy_id: cgroup.key.hierarchy_id,
        cgroup_id: cgroup.key.cgroup_id,
        parent_id: cgroup.parent_id,
        level: cgroup.level,
        path: cgroup.path.clone(),
    };
    let name = |(key, workload): &(CgroupKey, Workload)| Name {
        hierarchy_id: key.hierarchy_id,
        cgroup_id: key.cgroup_id,
        workload: Some(workload.clone()),
    };
    let gone = |gone: &GoneCgroup| Gone {
        hierarchy_id: gone.key.hierarchy_id,
        cgroup_id: gone.key.cgroup_id,
        created_at_usec: gone.created_at.map(usec),
        last_tick_at_usec: usec(gone.last_tick_at),
    };
    let row = Row {
        host_id: id(row.host_id),
        fence: row.fence.number(),
        follows: row.follows.map(|cursor| Follows {
            epoch: id(cursor.epoch),
            next_seq: cursor.next_seq,
            last_tick_at_usec: usec(cursor.last_tick_at),
        }),
        agent_epoch: id(row.agent_epoch),
        sequence: row.sequence,
        boot_id: id(row.boot_id),
        tick_at_usec: usec(row.tick_at),
        sampled_at_usec: usec(row.sampled_at),
        keyframe: row.frame == Frame::Keyframe,
        cgroup_count: row.cgroup_count as u64,
        payload: row.payload.clone(),
        new_cgroups: row.new_cgroups.iter().map(new_cgroup).collect(),
        gap: row.gap.map(|gap| EndedGap {
            after_at_usec: usec(gap.after_at),
            before_at_usec: usec(gap.before_at),
            reason: gap.reason.into(),
        }),
        is_fresh: row.is_fresh,
        names: row.names.iter().map(name).collect(),
        gone: row.gone.iter().map(gone).collect(),
    };
    row.encode_to_vec()
}

/// The row in a body.
pub(super) fn decode(body: &[u8]) -> Result<TickRow, RowError> {
    let row = Row::decode(body)?;
    let id = |bytes: &[u8]| Uuid::from_slice(bytes);
    let new_cgroup = |cgroup: NewCgroup| {
        Ok(CgroupIdentity {
            boot_id: id(&cgroup.boot_id)?,
            key: CgroupKey { hierarchy_id: cgroup.hierarchy_id, cgroup_id: cgroup.cgroup_id },
            parent_id: cgroup.parent_id,
            level: cgroup.level,
            path: cgroup.path,
        })
    };
    let follows = |cursor: Follows| {
        let (epoch, last_tick_at) = (id(&cursor.epoch)?, time_of(cursor.last_tick_at_usec)?);
        Ok::<_, RowError>(Cursor { epoch, next_seq: cursor.next_seq, last_tick_at })
    };
    let gap = |gap: EndedGap| {
        let (after_at, before_at) = (time_of(gap.after_at_usec)?, time_of(gap.before_at_usec)?);
        Ok::<_, RowError>(Gap { after_at, before_at, reason: gap.reason() })
    };
    let name = |Name { hierarchy_id, cgroup_id, workload }| {
        (CgroupKey { hierarchy_id, cgroup_id }, workload.unwrap_or_default())
    };
    let gone = |gone: Gone| {
        Ok(GoneCgroup {
            key: CgroupKey { hierarchy_id: gone.hierarchy_id, cgroup_id: gone.cgroup_id },
            created_at: gone.created_at_usec.map(time_of).transpose()?,
            last_tick_at: time_of(gone.last_tick_at_usec)?,
        })
    };
    Ok(TickRow {
        host_id: id(&row.host_id)?,
        fence: Fence::of_number(row.fence),
        follows: row.follows.map(follows).transpose()?,
        agent_epoch: id(&row.agent_epoch)?,
        sequence: row.sequence,
        boot_id: id(&row.boot_id)?,
        tick_at: time_of(row.tick_at_usec)?,
        sampled_at: time_of(row.sampled_at_usec)?,
        frame: if row.keyframe { Frame::Keyframe } else { Frame::Delta },
        cgroup_count: usize::try_from(row.cgroup_count)?,
        payload: row.payload,
        new_cgroups: row.new_cgroups.into_iter().map(new_cgroup).collect::<Result<_, RowError>>()?,
        gap: row.gap.map(gap).transpose()?,
        is_fresh: row.is_fresh,
        names: row.names.into_iter().map(name).collect(),
        gone: row.gone.into_iter().map(gone).collect::<Result<_, RowError>>()?,
    })
}

/// Microseconds since the Unix epoch, which is all that Postgres keeps of a time.
fn usec(at: SystemTime) -> i64 {
    let usec = to_timestamptz(at).unix_timestamp_nanos() / 1_000;
    i64::try_from(usec).unwrap_or_default()
}

fn time_of(usec: i64) -> Result<SystemTime, time::error::ComponentRange> {
    Ok(OffsetDateTime::from_unix_timestamp_nanos(i128::from(usec) * 1_000)?.into())
}
