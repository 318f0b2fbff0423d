//! What one follower is told: from snapshot to snapshot, whether it takes each of them or not.
//!
//! It is told states, not events: a follower that is late is brought to the latest snapshot at once. So nothing
//! waits for it but its place, which is the snapshot that it was brought to last.

use std::{sync::Arc, time::Duration};

use cgfleet_model::MetricSet;
use cgfleet_proto::v1::CgroupSample;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Choice, CounterForm, Snapshot,
    form::{Base, Form, differs},
    snapshot::{Row, missing},
};
use crate::walker::Removed;

/// What a follower wants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Followed {
    pub(crate) choice: Choice,
    pub(crate) metrics: MetricSet,
    pub(crate) counters: CounterForm,
    /// A share, 0 to 1; not with deltas, which are of their own time.
    pub(crate) dead_band: f64,
}

/// A row to be sent, not yet in its form: that is made as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    row: Arc<CgroupSample>,
    base: ChangeBase,
    elapsed: Duration,
    /// Whether the follower is told of the cgroup for the first time.
    pub(crate) is_first: bool,
}

#[derive(Debug, Clone)]
enum ChangeBase {
    None,
    Birth,
    Row(Arc<CgroupSample>),
}

/// What brings a follower to a snapshot.
#[derive(Debug)]
pub(crate) struct Step {
    /// That snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Whether all before is to be forgotten: the rows are the whole state.
    pub(crate) is_whole: bool,
    pub(crate) rows: Vec<Change>,
    pub(crate) removed: Vec<Arc<Removed>>,
    /// Removed cgroups of the host that are not told of, at most.
    pub(crate) lost: u64,
    /// Snapshots that were passed over.
    pub(crate) merged: u64,
}

/// A follower.
#[derive(Debug)]
pub(crate) struct Follower {
    wanted: Followed,
    /// Where it is.
    at: Option<Arc<Snapshot>>,
    /// Where it was before: of rates, what was sent last is the growth from there.
    was: Option<Arc<Snapshot>>,
    /// What was sent last, by cgroup, in the order of the metrics; with a dead band alone.
    sent: FxHashMap<u64, Box<[Option<u64>]>>,
    /// Whether all rows have to be sent, though the follower is somewhere: what it was sent last is not known.
    sends_all: bool,
}

impl Follower {
    /// One who knows nothing yet.
    pub(crate) fn new(wanted: Followed) -> Self {
        Self { wanted, at: None, was: None, sent: FxHashMap::default(), sends_all: false }
    }

    /// One who was brought to this snapshot by an earlier stream.
    pub(crate) fn resumed(wanted: Followed, at: Arc<Snapshot>) -> Self {
        let sends_all = wanted.dead_band > 0.0 || wanted.counters == CounterForm::Rate;
        Self { sends_all, at: Some(at), ..Self::new(wanted) }
    }

