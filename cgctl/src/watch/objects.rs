//! What comes as JSON objects, one a line (docs/cli.md).

use std::io::{self, Write};

use cgfleet_proto::v1::{
    Bookmark, CgroupSample, FleetServiceSubscribeResponse, HostChange, Lost, RemovedCgroup, change_event,
    fleet_service_subscribe_response::Event,
};
use serde::Serialize;

use crate::{
    output::json::{Failure, OfHost, Row, rfc3339, write_line},
    words,
};

/// Writes a part.
pub(super) fn write(out: &mut dyn Write, part: &FleetServiceSubscribeResponse) -> io::Result<()> {
    let mut line = |event: Object<'_>| {
        let hostname = Some(part.hostname.as_str());
        write_line(out, &OfHost { host_id: &part.host_id, hostname, value: event })
    };
    let change = match &part.event {
        None => return Ok(()),
        Some(Event::Host(change)) => return line(Object::Host(change.into())),
        Some(Event::Change(change)) => change,
    };
    match &change.event {
        None => Ok(()),
        Some(change_event::Event::Snapshot(batch)) => {
            batch.samples.iter().try_for_each(|sample| line(Object::Snapshot(sample.into())))
        }
        Some(change_event::Event::Update(batch)) => {
            batch.samples.iter().try_for_each(|sample| line(Object::Update(sample.into())))
        }
        Some(change_event::Event::Removed(batch)) => batch.cgroups.iter().try_for_each(|removed| {
            let absent = CgroupSample::default();
            line(Object::Removed(Removed::of(removed, removed.sample.as_ref().unwrap_or(&absent))))
        }),
        Some(change_event::Event::Synced(synced)) => {
            let bookmark = synced.bookmark.clone().unwrap_or_default();
            line(Object::Synced((&bookmark).into()))
        }
        Some(change_event::Event::Bookmark(bookmark)) => line(Object::Bookmark(bookmark.into())),
        Some(change_event::Event::Lost(Lost { removed_cgroups })) => {
            line(Object::Lost { removed_cgroups: *removed_cgroups })
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Object<'a> {
    Host(Change<'a>),
    Snapshot(Row<'a>),
    Synced(Mark<'a>),
    Update(Row<'a>),
    Removed(Removed<'a>),
    Lost { removed_cgroups: u64 },
    Bookmark(Mark<'a>),
}

/// What became of a host's stream.
#[derive(Serialize)]
struct Change<'a> {
    change: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

impl<'a> From<&'a HostChange> for Change<'a> {
    fn from(change: &'a HostChange) -> Self {
        Self { change: words::host_change(change.kind), error: change.error.as_ref().map(Failure::from) }
    }
}

/// A cgroup that was removed.
#[derive(Serialize)]
struct Removed<'a> {
    values: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_at: Option<String>,
    #[serde(flatten)]
    row: Row<'a>,
}

impl<'a> Removed<'a> {
    fn of(removed: &RemovedCgroup, sample: &'a CgroupSample) -> Self {
        Self {
            values: words::removed_values(removed.values),
            created_at: rfc3339(removed.created_at.as_ref()),
            removed_at: rfc3339(removed.removed_at.as_ref()),
            row: sample.into(),
        }
    }
}

/// The end of a tick.
#[derive(Serialize)]
struct Mark<'a> {
    resume_token: &'a str,
    agent_epoch: &'a str,
    boot_id: &'a str,
    sequence: u64,
    boottime_ns: u64,
    sampled_at: Option<String>,
    merged_ticks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_by: Option<&'a str>,
}

impl<'a> From<&'a Bookmark> for Mark<'a> {
    fn from(bookmark: &'a Bookmark) -> Self {
        let summary = bookmark.summary.as_ref();
        Self {
            resume_token: &bookmark.resume_token,
            agent_epoch: &bookmark.agent_epoch,
            boot_id: &bookmark.boot_id,
            sequence: bookmark.sequence,
            boottime_ns: bookmark.boottime_ns,
            sampled_at: rfc3339(bookmark.sampled_at.as_ref()),
            merged_ticks: bookmark.merged_ticks,
            end: summary.and_then(|summary| words::walk_end(summary.end)),
            truncated_by: summary
                .map(|summary| summary.truncated_by.as_str())
                .filter(|limit| !limit.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{
        ChangeEvent, ErrorReason, HostChangeKind, HostError, RemovedBatch, RemovedValues, SampleBatch,
        Synced, WalkEnd, WalkSummary,
    };
    use expect_test::{Expect, expect};

    use super::*;

    fn check(event: Event, expect: &Expect) {
        let (host_id, hostname) = ("id".to_owned(), "web-1".to_owned());
        let mut out = Vec::new();
        write(&mut out, &FleetServiceSubscribeResponse { host_id, hostname, event: Some(event) }).unwrap();
        expect.assert_eq(&String::from_utf8(out).unwrap());
    }

    fn change(event: change_event::Event) -> Event {
        Event::Change(ChangeEvent { event: Some(event) })
    }

    fn sample() -> CgroupSample {
        CgroupSample { cgroup_id: 42, parent_id: 1, level: 1, path: "/a".into(), ..CgroupSample::default() }
    }

    #[test]
    fn every_part_is_an_object_of_its_host() {
        let moment = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let bookmark = Bookmark {
            resume_token: "t".into(),
            sequence: 7,
            sampled_at: moment(1_795_420_800),
            merged_ticks: 2,
            summary: Some(WalkSummary { end: WalkEnd::Complete.into(), ..WalkSummary::default() }),
            ..Bookmark::default()
        };
        let removed = RemovedCgroup {
            sample: Some(sample()),
            values: RemovedValues::Final.into(),
            removed_at: moment(1_795_420_800),
            ..RemovedCgroup::default()
        };
        let rows = || SampleBatch { samples: vec![sample()] };
        let error = HostError {
            code: 14,
            reason: ErrorReason::HostUnreachable.into(),
            message: "refused".into(),
            retry_after: None,
        };
        let lost = HostChange { kind: HostChangeKind::Lost.into(), error: Some(error) };
        check(
            Event::Host(lost),
            &expect![[r#"
            {"host_id":"id","hostname":"web-1","event":"host","change":"lost","error":{"reason":"HOST_UNREACHABLE","message":"refused","code":14}}
        "#]],
        );
        check(
            change(change_event::Event::Snapshot(rows())),
            &expect![[r#"
            {"host_id":"id","hostname":"web-1","event":"snapshot","cgroup_id":42,"parent_id":1,"hierarchy_id":0,"level":1,"path":"/a"}
        "#]],
        );
        check(
            change(change_event::Event::Synced(Synced { bookmark: Some(bookmark.clone()) })),
            &expect![[r#"
                {"host_id":"id","hostname":"web-1","event":"synced","resume_token":"t","agent_epoch":"","boot_id":"","sequence":7,"boottime_ns":0,"sampled_at":"2026-11-23T08:00:00Z","merged_ticks":2,"end":"complete"}
            "#]],
        );
        check(
            change(change_event::Event::Update(rows())),
            &expect![[r#"
            {"host_id":"id","hostname":"web-1","event":"update","cgroup_id":42,"parent_id":1,"hierarchy_id":0,"level":1,"path":"/a"}
        "#]],
        );
        check(
            change(change_event::Event::Removed(RemovedBatch { cgroups: vec![removed] })),
            &expect![[r#"
            {"host_id":"id","hostname":"web-1","event":"removed","values":"final","removed_at":"2026-11-23T08:00:00Z","cgroup_id":42,"parent_id":1,"hierarchy_id":0,"level":1,"path":"/a"}
        "#]],
        );
        check(
            change(change_event::Event::Lost(Lost { removed_cgroups: 3 })),
            &expect![[r#"
            {"host_id":"id","hostname":"web-1","event":"lost","removed_cgroups":3}
        "#]],
        );
        check(
            change(change_event::Event::Bookmark(bookmark)),
            &expect![[r#"
            {"host_id":"id","hostname":"web-1","event":"bookmark","resume_token":"t","agent_epoch":"","boot_id":"","sequence":7,"boottime_ns":0,"sampled_at":"2026-11-23T08:00:00Z","merged_ticks":2,"end":"complete"}
        "#]],
        );
    }
}
