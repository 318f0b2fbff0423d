//! The parts of a stream of changes, each made as it is sent: what waits to be sent is shared, and small.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use cgfleet_proto::v1::{
    Bookmark, CgroupSample, Lost, RemovedBatch, RemovedCgroup, SampleBatch, Synced, change_event::Event,
};
use nix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use crate::{
    identity::Identity,
    service::{Agent, BATCH_ROWS},
    stream::{Change, Follower, Snapshot, Step, Token},
    walker::Removed,
    workloads::Workloads,
};

/// What one subscriber is sent.
pub(super) struct Events {
    host_id: Uuid,
    boot_id: Uuid,
    /// What is told at a bookmark, but for the sequence.
    token: Token,
    follower: Follower,
    workloads: Workloads,
    /// Cgroups of pods that were sent without the pod's name.
    unnamed: Vec<u64>,
    parts: VecDeque<Part>,
}

/// A part that waits to be sent.
enum Part {
    Lost(u64),
    Snapshot(Vec<Change>),
    Update(Vec<Change>),
    Removed(Vec<Arc<Removed>>),
    Synced(Box<Bookmark>),
    Bookmark(Box<Bookmark>),
}

impl Events {
    /// Of this follower; its tokens are like this one.
    pub(super) fn new(agent: &Agent, follower: Follower, token: Token) -> Self {
        let Identity { host_id, boot_id, .. } = agent.identity;
        let workloads = agent.workloads.clone();
        Self { host_id, boot_id, token, follower, workloads, unnamed: Vec::new(), parts: VecDeque::new() }
    }

    /// The sequence of the snapshot that the follower was brought to.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.follower.sequence()
    }

    /// Brings the follower to the newest of these.
    pub(super) fn advance(&mut self, newer: &[Arc<Snapshot>]) {
        if let Some(step) = self.follower.advance(newer, |path| self.workloads.of(path)) {
            self.put(step);
        }
    }

    /// Has the follower begin with this, behind `missed` that are not there any more.
    pub(super) fn begin_at(&mut self, first: &Arc<Snapshot>, missed: u64) {
        let step = self.follower.begin_at(first, missed, |path| self.workloads.of(path));
        self.put(step);
    }

    fn put(&mut self, step: Step) {
        let Step { snapshot, is_whole, mut rows, removed, lost, merged } = step;
        self.name_late(&snapshot, &mut rows);
        if lost > 0 {
            self.parts.push_back(Part::Lost(lost));
        }
        let part = if is_whole { Part::Snapshot } else { Part::Update };
        self.parts.extend(rows.chunks(BATCH_ROWS).map(|rows| part(rows.to_vec())));
        self.parts.extend(removed.chunks(BATCH_ROWS).map(|removed| Part::Removed(removed.to_vec())));
        let bookmark = Box::new(self.bookmark(&snapshot, merged));
        self.parts.push_back(if is_whole { Part::Synced(bookmark) } else { Part::Bookmark(bookmark) });
    }

    /// Has rows sent, once more if need be, whose pod's name became known since they were sent.
    fn name_late(&mut self, snapshot: &Snapshot, rows: &mut Vec<Change>) {
        let Self { follower, workloads, unnamed, .. } = self;
        unnamed.retain(|cgroup_id| {
            let Some(row) = snapshot.row(*cgroup_id) else { return false };
            if lacks_name(workloads, &row.sample.path) {
                return true;
            }
            match rows.iter_mut().find(|change| change.cgroup_id() == *cgroup_id) {
                Some(change) => change.is_first = true,
                // Of other forms there is no row that changes nothing: it waits for the next one.
                None => match follower.again(*cgroup_id) {
                    Some(change) => rows.push(change),
                    None => return true,
                },
            }
            false
        });
        let first = rows.iter().filter(|change| change.is_first);
        unnamed.extend(first.filter(|change| lacks_name(workloads, change.path())).map(Change::cgroup_id));
    }

    /// The next part, if one waits.
    pub(super) fn next(&mut self) -> Option<Event> {
        let part = self.parts.pop_front()?;
        Some(match part {
            Part::Lost(removed_cgroups) => Event::Lost(Lost { removed_cgroups }),
            Part::Snapshot(rows) => Event::Snapshot(self.batch(&rows)),
            Part::Update(rows) => Event::Update(self.batch(&rows)),
            Part::Removed(removed) => Event::Removed(RemovedBatch {
                cgroups: removed.iter().map(|removed| self.removed(removed)).collect(),
            }),
            Part::Synced(bookmark) => Event::Synced(Synced { bookmark: Some(sent_now(*bookmark)) }),
            Part::Bookmark(bookmark) => Event::Bookmark(sent_now(*bookmark)),
        })
    }

    fn batch(&self, rows: &[Change]) -> SampleBatch {
        let sample = |change: &Change| {
            let mut sample = self.follower.sample(change);
            if change.is_first {
                self.name(&mut sample);
            }
            sample
        };
        SampleBatch { samples: rows.iter().map(sample).collect() }
    }

    fn name(&self, sample: &mut CgroupSample) {
        sample.workload = self.workloads.of(&sample.path).map(|workload| Box::new((&workload).into()));
    }

    fn removed(&self, removed: &Removed) -> RemovedCgroup {
        let mut sample = self.follower.last_sample(removed);
        self.name(&mut sample);
        RemovedCgroup {
            sample: Some(sample),
            values: removed.values.to_wire().into(),
            created_at: removed.created_at.map(Into::into),
            removed_at: removed.removed_at.map(Into::into),
        }
    }

    fn bookmark(&self, snapshot: &Snapshot, merged_ticks: u64) -> Bookmark {
        let sequence = snapshot.sequence;
        Bookmark {
            resume_token: Token { sequence, ..self.token }.to_string(),
            agent_epoch: self.token.agent_epoch.to_string(),
            boot_id: self.boot_id.to_string(),
            sequence,
            boottime_ns: u64::try_from(snapshot.boottime.as_nanos()).unwrap_or(u64::MAX),
            sampled_at: Some(snapshot.sampled_at.into()),
            merged_ticks,
            summary: Some(snapshot.summary.clone()),
            sent_boottime_ns: 0,
            host_id: self.host_id.to_string(),
        }
    }
}

/// Without a clock, which no host is, a bookmark says that it did not wait.
fn sent_now(bookmark: Bookmark) -> Bookmark {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    let now = now.ok().and_then(|now| u64::try_from(now.as_nanos()).ok());
    Bookmark { sent_boottime_ns: now.unwrap_or(bookmark.boottime_ns), ..bookmark }
}

/// Whether a pod runs there whose name is not known.
fn lacks_name(workloads: &Workloads, path: &str) -> bool {
    workloads.of(path).is_some_and(|workload| workload.pod_uid.is_some() && workload.pod_name.is_none())
}