    /// The sequence of the snapshot where it is.
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.at.as_ref().map(|at| at.sequence)
    }

    /// A row in the form in which it is sent.
    pub(crate) fn sample(&self, change: &Change) -> CgroupSample {
        self.form().sample(&change.row, change.base(), change.elapsed)
    }

    /// What is left of a removed cgroup's sample.
    pub(crate) fn last_sample(&self, removed: &Removed) -> CgroupSample {
        let mut sample = removed.sample.clone();
        sample.keep_only(self.wanted.metrics);
        sample
    }

    /// Brings it to the last of these snapshots, which follow where it is; some may be missing at the front.
    pub(crate) fn advance(&mut self, newer: &[Arc<Snapshot>]) -> Option<Step> {
        let next = Arc::clone(newer.last()?);
        let step = match self.at.take() {
            None => {
                self.was = None;
                self.begin(&next)
            }
            Some(at) => {
                let step = self.follow(&at, newer, &next);
                self.was = Some(at);
                step
            }
        };
        self.sends_all = false;
        self.at = Some(next);
        Some(step)
    }

    fn begin(&mut self, next: &Arc<Snapshot>) -> Step {
        let rows = next.rows.iter().filter(|row| self.wanted.choice.holds(&row.sample));
        let rows: Vec<Change> =
            rows.map(|row| Change::first(row, ChangeBase::None, Duration::ZERO)).collect();
        self.remember(&rows);
        Step { snapshot: Arc::clone(next), is_whole: true, rows, removed: Vec::new(), lost: 0, merged: 0 }
    }

    fn follow(&mut self, at: &Arc<Snapshot>, newer: &[Arc<Snapshot>], next: &Arc<Snapshot>) -> Step {
        let elapsed = next.boottime.saturating_sub(at.boottime);
        let rows: Vec<Change> = next.rows.iter().filter_map(|row| self.change(row, at, elapsed)).collect();
        self.remember(&rows);
        let of_all = newer.iter().flat_map(|snapshot| &snapshot.removed);
        let told = of_all.clone().count() as u64;
        let mut removed: Vec<_> =
            of_all.filter(|removed| self.wanted.choice.holds(&removed.sample)).cloned().collect();
        let removals = next.removed_in_all - at.removed_in_all;
        let mut lost = removals.saturating_sub(told);
        if lost > 0 {
            let missed = self.missed(at, next, &removed);
            lost = lost.saturating_sub(missed.len() as u64);
            removed.extend(missed);
        }
        for removed in &removed {
            self.sent.remove(&removed.sample.cgroup_id);
        }
        Step {
            snapshot: Arc::clone(next),
            is_whole: false,
            rows,
            removed,
            lost,
            merged: next.ordinal - at.ordinal - 1,
        }
    }

    /// The row, if the follower has to be told of it.
    fn change(&self, row: &Row, at: &Snapshot, elapsed: Duration) -> Option<Change> {
        let is_rate = self.wanted.counters == CounterForm::Rate;
        // A rate that was sent changes once more when the row does not.
        let changed_before = self.was.as_ref().is_none_or(|was| row.changed > was.sequence);
        let has_changed = row.changed > at.sequence || (is_rate && changed_before) || self.sends_all;
        if !has_changed || !self.wanted.choice.holds(&row.sample) {
            return None;
        }
        let known = at.row(row.sample.cgroup_id);
        let Some(known) = known else {
            // A walk that was cut meets cgroups for the first time that were there before.
            let base = if row.born > at.sequence { ChangeBase::Birth } else { ChangeBase::None };
            return Some(Change::first(row, base, elapsed));
        };
        let base = ChangeBase::Row(Arc::clone(&known.sample));
        let change = Change { row: Arc::clone(&row.sample), base, elapsed, is_first: false };
        (self.sends_all || self.differs(&change, known, at)).then_some(change)
    }

    /// Whether the row's form differs from what was sent of it last.
    fn differs(&self, change: &Change, known: &Row, at: &Snapshot) -> bool {
        let form = self.form();
        let value = |metric| form.value(metric, &change.row, change.base(), change.elapsed);
        let metrics = self.wanted.metrics;
        if self.wanted.dead_band > 0.0 {
            let Some(sent) = self.sent.get(&change.row.cgroup_id) else { return true };
            let mut values = metrics.iter().map(value).zip(&**sent);
            return values.any(|(value, sent)| differs(value, *sent, self.wanted.dead_band));
        }
        match self.wanted.counters {
            // What was not added needs not be told of.
            CounterForm::Cumulative | CounterForm::Delta => {
                metrics.iter().any(|metric| change.row.metric(metric) != known.sample.metric(metric))
            }
            CounterForm::Rate => {
                let (base, elapsed) = self.base_of_known(known, at);
                metrics.iter().any(|metric| value(metric) != form.value(metric, &known.sample, base, elapsed))
            }
        }
    }

    /// What the rate that was sent last of this row was measured against.
    fn base_of_known(&self, known: &Row, at: &Snapshot) -> (Base<'_>, Duration) {
        let Some(was) = &self.was else { return (Base::None, Duration::ZERO) };
        let base = match was.row(known.sample.cgroup_id) {
            Some(row) => Base::Row(&row.sample),
            None if known.born > was.sequence => Base::Birth,
            None => Base::None,
        };
        (base, at.boottime.saturating_sub(was.boottime))
    }

    /// What the follower knew of, and is neither there nor told of as removed.
    fn missed(&self, at: &Snapshot, next: &Snapshot, told: &[Arc<Removed>]) -> Vec<Arc<Removed>> {
        let told: FxHashSet<u64> = told.iter().map(|removed| removed.sample.cgroup_id).collect();
        let gone = at.rows.iter().map(|row| &row.sample).filter(|sample| {
            next.row(sample.cgroup_id).is_none()
                && self.wanted.choice.holds(sample)
                && !told.contains(&sample.cgroup_id)
        });
        gone.map(|sample| Arc::new(missing(sample))).collect()
    }

    /// With a dead band: what is sent now.
    fn remember(&mut self, rows: &[Change]) {
        if self.wanted.dead_band == 0.0 {
            return;
        }
        for change in rows {
            let form = self.form();
            let values = self.wanted.metrics.iter();
            let values = values.map(|metric| form.value(metric, &change.row, change.base(), change.elapsed));
            self.sent.insert(change.row.cgroup_id, values.collect());
        }
    }

    fn form(&self) -> Form {
        Form { metrics: self.wanted.metrics, counters: self.wanted.counters }
    }
}

impl Change {
    fn first(row: &Row, base: ChangeBase, elapsed: Duration) -> Self {
        Self { row: Arc::clone(&row.sample), base, elapsed, is_first: true }
    }

    fn base(&self) -> Base<'_> {
        match &self.base {
            ChangeBase::None => Base::None,
            ChangeBase::Birth => Base::Birth,
            ChangeBase::Row(row) => Base::Row(row),
        }
    }
}
