//! A client that applies what it is told has what the snapshots have: of any host, however late or often it
//! asks, and wherever it goes on.

mod events;
mod every_tick;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_model::{Metric, MetricKind, MetricSet, Workload, WorkloadFilter};
use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkSummary};
use proptest::prelude::*;

use super::{Choice, CounterForm, Followed, Follower, Hearing, History, Read, Snapshot, Step};
use crate::walker::{Removed, RemovedValues, Rows};
use events::{Event, HowRemoved, Seen, seen};

/// Cases of each property; together more than 100,000.
const CASES: u32 = 26_000;
const DEAD_BAND: f64 = 0.2;
/// What is read; followers want the first two.
const METRICS: [Metric; 3] = [Metric::CpuUsage, Metric::MemoryCurrent, Metric::PidsCurrent];

/// A host, what its agent keeps, and a client of it.
struct World {
    live: Vec<CgroupSample>,
    next_id: u64,
    sequence: u64,
    /// The tick behind which each was made.
    made_at: BTreeMap<u64, u64>,
    /// Paths of cgroups of which it is known what runs in them: it is the same everywhere.
    named: BTreeSet<String>,
    removed: Vec<Arc<Removed>>,
    lost: u64,
    history: History,
    /// Every snapshot that there ever was.
    all: Vec<Arc<Snapshot>>,
    wanted: Followed,
    follower: Follower,
    client: Client,
}

/// What the client makes of what it was told.
#[derive(Default)]
struct Client {
    rows: BTreeMap<u64, CgroupSample>,
    /// Of deltas: their sum, on what the host had when the client began with the cgroup.
    sums: BTreeMap<u64, u64>,
    removed: BTreeSet<u64>,
    /// Those that it was told of first in the last step.
    first: BTreeSet<u64>,
    lost: u64,
    /// The snapshot that it was brought to.
    at: Option<Arc<Snapshot>>,
    /// Whether it takes every one, and those that it was brought to.
    takes_every: bool,
    took: Vec<u64>,
    /// The first one since it had to begin anew.
    since: u64,
}

impl World {
    fn new(wanted: Followed, snapshots_kept: usize) -> Self {
        let root = CgroupSample { cgroup_id: 1, path: "/".to_owned(), ..CgroupSample::default() };
        let mut world = Self {
            live: vec![root],
            next_id: 2,
            sequence: 0,
            made_at: BTreeMap::from([(1, 0)]),
            named: BTreeSet::new(),
            removed: Vec::new(),
            lost: 0,
            history: History::new(snapshots_kept),
            all: Vec::new(),
            follower: Follower::new(wanted.clone()),
            wanted,
            client: Client::default(),
        };
        world.touch(0, 1);
        world
    }

    fn touch(&mut self, at: usize, usec: u16) {
        let sample = &mut self.live[at];
        let grown = |sample: &CgroupSample| sample.metric(Metric::CpuUsage).unwrap_or(0) + u64::from(usec);
        sample.set_metric(Metric::CpuUsage, Some(grown(sample)));
        sample.set_metric(Metric::MemoryCurrent, Some(u64::from(usec) * 7 % 31));
    }

    fn handle(&mut self, event: &Event) {
        match *event {
            Event::Make { below } => {
                let above = &self.live[below % self.live.len()].path;
                let above = if above == "/" { "" } else { above };
                let path = format!("{above}/{}", self.next_id);
                self.live.push(CgroupSample { cgroup_id: self.next_id, path, ..CgroupSample::default() });
                self.made_at.insert(self.next_id, self.sequence);
                self.next_id += 1;
                self.touch(self.live.len() - 1, 3);
            }
            Event::Grow { at, usec } => self.touch(at % self.live.len(), usec),
            Event::Name { at } => {
                self.named.insert(self.live[at % self.live.len()].path.clone());
            }
            Event::Fork { at } => {
                let at = at % self.live.len();
                let pids = self.live[at].metric(Metric::PidsCurrent).unwrap_or(0);
                self.live[at].set_metric(Metric::PidsCurrent, Some(pids + 1));
            }
            Event::Remove { at, how } => self.remove(at, how),
            Event::Tick { is_cut } => self.tick(is_cut),
            Event::Take if self.client.takes_every => drop(self.take_next()),
            Event::Take => self.take(),
            Event::Reconnect if self.client.takes_every => self.follower = Follower::new(self.wanted.clone()),
            Event::Reconnect => self.reconnect(),
        }
    }

    fn remove(&mut self, at: usize, how: HowRemoved) {
        let path = self.live[at % self.live.len()].path.clone();
        let has_children = self.live.iter().any(|other| other.path.starts_with(&format!("{path}/")));
        if path == "/" || has_children {
            return;
        }
        let sample = self.live.remove(at % self.live.len());
        match how {
            HowRemoved::Unseen => {}
            HowRemoved::Lost => self.lost += 1,
            HowRemoved::Seen => self.removed.push(Arc::new(Removed {
                sample,
                values: RemovedValues::Final,
                created_at: None,
                removed_at: Some(SystemTime::UNIX_EPOCH),
            })),
        }
    }

