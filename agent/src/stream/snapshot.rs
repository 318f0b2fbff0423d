//! One snapshot of all cgroups. It shares what did not change with the one before.

use std::{
    mem::{self, size_of},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_model::MetricSet;
use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkSummary};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::walker::{Removed, RemovedValues, Rows};

/// How removals are heard of since a snapshot was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// Nobody wants to know of them.
    Unheard,
    /// This host does not tell of them: what is missing in the next snapshot was removed.
    Unable,
    /// All of them, from a snapshot to the next of the same episode.
    Episode(u64),
}

/// What was read at a tick.
#[derive(Debug)]
pub(crate) struct Read {
    /// Intervals since the agent started.
    pub(crate) sequence: u64,
    /// CLOCK_BOOTTIME at the start of the walk.
    pub(crate) boottime: Duration,
    /// The wall clock at the same moment.
    pub(crate) sampled_at: SystemTime,
    /// What was read of each cgroup.
    pub(crate) metrics: MetricSet,
    /// Each cgroup once, in the order of the walk.
    pub(crate) rows: Rows,
    pub(crate) summary: WalkSummary,
    pub(crate) hearing: Hearing,
    /// Removals since the last read, up to the end of the walk at least.
    pub(crate) removed: Vec<Arc<Removed>>,
    /// Removals of which nothing is known.
    pub(crate) lost: u64,
}

/// Places in a list by cgroup id.
type Places = FxHashMap<u64, u32>;

/// One cgroup in a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) sample: Arc<CgroupSample>,
    /// The snapshot that was the first to have the cgroup, if it was made since the one before that.
    pub(crate) born: Option<u64>,
    /// The last one that found it changed.
    pub(crate) changed: u64,
}

/// All cgroups at a tick.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) sequence: u64,
    /// Snapshots before it; ticks that were left out are none.
    pub(super) ordinal: u64,
    pub(crate) boottime: Duration,
    pub(crate) sampled_at: SystemTime,
    pub(crate) metrics: MetricSet,
    pub(crate) summary: WalkSummary,
    pub(crate) hearing: Hearing,
    /// In the order of the walk; behind those that it met, what a walk that was cut did not.
    pub(crate) rows: Vec<Row>,
    met: usize,
    /// Where in `rows` a cgroup is; those of the snapshot before, if it has the same cgroups.
    places: Arc<Places>,
    /// Removed since the snapshot before: in no row of this one.
    pub(crate) removed: Vec<Arc<Removed>>,
    /// Cgroups that were removed since the first snapshot, told of or not.
    pub(super) removed_in_all: u64,
    /// Bytes that it has, and the snapshot before has not. An estimate: allocators add to it.
    pub(super) bytes: usize,
}

impl Snapshot {
    /// The snapshot behind `before`. What a walk that was cut did not meet stays as it was, where its removal
    /// would be told of; elsewhere nobody could tell for how long.
    pub(crate) fn new(before: Option<&Self>, mut read: Read) -> Self {
        match mem::replace(&mut read.rows, Rows::Made(Vec::new())) {
            Rows::Made(samples) => Self::of(before, read, samples),
            Rows::Shared(samples) => Self::of(before, read, samples),
        }
    }

