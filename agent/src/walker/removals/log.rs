//! Removed cgroups that nobody asked for yet, in the order of their removal: pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use cgfleet_ebpf::abi;
use cgfleet_model::escape_path;

use crate::kernel::{FinalUsage, LifecycleEvent, RemovedCgroup};

/// The most cgroups of which it is kept when they were made. Of more, the oldest are forgotten.
const MADE_MAX: usize = 1 << 18;

/// A removed cgroup.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) cgroup: Box<RemovedCgroup>,
    /// When it was made, of CLOCK_BOOTTIME.
    pub(super) made_at_ns: Option<u64>,
    /// Whether its CPU time was flushed.
    pub(super) is_flushed: bool,
}

/// What was told and not asked for.
#[derive(Debug)]
pub(super) struct Log {
    /// By sequence.
    entries: VecDeque<Entry>,
    entries_max: usize,
    /// By cgroup; ids grow (fs/kernfs/dir.c, __kernfs_new_node), as far as it matters here.
    made: BTreeMap<u64, u64>,
    dropped: u64,
}

impl Log {
    /// A log of at most so many removed cgroups.
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: VecDeque::new(), entries_max, made: BTreeMap::new(), dropped: 0 }
    }

    /// Takes in what happened.
    pub(super) fn add(&mut self, event: LifecycleEvent) {
        match event {
            LifecycleEvent::Made { cgroup_id, at_ns } => {
                self.made.insert(cgroup_id, at_ns);
                if self.made.len() > MADE_MAX {
                    self.made.pop_first();
                }
            }
            LifecycleEvent::Removed(cgroup) => {
                let made_at_ns = self.made.remove(&cgroup.cgroup_id);
                if self.entries.len() < self.entries_max {
                    self.entries.push_back(Entry { cgroup, made_at_ns, is_flushed: false });
                } else {
                    self.dropped += 1;
                }
            }
        }
    }

    /// Takes in a final value. Where a slot has been taken by another cgroup, it is none of the cgroup with
    /// this sequence.
    pub(super) fn set_final(&mut self, usage: FinalUsage) {
        let found = self.entries.binary_search_by_key(&usage.sequence, |entry| entry.cgroup.sequence);
        let Some(entry) = found.ok().and_then(|at| self.entries.get_mut(at)) else { return };
        if entry.cgroup.cgroup_id == usage.cgroup_id {
            entry.cgroup.cpu_usage_ns = usage.cpu_usage_ns;
            entry.cgroup.valid |= abi::CG_GROUP_CPU;
            entry.is_flushed = true;
        }
    }

    /// Those before this sequence, which are kept no longer.
    pub(super) fn take_before(&mut self, sequence: u64) -> Vec<Entry> {
        let count = self.entries.partition_point(|entry| entry.cgroup.sequence < sequence);
        self.entries.drain(..count).collect()
    }

    /// So many were dropped since the last call, for want of room.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// The path that these names make: the last is nearest to the root.
pub(super) fn path(names: &[u8]) -> String {
    let names = names.strip_suffix(b"\0").unwrap_or(names).rsplit(|byte| *byte == 0);
    let path: String = names.filter(|name| !name.is_empty()).fold(String::new(), |mut path, name| {
        path.push('/');
        path.push_str(&escape_path(name));
        path
    });
    if path.is_empty() { "/".to_owned() } else { path }
}

/// The wall clock at a time of CLOCK_BOOTTIME, by what both say now.
pub(super) fn wall_clock(now: (SystemTime, Duration), at_ns: u64) -> SystemTime {
    let (wall, boottime) = now;
    wall.checked_sub(boottime.saturating_sub(Duration::from_nanos(at_ns))).unwrap_or(wall)
}

#[cfg(test)]
mod tests {
    use cgfleet_ebpf::abi::cg_details;

    use super::*;

