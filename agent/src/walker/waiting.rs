//! Requests that wait for the walker: equal ones have one place in its queue.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::WalkError;

type Waiters<K, W> = HashMap<K, Vec<W>>;

/// All who wait, by what they ask for.
#[derive(Debug)]
pub(super) struct Waiting<K, W> {
    waiters: Arc<Mutex<Waiters<K, W>>>,
    waiters_max: usize,
    /// What one more than that gets.
    full: fn(usize) -> WalkError,
}

impl<K, W> Clone for Waiting<K, W> {
    fn clone(&self) -> Self {
        Self { waiters: Arc::clone(&self.waiters), ..*self }
    }
}

impl<K: Eq + Hash + Clone, W> Waiting<K, W> {
    pub(super) fn new(waiters_max: usize, full: fn(usize) -> WalkError) -> Self {
        Self { waiters: Arc::default(), waiters_max, full }
    }

    /// Takes in one more. The first who asks for something has it queued.
    pub(super) fn join(
        &self,
        key: K,
        waiter: W,
        queue: impl FnOnce(K) -> Result<(), WalkError>,
    ) -> Result<(), WalkError> {
        let mut waiters = self.locked();
        if waiters.values().map(Vec::len).sum::<usize>() >= self.waiters_max {
            return Err((self.full)(self.waiters_max));
        }
        if let Some(others) = waiters.get_mut(&key) {
            others.push(waiter);
        } else {
            // Under the lock: the walker may take it at once.
            queue(key.clone())?;
            waiters.insert(key, vec![waiter]);
        }
        Ok(())
    }

    /// Takes out all who ask for this now; who asks from now on is queued anew.
    pub(super) fn take(&self, key: &K) -> Vec<W> {
        self.locked().remove(key).unwrap_or_default()
    }

    /// Takes out those who ask for this and for whom it holds. Their place in the queue stays, for who comes
    /// after them.
    pub(super) fn take_if(&self, key: &K, mut holds: impl FnMut(&W) -> bool) -> Vec<W> {
        let mut waiters = self.locked();
        waiters.get_mut(key).map_or_else(Vec::new, |of_it| of_it.extract_if(.., |it| holds(it)).collect())
    }

    /// Sends all who wait away when it is dropped.
    pub(super) fn abandoned_on_drop(&self) -> Abandoned<K, W> {
        Abandoned(self.clone())
    }

    fn locked(&self) -> MutexGuard<'_, Waiters<K, W>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Abandoned<K: Eq + Hash + Clone, W>(Waiting<K, W>);

impl<K: Eq + Hash + Clone, W> Drop for Abandoned<K, W> {
    fn drop(&mut self) {
        self.0.locked().clear();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn waiting<W>() -> Waiting<u64, W> {
        Waiting::new(4, |waiters_max| WalkError::FlushWaitersFull { waiters_max })
    }

    /// Waiters for these, of at most four, numbered from 0; those that are queued.
    fn queued(waiting: &Waiting<u64, usize>, keys: &[u64]) -> Result<Vec<u64>, WalkError> {
        let mut queued = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            waiting.join(*key, number, |_| {
                queued.push(*key);
                Ok(())
            })?;
        }
        Ok(queued)
    }

    #[test]
    fn equal_requests_are_queued_once_until_they_are_taken() {
        let waiting = waiting();
        assert_eq!(queued(&waiting, &[1, 2, 1]).unwrap(), [1, 2]);
        assert_eq!(waiting.take(&1), [0, 2]);
        assert!(waiting.take(&1).is_empty());
        assert_eq!(queued(&waiting, &[1, 1]).unwrap(), [1]);
    }

    #[test]
    fn a_place_in_the_queue_stays_when_some_are_taken_out() {
        let waiting = waiting();
        assert_eq!(queued(&waiting, &[1, 1, 2]).unwrap(), [1, 2]);
        assert_eq!(waiting.take_if(&1, |number| *number == 0), [0]);
        assert_eq!(waiting.take_if(&1, |_| true), [1]);
        assert!(waiting.take_if(&3, |_| true).is_empty());
        assert!(queued(&waiting, &[1]).unwrap().is_empty());
        assert_eq!(waiting.take(&1), [0]);
        assert_eq!(queued(&waiting, &[1]).unwrap(), [1]);
    }

    #[test]
    fn no_more_wait_than_may() {
        let waiting = waiting();
        assert!(matches!(
            queued(&waiting, &[1, 1, 2, 3, 1]),
            Err(WalkError::FlushWaitersFull { waiters_max: 4 })
        ));
        assert_eq!(waiting.take(&1).len(), 2);
        assert!(queued(&waiting, &[1]).is_ok());
    }

    #[test]
    fn nobody_waits_for_a_walker_that_has_ended() {
        let (waiting, (sender, mut answer)) = (waiting(), oneshot::channel::<()>());
        let abandoned = waiting.abandoned_on_drop();
        waiting.join(1, sender, |_| Ok(())).unwrap();
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        drop(abandoned);
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }

    #[test]
    fn who_finds_the_queue_full_does_not_wait() {
        let waiting = waiting();
        let refused = waiting.join(1, 0, |_| Err(WalkError::QueueFull { queue_max: 1 }));
        assert!(matches!(refused, Err(WalkError::QueueFull { queue_max: 1 })));
        assert!(waiting.take(&1).is_empty());
    }
}
