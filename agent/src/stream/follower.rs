//! What one follower is told: from snapshot to snapshot, whether it takes each of them or not.
//!
//! It is told states, not events: a follower that is late is brought to the latest snapshot at once. So nothing
//! waits for it but its place, which is the snapshot that it was brought to last.

use std::{sync::Arc, time::Duration};

use cgfleet_model::{MetricSet, Workload, WorkloadFilter};
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
    /// Of the choice, those in which this runs.
    pub(crate) workload: Option<WorkloadFilter>,
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
    /// With a workload filter: the cgroups in which that is known to run. Names may come later than their cgroups.
    members: FxHashSet<u64>,
    /// Those of them that it was told of first where it is: of their rates it was sent none.
    admitted: FxHashSet<u64>,
    /// Whether all rows have to be sent, though the follower is somewhere: what it was sent last is not known.
    sends_all: bool,
}

impl Follower {
    /// One who knows nothing yet.
    pub(crate) fn new(wanted: Followed) -> Self {
        let (sent, members, admitted) = Default::default();
        Self { wanted, at: None, was: None, sent, members, admitted, sends_all: false }
    }

    /// One who was brought to this snapshot by an earlier stream. `names` as for [`advance`](Self::advance): what is
    /// known now is taken to have been known then.
    pub(crate) fn resumed(
        wanted: Followed,
        at: Arc<Snapshot>,
        names: impl Fn(&str) -> Option<Workload>,
    ) -> Self {
        let sends_all =
            wanted.dead_band > 0.0 || wanted.counters == CounterForm::Rate || wanted.workload.is_some();
        let mut follower = Self { sends_all, ..Self::new(wanted) };
        follower.admit(&at, names);
        follower.at = Some(at);
        follower
    }