    fn removed(sequence: u64, cgroup_id: u64) -> LifecycleEvent {
        LifecycleEvent::Removed(Box::new(RemovedCgroup {
            cgroup_id,
            parent_id: 1,
            level: 2,
            at_ns: 0,
            sequence,
            valid: 0,
            cpu_usage_ns: 3,
            details: cg_details { words: [0; abi::CG_DETAILS as usize] },
            names: Box::default(),
        }))
    }

    fn log(entries_max: usize, events: impl IntoIterator<Item = LifecycleEvent>) -> Log {
        let mut log = Log::new(entries_max);
        events.into_iter().for_each(|event| log.add(event));
        log
    }

    fn taken(log: &mut Log, before: u64) -> Vec<(u64, bool)> {
        let taken = log.take_before(before);
        taken.iter().map(|entry| (entry.cgroup.cgroup_id, entry.is_flushed)).collect()
    }

    #[test]
    fn what_was_removed_later_waits() {
        let mut log = log(9, [removed(4, 40), removed(5, 50), removed(6, 60)]);
        assert_eq!(taken(&mut log, 6), [(40, false), (50, false)]);
        assert_eq!(taken(&mut log, 6), []);
        assert_eq!(taken(&mut log, u64::MAX), [(60, false)]);
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let mut log = log(2, (0..5).map(|at| removed(at, at)));
        assert_eq!(log.take_before(5).len(), 2);
        assert_eq!((log.take_dropped(), log.take_dropped()), (3, 0));
    }

    #[test]
    fn a_final_value_is_of_one_cgroup() {
        let mut log = log(9, [removed(4, 40), removed(5, 50)]);
        log.set_final(FinalUsage { sequence: 4, cgroup_id: 44, cpu_usage_ns: 7 });
        log.set_final(FinalUsage { sequence: 5, cgroup_id: 50, cpu_usage_ns: 8 });
        log.set_final(FinalUsage { sequence: 6, cgroup_id: 60, cpu_usage_ns: 9 });
        let entries = log.take_before(9);
        let values: Vec<_> =
            entries.iter().map(|it| (it.cgroup.cpu_usage_ns, it.cgroup.valid, it.is_flushed)).collect();
        assert_eq!(values, [(3, 0, false), (8, abi::CG_GROUP_CPU, true)]);
    }

    #[test]
    fn when_it_was_made_is_known_if_that_was_seen() {
        let made = |cgroup_id, at_ns| LifecycleEvent::Made { cgroup_id, at_ns };
        let mut log = log(9, [made(40, 1), made(50, 2), removed(0, 40), removed(1, 60)]);
        let made_at: Vec<_> = log.take_before(9).iter().map(|entry| entry.made_at_ns).collect();
        assert_eq!(made_at, [Some(1), None]);
        assert_eq!(log.made.len(), 1, "what is removed is forgotten");
    }

    #[test]
    fn the_oldest_that_were_made_are_forgotten() {
        let all = MADE_MAX as u64 + 2;
        let log = log(9, (0..all).map(|cgroup_id| LifecycleEvent::Made { cgroup_id, at_ns: 1 }));
        assert_eq!((log.made.len(), log.made.first_key_value()), (MADE_MAX, Some((&2, &1))));
    }

    #[test]
    fn names_make_a_path() {
        let check = |names: &[u8], expect: &str| assert_eq!(path(names), expect);
        check(b"", "/");
        check(b"leaf\0", "/leaf");
        check(b"leaf\n\0middle\0top\0", "/top/middle/leaf\\x0a");
    }

    #[test]
    fn times_are_of_the_wall_clock() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let check = |at_ns, expect_secs| {
            let expect = SystemTime::UNIX_EPOCH + Duration::from_secs(expect_secs);
            assert_eq!(wall_clock((wall, Duration::from_secs(50)), at_ns), expect);
        };
        check(50_000_000_000, 1000);
        check(20_000_000_000, 970);
        // Between the two looks at the clocks.
        check(51_000_000_000, 1000);
    }
}
