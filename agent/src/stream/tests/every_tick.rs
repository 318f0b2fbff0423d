//! One who takes every snapshot is brought to each that is kept, once and in order, and told how many are not.

use std::sync::Arc;

use proptest::prelude::*;

use super::{CASES, CounterForm, Follower, Seen, Step, World, events::seen, names, world};

impl World {
    /// The client takes the first snapshot behind what it took, as a service has it; false if there is none.
    pub(super) fn take_next(&mut self) -> bool {
        let next = self.client.took.last().map_or(0, |took| took + 1);
        let Some(snapshot) = self.history.from(next).next().cloned() else { return false };
        let names = |path: &str| names(&self.named, path);
        let step = if self.follower.sequence().is_some() {
            self.follower.advance(&[snapshot], names).unwrap()
        } else {
            let missed = if self.history.reaches_back_to(next) { 0 } else { snapshot.sequence - next };
            self.follower.begin_at(&snapshot, missed, names)
        };
        self.check_passed(&step);
        let before = self.client.at.clone();
        self.apply(&step);
        self.check_state(&step.snapshot);
        self.check_removed(before.as_deref(), &step);
        self.client.took.push(step.snapshot.sequence);
        self.client.at = Some(Arc::clone(&step.snapshot));
        true
    }

    /// What was passed over is what the history has dropped, and it is counted.
    fn check_passed(&self, step: &Step) {
        let Some(took) = self.client.took.last() else { return };
        let between = self
            .all
            .iter()
            .filter(|passed| passed.sequence > *took && passed.sequence < step.snapshot.sequence);
        let passed: Vec<u64> = between.map(|passed| passed.sequence).collect();
        assert!(passed.iter().all(|passed| self.history.get(*passed).is_none()), "{passed:?} are kept");
        assert_eq!(step.merged, passed.len() as u64, "{took} to {}", step.snapshot.sequence);
    }
}

fn check(counters: CounterForm, seen: &Seen) {
    let mut world = world(counters, 0.0, seen);
    world.client.takes_every = true;
    world.follower = Follower::new(world.wanted.clone());
    for event in &seen.events {
        world.handle(event);
    }
    world.tick(false);
    while world.take_next() {}
    let took = &world.client.took;
    assert!(took.is_sorted_by(|one, other| one < other), "{took:?}");
    let last = world.all.last().map(|last| last.sequence);
    assert_eq!(took.last().copied(), last);
    if !seen.forgets {
        let all: Vec<u64> = world.all.iter().map(|snapshot| snapshot.sequence).collect();
        assert_eq!(took, &all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_snapshot_that_is_kept_is_taken_once_and_in_order(seen in seen()) {
        check(CounterForm::Cumulative, &seen);
    }

    #[test]
    fn deltas_of_every_snapshot_add_up(seen in seen()) {
        check(CounterForm::Delta, &seen);
    }
}
