//! What a tick says of cgroups beside their values: which are new, what runs in them, which are gone. Pure.

use std::{collections::HashSet, time::SystemTime};

use cgfleet_proto::v1::{CgroupSample, Workload};
use uuid::Uuid;

use crate::store::{CgroupIdentity, GoneCgroup, codec::CgroupKey};

/// What a tick has of cgroups.
pub(super) struct Rows {
    pub(super) boot_id: Uuid,
    pub(super) sampled_at: SystemTime,
    pub(super) samples: Vec<CgroupSample>,
}

impl Rows {
    /// What those of these keys are, which ascend.
    pub(super) fn identities(&self, new: &[CgroupKey]) -> Vec<CgroupIdentity> {
        if new.is_empty() {
            return Vec::new();
        }
        let is_new = |sample: &&CgroupSample| new.binary_search(&CgroupKey::of(sample)).is_ok();
        let identity = |sample: &CgroupSample| CgroupIdentity {
            boot_id: self.boot_id,
            key: CgroupKey::of(sample),
            parent_id: sample.parent_id,
            level: sample.level,
            path: sample.path.clone(),
        };
        self.samples.iter().filter(is_new).map(identity).collect()
    }

    /// What runs in them: an agent says it with a cgroup's first row, and when it becomes known.
    pub(super) fn names(&self) -> Vec<(CgroupKey, Workload)> {
        let named =
            |sample: &CgroupSample| Some((CgroupKey::of(sample), (**sample.workload.as_ref()?).clone()));
        self.samples.iter().filter_map(named).collect()
    }
}

/// What a tick tells of a removal.
pub(super) struct RemovalNote {
    pub(super) key: CgroupKey,
    pub(super) created_at: Option<SystemTime>,
    pub(super) has_last_point: bool,
}

/// Which tick was the last of cgroups that are gone.
pub(super) struct Life {
    pub(super) tick_at: SystemTime,
    pub(super) before: SystemTime,
    pub(super) ends: Vec<RemovalNote>,
    /// Those of which it was said with the tick before.
    pub(super) departed: Vec<CgroupKey>,
}

impl Life {
    /// Of those that the tick does not have any more, the tick before was the last; of those that have their last
    /// point in this one, this.
    pub(super) fn gone(self, removed: &[CgroupKey]) -> Vec<GoneCgroup> {
        let Self { tick_at, before, ends, departed } = self;
        let told: HashSet<CgroupKey> = ends.iter().map(|end| end.key).chain(departed).collect();
        let ended = ends.into_iter().map(|RemovalNote { key, created_at, has_last_point }| GoneCgroup {
            key,
            created_at,
            last_tick_at: if has_last_point { tick_at } else { before },
        });
        let others = removed.iter().filter(|key| !told.contains(key));
        let others = others.map(|key| GoneCgroup { key: *key, created_at: None, last_tick_at: before });
        ended.chain(others).collect()
    }
}
