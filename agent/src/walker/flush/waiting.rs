//! Requests to flush that wait for the walker: equal ones have one place in its queue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{FlushAnswer, FlushSpec};
use crate::walker::WalkError;

/// Somebody who waits for a flush.
#[derive(Debug)]
pub(in crate::walker) struct Waiter {
    pub(super) asked_at: Instant,
    pub(super) max_staleness: Duration,
    pub(super) answer: oneshot::Sender<Result<FlushAnswer, WalkError>>,
}

impl Waiter {
    /// One who asks now.
    pub(in crate::walker) fn new(
        max_staleness: Duration,
        answer: oneshot::Sender<Result<FlushAnswer, WalkError>>,
    ) -> Self {
        Self { asked_at: Instant::now(), max_staleness, answer }
    }
}

/// All who wait, by what they ask for.
#[derive(Debug, Clone)]
pub(in crate::walker) struct Waiting {
    waiters: Arc<Mutex<HashMap<FlushSpec, Vec<Waiter>>>>,
    waiters_max: usize,
}

impl Waiting {
    pub(in crate::walker) fn new(waiters_max: usize) -> Self {
        Self { waiters: Arc::default(), waiters_max }
    }

    /// Takes in one more. The first who asks for something has it queued.
    pub(in crate::walker) fn join(
        &self,
        spec: FlushSpec,
        waiter: Waiter,
        queue: impl FnOnce(FlushSpec) -> Result<(), WalkError>,
    ) -> Result<(), WalkError> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.values().map(Vec::len).sum::<usize>() >= self.waiters_max {
            return Err(WalkError::FlushWaitersFull { waiters_max: self.waiters_max });
        }
        if let Some(others) = waiters.get_mut(&spec) {
            others.push(waiter);
        } else {
            // Under the lock: the walker may take it at once.
            queue(spec.clone())?;
            waiters.insert(spec, vec![waiter]);
        }
        Ok(())
    }

    /// Takes out all who ask for this now; who asks from now on is queued anew.
    pub(in crate::walker) fn take(&self, spec: &FlushSpec) -> Vec<Waiter> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.remove(spec).unwrap_or_default()
    }

    /// Sends all who wait away when it is dropped.
    pub(in crate::walker) fn abandoned_on_drop(&self) -> impl Drop + use<> {
        Abandoned(self.clone())
    }
}

struct Abandoned(Waiting);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walker::{FlushScope, Target};

    fn spec(cgroup_id: u64) -> FlushSpec {
        FlushSpec { target: Target::Id(cgroup_id), scope: FlushScope::Subtree }
    }

    /// Waiters for these cgroups, of at most four; those that are queued.
    fn queued(waiting: &Waiting, cgroups: &[u64]) -> Result<Vec<u64>, WalkError> {
        let mut queued = Vec::new();
        for cgroup_id in cgroups {
            let waiter = Waiter::new(Duration::ZERO, oneshot::channel().0);
            waiting.join(spec(*cgroup_id), waiter, |_| {
                queued.push(*cgroup_id);
                Ok(())
            })?;
        }
        Ok(queued)
    }

    #[test]
    fn equal_requests_are_queued_once_until_they_are_taken() {
        let waiting = Waiting::new(4);
        assert_eq!(queued(&waiting, &[1, 2, 1]).unwrap(), [1, 2]);
        assert_eq!(waiting.take(&spec(1)).len(), 2);
        assert_eq!(waiting.take(&spec(1)).len(), 0);
        assert_eq!(queued(&waiting, &[1, 1]).unwrap(), [1]);
    }

    #[test]
    fn no_more_wait_than_may() {
        let waiting = Waiting::new(4);
        assert!(matches!(
            queued(&waiting, &[1, 1, 2, 3, 1]),
            Err(WalkError::FlushWaitersFull { waiters_max: 4 })
        ));
        assert_eq!(waiting.take(&spec(1)).len(), 2);
        assert!(queued(&waiting, &[1]).is_ok());
    }

    #[test]
    fn nobody_waits_for_a_walker_that_has_ended() {
        let (waiting, (sender, mut answer)) = (Waiting::new(4), oneshot::channel());
        let abandoned = waiting.abandoned_on_drop();
        waiting.join(spec(1), Waiter::new(Duration::ZERO, sender), |_| Ok(())).unwrap();
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        drop(abandoned);
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }

    #[test]
    fn who_finds_the_queue_full_does_not_wait() {
        let waiting = Waiting::new(4);
        let waiter = Waiter::new(Duration::ZERO, oneshot::channel().0);
        let refused = waiting.join(spec(1), waiter, |_| Err(WalkError::QueueFull { queue_max: 1 }));
        assert!(matches!(refused, Err(WalkError::QueueFull { queue_max: 1 })));
        assert!(waiting.take(&spec(1)).is_empty());
    }
}
