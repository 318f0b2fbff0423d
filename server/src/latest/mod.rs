//! A host's last tick, in memory: what ingest builds the next one upon, and what each of its cgroups is. Pure.
//!
//! Must not know: where ticks are from, where they go, who asks.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use cgfleet_model::MetricSet;
use cgfleet_proto::v1::{CgroupSample, Workload};
use uuid::Uuid;

use crate::store::codec::{CgroupKey, CodecError, EncodedHead, Frame, HeadEncoder};

/// Which tick it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickMoment {
    /// The agent process that took it.
    pub agent_epoch: Uuid,
    /// Its number within the epoch.
    pub sequence: u64,
    /// The boot within which its cgroups' ids are unique.
    pub boot_id: Uuid,
    /// Its time by the server's clock.
    pub tick_at: SystemTime,
    /// Its time by the agent's wall clock.
    pub sampled_at: SystemTime,
}

/// What a tick has of cgroups.
#[derive(Debug, Clone, Copy)]
pub enum TickRows<'a> {
    /// All of them.
    Whole(&'a [CgroupSample]),
    /// What changed since the tick before.
    Changes {
        /// Those that changed, and are new.
        changed: &'a [CgroupSample],
        /// Those that are not there any more.
        removed: &'a [CgroupKey],
    },
}

/// The last tick of a host. Whoever shares it sees each tick whole.
#[derive(Debug, Default)]
pub struct LatestTick {
    moment: Option<TickMoment>,
    encoder: HeadEncoder,
    cgroups: HashMap<CgroupKey, Described>,
    /// Cgroups that it has, though they were removed before it: with what they used in their life.
    departed: Vec<CgroupKey>,
}

/// What does not change of a cgroup from tick to tick.
#[derive(Debug)]
struct Described {
    parent_id: u64,
    level: u32,
    path: String,
    workload: Option<Box<Workload>>,
}

/// Which cgroup a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LatestTarget {
    /// By its path as text.
    Path(String),
    /// By its id, of cgroup v2.
    Id(u64),
}

/// A last tick, shared by who writes it and who reads it.
#[derive(Debug, Clone, Default)]
pub struct SharedTick(Arc<Mutex<LatestTick>>);

impl SharedTick {
    /// The tick, to be held for a moment.
    pub fn lock(&self) -> MutexGuard<'_, LatestTick> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<LatestTick> for SharedTick {
    fn from(tick: LatestTick) -> Self {
        Self(Arc::new(Mutex::new(tick)))
    }
}

impl LatestTick {
    /// A tick as the store has it.
    pub fn of_stored(moment: TickMoment, samples: &[CgroupSample]) -> Result<Self, CodecError> {
        let mut tick = Self::default();
        tick.advance(moment, TickRows::Whole(samples), Vec::new(), Frame::Keyframe)?;
        Ok(tick)
    }

    /// Which it is; `None` if there was none yet.
    pub fn moment(&self) -> Option<TickMoment> {
        self.moment
    }

    /// Whether the next one may be told as changes.
    pub fn is_known(&self) -> bool {
        self.encoder.has_base()
    }

    /// Forgets it: nothing of it holds for the next one.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Cgroups that it is the last to have: the next one has to remove them.
    pub fn departed(&self) -> &[CgroupKey] {
        &self.departed
    }

    /// Makes it the next one, and gives what has to be stored of that. `departed` are those of its cgroups that were
    /// removed before it. After an error it is forgotten.
    pub fn advance(
        &mut self,
        moment: TickMoment,
        rows: TickRows<'_>,
        departed: Vec<CgroupKey>,
        frame: Frame,
    ) -> Result<EncodedHead, CodecError> {
        let (samples, encoded) = match rows {
            TickRows::Whole(samples) => (samples, self.encoder.encode(samples, frame)),
            TickRows::Changes { changed, removed } => {
                (changed, self.encoder.encode_changes(changed, removed, frame))
            }
        };
        let encoded = encoded.inspect_err(|_| self.forget())?;
        for gone in &encoded.gone {
            self.cgroups.remove(gone);
        }
        for sample in samples {
            self.describe(sample, &encoded.new);
        }
        self.moment = Some(moment);
        self.departed = departed;
        Ok(encoded)
    }

    /// Takes in what a row says of a cgroup that is new, or of which it became known what runs in it.
    fn describe(&mut self, sample: &CgroupSample, new: &[CgroupKey]) {
        let key = CgroupKey::of(sample);
        let workload = || sample.workload.clone();
        if new.binary_search(&key).is_ok() {
            let CgroupSample { parent_id, level, .. } = *sample;
            let described = Described { parent_id, level, path: sample.path.clone(), workload: workload() };
            self.cgroups.insert(key, described);
        } else if sample.workload.is_some()
            && let Some(described) = self.cgroups.get_mut(&key)
        {
            described.workload = workload();
        }
    }

    /// The cgroup of v2 and so many levels below it, each behind its parent, with these metrics.
    pub fn rows(
        &self,
        target: &LatestTarget,
        max_depth: Option<u32>,
        metrics: MetricSet,
    ) -> Vec<CgroupSample> {
        let top = match target {
            LatestTarget::Path(path) => Some(path.as_str()),
            LatestTarget::Id(cgroup_id) => {
                let key = CgroupKey { hierarchy_id: 0, cgroup_id: *cgroup_id };
                self.cgroups.get(&key).map(|described| described.path.as_str())
            }
        };
        let (Some(top), Some(tick)) = (top, self.encoder.tick()) else { return Vec::new() };
        let is_chosen = |described: &Described| {
            depth_below(&described.path, top).is_some_and(|depth| max_depth.is_none_or(|max| depth <= max))
        };
        let mut rows = Vec::new();
        for (key, values) in tick.iter().filter(|(key, _)| !self.departed.contains(key)) {
            let Some(described) = self.cgroups.get(&key).filter(|described| is_chosen(described)) else {
                continue;
            };
            let mut sample = CgroupSample {
                hierarchy_id: key.hierarchy_id,
                cgroup_id: key.cgroup_id,
                parent_id: described.parent_id,
                level: described.level,
                path: described.path.clone(),
                workload: described.workload.clone(),
                ..CgroupSample::default()
            };
            values.write_to(&mut sample);
            sample.keep_only(metrics);
            rows.push(sample);
        }
        rows.sort_by(|one, other| one.path.split('/').cmp(other.path.split('/')));
        rows
    }
}

/// How many levels a path is below another one; `None` if it is not.
fn depth_below(path: &str, top: &str) -> Option<u32> {
    let below = match (path, top) {
        ("/", "/") => "",
        // What is above the mount is not below its root.
        (path, "/") if path.starts_with("/..") => return None,
        (path, "/") => path,
        (path, top) => path.strip_prefix(top).filter(|below| below.is_empty() || below.starts_with('/'))?,
    };
    u32::try_from(below.bytes().filter(|byte| *byte == b'/').count()).ok()
}
