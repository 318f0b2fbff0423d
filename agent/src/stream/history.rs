//! The last snapshots, bounded in bytes.

use std::{collections::VecDeque, sync::Arc};

use super::Snapshot;

/// The last snapshots of one interval, the oldest first.
#[derive(Debug)]
pub(crate) struct History {
    snapshots: VecDeque<Arc<Snapshot>>,
    bytes: usize,
    bytes_max: usize,
    /// The sequence of the last one that was dropped.
    dropped: Option<u64>,
}

impl History {
    /// A history of at most so many bytes, and one snapshot at least.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { snapshots: VecDeque::new(), bytes: 0, bytes_max, dropped: None }
    }

    /// Takes in the next snapshot, and drops the oldest as far as it has to.
    pub(crate) fn push(&mut self, snapshot: Snapshot) {
        self.bytes += snapshot.bytes;
        self.snapshots.push_back(Arc::new(snapshot));
        while self.bytes > self.bytes_max && self.snapshots.len() > 1 {
            let Some(oldest) = self.snapshots.pop_front() else { break };
            self.bytes -= oldest.bytes;
            self.dropped = Some(oldest.sequence);
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
        sequence.checked_add(1).map(|first| self.from(first).cloned().collect()).unwrap_or_default()
    }

    /// That with this sequence, and those behind it.
    pub(crate) fn from(&self, sequence: u64) -> impl Iterator<Item = &Arc<Snapshot>> + Clone {
        let first = self.snapshots.partition_point(|snapshot| snapshot.sequence < sequence);
        self.snapshots.range(first..)
    }

    /// Whether it has every snapshot that there was from this sequence on.
    pub(crate) fn reaches_back_to(&self, sequence: u64) -> bool {
        match (self.dropped, self.snapshots.front()) {
            (Some(dropped), _) => dropped < sequence,
            (None, Some(oldest)) => oldest.sequence <= sequence,
            (None, None) => false,
        }
    }
}