    /// The sequence of the snapshot where it is.
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.at.as_ref().map(|at| at.sequence)
    }

    /// A row that was sent already, whole: for something of it that is no value became known.
    pub(crate) fn again(&self, cgroup_id: u64) -> Option<Change> {
        let row = self.at.as_ref()?.row(cgroup_id)?;
        let is_whole = self.wanted.counters == CounterForm::Cumulative;
        is_whole.then(|| Change::first(row, ChangeBase::None, Duration::ZERO))
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

    /// Brings it to the last of these snapshots, which follow where it is; some may be missing at the front. `names`
    /// says what runs in the cgroup of a path, as far as is known now.
    pub(crate) fn advance(
        &mut self,
        newer: &[Arc<Snapshot>],
        names: impl Fn(&str) -> Option<Workload>,
    ) -> Option<Step> {
        let next = Arc::clone(newer.last()?);
        let admitted = self.admit(&next, &names);
        let step = match self.at.take() {
            None => {
                self.was = None;
                self.begin(&next)
            }
            Some(at) => {
                let step = self.follow(&at, newer, &next, admitted, &names);
                // Nobody else needs it, and it is large.
                self.was = Some(at).filter(|_| self.wanted.counters == CounterForm::Rate);
                step
            }
        };
        self.sends_all = false;
        self.at = Some(next);
        Some(step)
    }

    /// Has it begin with this snapshot, behind `missed` that are not kept any more. Of what was removed right
    /// before it, it is told too: whoever has the snapshot before misses nothing.
    pub(crate) fn begin_at(
        &mut self,
        first: &Arc<Snapshot>,
        missed: u64,
        names: impl Fn(&str) -> Option<Workload>,
    ) -> Step {
        self.admit(first, &names);
        let begun = self.begin(first);
        let is_wanted =
            |removed: &&Arc<Removed>| self.holds(&removed.sample) || self.admits(&removed.sample, &names);
        let removed = first.removed.iter().filter(is_wanted).cloned().collect();
        self.at = Some(Arc::clone(first));
        Step { removed, merged: missed, ..begun }
    }

    fn begin(&mut self, next: &Arc<Snapshot>) -> Step {
        let rows = next.rows.iter().filter(|row| self.holds(&row.sample));
        let rows: Vec<Change> =
            rows.map(|row| Change::first(row, ChangeBase::None, Duration::ZERO)).collect();
        self.remember(&rows);
        Step { snapshot: Arc::clone(next), is_whole: true, rows, removed: Vec::new(), lost: 0, merged: 0 }
    }

    fn follow(
        &mut self,
        at: &Arc<Snapshot>,
        newer: &[Arc<Snapshot>],
        next: &Arc<Snapshot>,
        admitted: FxHashSet<u64>,
        names: impl Fn(&str) -> Option<Workload>,
    ) -> Step {
        let elapsed = next.boottime.saturating_sub(at.boottime);
        let change = |row| self.change(row, at, elapsed, &admitted);
        let rows: Vec<Change> = next.rows.iter().filter_map(change).collect();
        self.admitted = admitted;
        self.remember(&rows);
        let of_all = newer.iter().flat_map(|snapshot| &snapshot.removed);
        let told = of_all.clone().count() as u64;
        // One that was only missing may have been met again.
        let is_gone = |removed: &&Arc<Removed>| next.row(removed.sample.cgroup_id).is_none();
        let is_wanted =
            |removed: &&Arc<Removed>| self.holds(&removed.sample) || self.admits(&removed.sample, &names);
        let mut removed: Vec<_> = of_all.filter(is_gone).filter(is_wanted).cloned().collect();
        let removals = next.removed_in_all - at.removed_in_all;
        let mut lost = removals.saturating_sub(told);
        if lost > 0 {
            let missed = self.missed(at, next, &removed);
            lost = lost.saturating_sub(missed.len() as u64);
            removed.extend(missed);
        }
        for removed in &removed {
            self.sent.remove(&removed.sample.cgroup_id);
            self.members.remove(&removed.sample.cgroup_id);
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

    /// Whether it is told of a cgroup.
    fn holds(&self, sample: &CgroupSample) -> bool {
        self.wanted.choice.holds(sample)
            && (self.wanted.workload.is_none() || self.members.contains(&sample.cgroup_id))
    }

    /// Whether what is wanted runs in a cgroup, as far as is known now.
    fn admits(&self, sample: &CgroupSample, names: impl Fn(&str) -> Option<Workload>) -> bool {
        let Some(filter) = &self.wanted.workload else { return false };
        self.wanted.choice.holds(sample)
            && names(&sample.path).is_some_and(|workload| filter.matches(&workload))
    }

    /// Takes in the cgroups in which what is wanted is now known to run.
    fn admit(&mut self, next: &Snapshot, names: impl Fn(&str) -> Option<Workload>) -> FxHashSet<u64> {
        let mut admitted = FxHashSet::default();
        if self.wanted.workload.is_some() {
            let others = next.rows.iter().filter(|row| !self.members.contains(&row.sample.cgroup_id));
            let found = others.filter(|row| self.admits(&row.sample, &names));
            admitted = found.map(|row| row.sample.cgroup_id).collect();
            self.members.extend(&admitted);
        }
        admitted
    }

    /// The row, if the follower has to be told of it.
    fn change(
        &self,
        row: &Row,
        at: &Snapshot,
        elapsed: Duration,
        admitted: &FxHashSet<u64>,
    ) -> Option<Change> {
        let is_rate = self.wanted.counters == CounterForm::Rate;
        // A rate that was sent changes once more when the row does not.
        let changed_before = self.was.as_ref().is_none_or(|was| row.changed > was.sequence);
        let is_admitted = admitted.contains(&row.sample.cgroup_id);
        let lacks_rate = is_rate && self.admitted.contains(&row.sample.cgroup_id);
        let has_changed = row.changed > at.sequence || (is_rate && changed_before);
        if !(has_changed || lacks_rate || is_admitted || self.sends_all) || !self.holds(&row.sample) {
            return None;
        }
        let known = at.row(row.sample.cgroup_id).filter(|_| !is_admitted);
        let Some(known) = known else {
            // A walk that was cut meets cgroups for the first time that were there before, and a name may come late.
            let is_new = row.born.is_some_and(|born| born > at.sequence);
            let base = if is_new { ChangeBase::Birth } else { ChangeBase::None };
            return Some(Change::first(row, base, elapsed));
        };
        let base = ChangeBase::Row(Arc::clone(&known.sample));
        let change = Change { row: Arc::clone(&row.sample), base, elapsed, is_first: false };
        (self.sends_all || lacks_rate || self.differs(&change, known, at)).then_some(change)
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
            None if known.born.is_some_and(|born| born > was.sequence) => Base::Birth,
            None => Base::None,
        };
        (base, at.boottime.saturating_sub(was.boottime))
    }

    /// What the follower knew of, and is neither there nor told of as removed.
    fn missed(&self, at: &Snapshot, next: &Snapshot, told: &[Arc<Removed>]) -> Vec<Arc<Removed>> {
        let told: FxHashSet<u64> = told.iter().map(|removed| removed.sample.cgroup_id).collect();
        let gone = at.rows.iter().map(|row| &row.sample).filter(|sample| {
            next.row(sample.cgroup_id).is_none() && self.holds(sample) && !told.contains(&sample.cgroup_id)
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
    /// The cgroup that it is of.
    pub(crate) fn cgroup_id(&self) -> u64 {
        self.row.cgroup_id
    }

    /// Its path as text.
    pub(crate) fn path(&self) -> &str {
        &self.row.path
    }

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