    fn of(before: Option<&Self>, read: Read, samples: Vec<impl Sampled>) -> Self {
        let Read { sequence, boottime, sampled_at, metrics, rows: _, summary, hearing, .. } = read;
        let (mut removed, lost) = (read.removed, read.lost);
        let gone: FxHashSet<u64> = removed.iter().map(|removed| removed.sample.cgroup_id).collect();
        let mut rows = Vec::with_capacity(samples.len());
        let mut bytes = 0;
        // Whether the cgroups are those of the snapshot before, in its order.
        let mut is_alike = before.is_some();
        for sample in samples.into_iter().filter(|sample| !gone.contains(&sample.get().cgroup_id)) {
            let alike = before.filter(|_| is_alike).and_then(|before| before.rows.get(rows.len()));
            let alike = alike.filter(|row| row.sample.cgroup_id == sample.get().cgroup_id);
            is_alike = alike.is_some();
            let known = alike.or_else(|| before.and_then(|before| before.row(sample.get().cgroup_id)));
            let row = match known {
                Some(row) if sample.is(&row.sample) => row.clone(),
                known => {
                    bytes += bytes_of(sample.get());
                    // What was there before, a walk that was not cut has met.
                    let is_new = before.is_some_and(Self::is_whole);
                    let born = known.map_or(is_new.then_some(sequence), |row| row.born);
                    Row { sample: sample.share(), born, changed: sequence }
                }
            };
            rows.push(row);
        }
        let met = rows.len();
        let places = if let Some(before) = before.filter(|before| is_alike && before.rows.len() == met) {
            Arc::clone(&before.places)
        } else {
            let mut places = Places::with_capacity_and_hasher(met, rustc_hash::FxBuildHasher);
            places
                .extend(rows.iter().enumerate().map(|(place, row)| (row.sample.cgroup_id, to_place(place))));
            let known = before.map(|before| before.rows.as_slice()).unwrap_or_default();
            for row in known {
                let cgroup_id = row.sample.cgroup_id;
                if places.contains_key(&cgroup_id) || gone.contains(&cgroup_id) {
                    continue;
                }
                if summary.end() == WalkEnd::Complete || !matches!(hearing, Hearing::Episode(_)) {
                    removed.push(Arc::new(missing(&row.sample)));
                } else {
                    places.insert(cgroup_id, to_place(rows.len()));
                    rows.push(row.clone());
                }
            }
            bytes += places.capacity() * (size_of::<(u64, u32)>() + 1);
            Arc::new(places)
        };
        bytes += removed.iter().map(|removed| bytes_of(&removed.sample)).sum::<usize>();
        bytes += rows.len() * size_of::<Row>();
        let removed_before = before.map_or(0, |before| before.removed_in_all);
        let removed_in_all = removed_before + removed.len() as u64 + lost;
        Self {
            sequence,
            ordinal: before.map_or(0, |before| before.ordinal + 1),
            boottime,
            sampled_at,
            metrics,
            summary,
            hearing,
            rows,
            met,
            places,
            removed,
            removed_in_all,
            bytes,
        }
    }

    /// The rows that its own walk met.
    pub(crate) fn met(&self) -> &[Row] {
        &self.rows[..self.met]
    }

    fn is_whole(&self) -> bool {
        self.summary.end() == WalkEnd::Complete
    }

    /// A cgroup's row, if it has one.
    pub(crate) fn row(&self, cgroup_id: u64) -> Option<&Row> {
        self.places.get(&cgroup_id).and_then(|place| self.rows.get(*place as usize))
    }
}

/// A sample as it comes: for one snapshot, or shared already.
trait Sampled {
    fn get(&self) -> &CgroupSample;
    /// Whether this is what a row has.
    fn is(&self, row: &Arc<CgroupSample>) -> bool;
    fn share(self) -> Arc<CgroupSample>;
}

impl Sampled for CgroupSample {
    fn get(&self) -> &CgroupSample {
        self
    }

    fn is(&self, row: &Arc<CgroupSample>) -> bool {
        **row == *self
    }

    fn share(self) -> Arc<CgroupSample> {
        Arc::new(self)
    }
}

impl Sampled for Arc<CgroupSample> {
    fn get(&self) -> &CgroupSample {
        self
    }

    fn is(&self, row: &Self) -> bool {
        Self::ptr_eq(self, row) || **row == **self
    }

    fn share(self) -> Self {
        self
    }
}

/// A removed cgroup of which no more is known than that it is there no more.
pub(super) fn missing(sample: &CgroupSample) -> Removed {
    let values = RemovedValues::LastKnown;
    Removed { sample: sample.clone(), values, created_at: None, removed_at: None }
}

/// Walks have at most 1,000,000 rows.
fn to_place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// About as many bytes as a sample takes.
fn bytes_of(sample: &CgroupSample) -> usize {
    fn boxed<T>(group: Option<&T>) -> usize {
        group.map_or(0, |_| size_of::<T>())
    }
    let groups = boxed(sample.memory.as_deref())
        + boxed(sample.memory_stat.as_deref())
        + boxed(sample.memory_events.as_deref())
        + boxed(sample.memory_events_local.as_deref())
        + boxed(sample.io.as_deref())
        + boxed(sample.pressure.as_deref())
        + boxed(sample.structure.as_deref())
        + boxed(sample.reclaim.as_deref())
        + boxed(sample.attach.as_deref())
        + boxed(sample.runqueue.as_deref())
        + boxed(sample.block_io.as_deref());
    size_of::<CgroupSample>() + sample.path.len() + groups
}