    fn tick(&mut self, is_cut: bool) {
        self.sequence += 1;
        let mut summary = WalkSummary::default();
        summary.set_end(if is_cut { WalkEnd::Truncated } else { WalkEnd::Complete });
        let met = if is_cut { self.live.len().div_ceil(2) } else { self.live.len() };
        let read = Read {
            sequence: self.sequence,
            boottime: Duration::from_secs(self.sequence),
            sampled_at: SystemTime::UNIX_EPOCH,
            metrics: METRICS.into_iter().collect(),
            rows: Rows::Made(self.live[..met].to_vec()),
            summary,
            hearing: Hearing::Episode(1),
            removed: std::mem::take(&mut self.removed),
            lost: std::mem::take(&mut self.lost),
        };
        self.history.push(Snapshot::new(self.history.latest().map(|latest| &**latest), read));
        self.all.extend(self.history.latest().cloned());
    }

    fn take(&mut self) {
        let before = self.client.at.clone();
        // One who begins is given the newest.
        let newer = match self.follower.sequence() {
            Some(sequence) => self.history.after(sequence),
            None => self.history.latest().cloned().into_iter().collect(),
        };
        let Some(step) = self.follower.advance(&newer, |path| names(&self.named, path)) else { return };
        self.apply(&step);
        self.check_state(&step.snapshot);
        self.check_removed(before.as_deref(), &step);
        self.client.at = Some(Arc::clone(&step.snapshot));
    }

    fn apply(&mut self, step: &Step) {
        if step.is_whole {
            assert!((self.client.takes_every || step.removed.is_empty()) && step.lost == 0);
            let Client { takes_every, took, removed, .. } = std::mem::take(&mut self.client);
            // One who takes every snapshot is told of each removal once, however often it begins.
            let removed = if takes_every { removed } else { BTreeSet::new() };
            let since = step.snapshot.sequence;
            self.client = Client { removed, takes_every, took, since, ..Client::default() };
        } else {
            let passed = self.all.iter().filter(|passed| {
                let at = self.client.at.as_ref().map_or(0, |at| at.sequence);
                passed.sequence > at && passed.sequence < step.snapshot.sequence
            });
            assert_eq!(step.merged, passed.count() as u64);
        }
        self.client.first.clear();
        for change in &step.rows {
            let sample = self.follower.sample(change);
            let cgroup_id = sample.cgroup_id;
            let is_known = self.client.rows.contains_key(&cgroup_id);
            // One who comes back was told of a cgroup, perhaps, before its name was known to all.
            assert!(change.is_first != is_known || self.wanted.workload.is_some(), "{cgroup_id}");
            if change.is_first {
                self.client.first.insert(cgroup_id);
            }
            if self.wanted.counters == CounterForm::Delta {
                let has = step.snapshot.row(cgroup_id).and_then(|row| row.sample.metric(Metric::CpuUsage));
                let added = sample.metric(Metric::CpuUsage);
                if is_known {
                    *self.client.sums.get_mut(&cgroup_id).unwrap() += added.unwrap();
                } else {
                    // All of what it used, or none: it was made meanwhile, or not.
                    let at = self.client.at.as_ref().map(|at| at.sequence).filter(|_| !step.is_whole);
                    let is_new = at.is_some_and(|at| self.made_at[&cgroup_id] >= at);
                    assert!(added.is_none() || added == has && is_new || !change.is_first, "{cgroup_id}");
                    self.client.sums.insert(cgroup_id, has.unwrap());
                }
            }
            self.client.rows.insert(cgroup_id, sample);
        }
        for removed in &step.removed {
            let cgroup_id = removed.sample.cgroup_id;
            self.client.rows.remove(&cgroup_id);
            assert!(self.client.removed.insert(cgroup_id), "{cgroup_id} is told of as removed once");
        }
        self.client.lost += step.lost;
    }

    fn is_chosen(&self, sample: &CgroupSample) -> bool {
        let runs = self.wanted.workload.is_none() || self.named.contains(&sample.path);
        runs && self.wanted.choice.holds(sample)
    }

