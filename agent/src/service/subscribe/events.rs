//! The parts of a stream of changes, each made as it is sent: what waits to be sent is shared, and small.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use cgfleet_proto::v1::{
    self, Bookmark, CgroupSample, Lost, RemovedBatch, RemovedCgroup, SampleBatch, Synced, change_event::Event,
};

use crate::{
    identity::Identity,
    service::{Agent, BATCH_ROWS},
    stream::{Change, Follower, Snapshot, Step, Token},
    walker::{Removed, RemovedValues},
    workloads::Workloads,
};

/// What one subscriber is sent.
pub(super) struct Events {
    identity: Identity,
    interval: Duration,
    follower: Follower,
    workloads: Workloads,
    parts: VecDeque<Part>,
}

/// A part that waits to be sent.
enum Part {
    Lost(u64),
    Snapshot(Vec<Change>),
    Update(Vec<Change>),
    Removed(Vec<Arc<Removed>>),
    Synced(Arc<Snapshot>),
    Bookmark { snapshot: Arc<Snapshot>, merged: u64 },
}

impl Events {
    pub(super) fn new(agent: &Agent, interval: Duration, follower: Follower) -> Self {
        let (identity, workloads) = (agent.identity.clone(), agent.workloads.clone());
        Self { identity, interval, follower, workloads, parts: VecDeque::new() }
    }

    /// The sequence of the snapshot that the follower was brought to.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.follower.sequence()
    }

    /// Brings the follower to the newest of these.
    pub(super) fn advance(&mut self, newer: &[Arc<Snapshot>]) {
        let Some(Step { snapshot, is_whole, rows, removed, lost, merged }) =
            self.follower.advance(newer, |path| self.workloads.of(path))
        else {
            return;
        };
        if lost > 0 {
            self.parts.push_back(Part::Lost(lost));
        }
        let part = if is_whole { Part::Snapshot } else { Part::Update };
        self.parts.extend(rows.chunks(BATCH_ROWS).map(|rows| part(rows.to_vec())));
        self.parts.extend(removed.chunks(BATCH_ROWS).map(|removed| Part::Removed(removed.to_vec())));
        self.parts.push_back(if is_whole {
            Part::Synced(snapshot)
        } else {
            Part::Bookmark { snapshot, merged }
        });
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
            Part::Synced(snapshot) => Event::Synced(Synced { bookmark: Some(self.bookmark(&snapshot, 0)) }),
            Part::Bookmark { snapshot, merged } => Event::Bookmark(self.bookmark(&snapshot, merged)),
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
        let values = match removed.values {
            RemovedValues::Final => v1::RemovedValues::Final,
            RemovedValues::LastKnown => v1::RemovedValues::LastKnown,
        };
        let mut sample = self.follower.last_sample(removed);
        self.name(&mut sample);
        RemovedCgroup {
            sample: Some(sample),
            values: values.into(),
            created_at: removed.created_at.map(Into::into),
            removed_at: removed.removed_at.map(Into::into),
        }
    }

    fn bookmark(&self, snapshot: &Snapshot, merged_ticks: u64) -> Bookmark {
        let Identity { agent_epoch, boot_id, .. } = self.identity;
        let (interval, sequence) = (self.interval, snapshot.sequence);
        Bookmark {
            resume_token: Token { agent_epoch, interval, sequence }.to_string(),
            agent_epoch: agent_epoch.to_string(),
            boot_id: boot_id.to_string(),
            sequence,
            boottime_ns: u64::try_from(snapshot.boottime.as_nanos()).unwrap_or(u64::MAX),
            sampled_at: Some(snapshot.sampled_at.into()),
            merged_ticks,
            summary: Some(snapshot.summary.clone()),
        }
    }
}
