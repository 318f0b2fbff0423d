//! The last snapshots, bounded in bytes.

use std::{collections::VecDeque, sync::Arc};

use super::Snapshot;

/// The last snapshots of one interval, the oldest first.
#[derive(Debug)]
pub(crate) struct History {
    snapshots: VecDeque<Arc<Snapshot>>,
    bytes: usize,
    bytes_max: usize,
}

impl History {
    /// A history of at most so many bytes, and one snapshot at least.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { snapshots: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Takes in the next snapshot, and drops the oldest as far as it has to.
    pub(crate) fn push(&mut self, snapshot: Snapshot) {
        self.bytes += snapshot.bytes;
        self.snapshots.push_back(Arc::new(snapshot));
        while self.bytes > self.bytes_max && self.snapshots.len() > 1 {
            let oldest = self.snapshots.pop_front();
            self.bytes -= oldest.map_or(0, |oldest| oldest.bytes);
        }
    }

    /// The newest.
    pub(crate) fn latest(&self) -> Option<&Arc<Snapshot>> {
        self.snapshots.back()
    }

    /// That with this sequence, if it is still there.
    pub(crate) fn get(&self, sequence: u64) -> Option<&Arc<Snapshot>> {
        let place = self.snapshots.binary_search_by_key(&sequence, |snapshot| snapshot.sequence).ok()?;
        self.snapshots.get(place)
    }

    /// Those behind this sequence.
    pub(crate) fn after(&self, sequence: u64) -> Vec<Arc<Snapshot>> {
        let is_old = |snapshot: &Arc<Snapshot>| snapshot.sequence <= sequence;
        let first = self.snapshots.partition_point(is_old);
        self.snapshots.range(first..).cloned().collect()
    }
}