    /// The client has what the snapshot has.
    fn check_state(&self, snapshot: &Snapshot) {
        let chosen = snapshot.rows.iter().filter(|row| self.is_chosen(&row.sample));
        let chosen: BTreeMap<_, _> = chosen.map(|row| (row.sample.cgroup_id, &row.sample)).collect();
        assert!(self.client.rows.keys().eq(chosen.keys()), "{:?} {chosen:?}", self.client.rows);
        for (cgroup_id, row) in chosen {
            let client = &self.client.rows[&cgroup_id];
            assert_eq!((&client.path, client.metric(Metric::PidsCurrent)), (&row.path, None));
            for metric in self.wanted.metrics.iter() {
                let is_counter = metric.info().kind == MetricKind::Counter;
                let (told, has) = (client.metric(metric), row.metric(metric));
                match self.wanted.counters {
                    CounterForm::Delta if is_counter => {
                        assert_eq!(Some(self.client.sums[&cgroup_id]), has, "{cgroup_id}");
                    }
                    CounterForm::Rate if is_counter => self.check_rate(cgroup_id, told, snapshot),
                    _ => assert!(
                        !super::form::differs(has, told, self.wanted.dead_band),
                        "{cgroup_id} {}: {told:?}, {has:?}",
                        metric.name()
                    ),
                }
            }
        }
    }

    /// Ticks are seconds apart: a rate is what was added since the snapshot that the client was at.
    fn check_rate(&self, cgroup_id: u64, told: Option<u64>, snapshot: &Snapshot) {
        let usage =
            |snapshot: &Snapshot| snapshot.row(cgroup_id).and_then(|row| row.sample.metric(Metric::CpuUsage));
        let Some(at) = self.client.at.as_ref().filter(|at| at.sequence >= self.client.since) else {
            assert_eq!(told, None);
            return;
        };
        let is_new =
            snapshot.row(cgroup_id).is_some_and(|row| row.born.is_some_and(|born| born > at.sequence));
        let is_first = self.client.first.contains(&cgroup_id);
        assert!(!is_new || self.made_at[&cgroup_id] >= at.sequence, "{cgroup_id}");
        let before = if is_new { Some(0) } else { usage(at).filter(|_| !is_first) };
        let rate = before.zip(usage(snapshot)).map(|(before, now)| {
            let (added, seconds) = (now - before, snapshot.sequence - at.sequence);
            // Half a unit goes up.
            (2 * added + seconds) / (2 * seconds)
        });
        assert_eq!(told, rate, "{cgroup_id}");
    }

    /// Whatever was removed meanwhile was told of, or counted.
    fn check_removed(&self, before: Option<&Snapshot>, step: &Step) {
        let has_followed = !step.is_whole || (self.client.takes_every && step.merged == 0);
        let Some(before) = before.filter(|_| has_followed) else { return };
        let between = |snapshot: &&Arc<Snapshot>| {
            snapshot.sequence > before.sequence && snapshot.sequence <= step.snapshot.sequence
        };
        let removed = self.all.iter().filter(between).flat_map(|snapshot| &snapshot.removed);
        let untold = removed.filter(|removed| {
            self.is_chosen(&removed.sample) && !self.client.removed.contains(&removed.sample.cgroup_id)
        });
        assert!(untold.count() as u64 <= step.lost);
    }

    /// As a service does: a snapshot that is no longer kept means to begin anew.
    fn reconnect(&mut self) {
        let kept = self.client.at.as_ref().and_then(|at| self.history.get(at.sequence)).cloned();
        self.follower = match kept {
            Some(at) => Follower::resumed(self.wanted.clone(), at, |path| names(&self.named, path)),
            None => Follower::new(self.wanted.clone()),
        };
    }
}

/// What runs in the cgroup of this path, once that is known.
fn names(named: &BTreeSet<String>, path: &str) -> Option<Workload> {
    named.contains(path).then(|| Workload { pod_name: Some("web-0".into()), ..Workload::default() })
}

fn check(counters: CounterForm, dead_band: f64, seen: &Seen) {
    let mut world = world(counters, dead_band, seen);
    for event in &seen.events {
        world.handle(event);
    }
    world.tick(false);
    world.take();
}

fn world(counters: CounterForm, dead_band: f64, seen: &Seen) -> World {
    let Seen { whole_host, max_depth, pods_alone, forgets, .. } = seen;
    let top = if *whole_host { "/" } else { "/2" };
    let metrics: MetricSet = METRICS[..2].iter().copied().collect();
    let workload = WorkloadFilter::parse(Some("web-0"), None, None).unwrap().filter(|_| *pods_alone);
    let wanted =
        Followed { workload, choice: Choice::new(top.to_owned(), *max_depth), metrics, counters, dead_band };
    // One that forgets keeps about two snapshots.
    World::new(wanted, if *forgets { 3_000 } else { 1 << 20 })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_has_what_the_snapshot_has(seen in seen()) {
        check(CounterForm::Cumulative, 0.0, &seen);
    }

    #[test]
    fn deltas_add_up_to_what_the_snapshot_has(seen in seen()) {
        check(CounterForm::Delta, 0.0, &seen);
    }

    #[test]
    fn rates_are_of_the_time_since_the_client_was_told(seen in seen()) {
        check(CounterForm::Rate, 0.0, &seen);
    }

    #[test]
    fn a_client_is_never_further_off_than_the_dead_band(seen in seen()) {
        check(CounterForm::Cumulative, DEAD_BAND, &seen);
    }
}
