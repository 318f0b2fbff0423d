//! Walks that are asked for: one answers all who ask for the same and came before it began, and those who came later
//! if it is fresh enough for them. Answers that may be of use to others still are kept.
//!
//! Must not know how a walk is done: that is the engine's.

mod kept;

use std::{
    cmp::Reverse,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Engine, WalkError, WalkSpec, Walked,
    demand::{Demand, FlushMode, Read},
    flush::{FlushDemand, FlushRule, Freshening, Ledger},
    waiting::Waiting,
};
use kept::Kept;

/// What equal requests have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) spec: WalkSpec,
    pub(super) flush: FlushMode,
}

/// What a request for a walk got.
#[derive(Debug)]
pub struct Answered {
    /// The answer, which others may have, too.
    pub walked: Arc<Walked>,
    /// Whether it was made for another request.
    pub shared: bool,
    /// From the request's arrival until then.
    pub took: Duration,
}

/// Somebody who waits for a walk.
#[derive(Debug)]
pub(super) struct WalkWaiter {
    pub(super) demand: Demand,
    pub(super) answer: oneshot::Sender<Result<Answered, Arc<WalkError>>>,
}

impl WalkWaiter {
    /// One that has gone gets nothing.
    fn gets(self, answer: Result<(Arc<Walked>, bool), Arc<WalkError>>) {
        let took = self.demand.asked_at.elapsed();
        drop(self.answer.send(answer.map(|(walked, shared)| Answered { walked, shared, took })));
    }
}

/// Who waits for what, and the answers that are kept.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub(super) waiting: Waiting<Asked, WalkWaiter>,
    kept: Arc<Mutex<Kept<WalkSpec, Arc<Walked>>>>,
}

impl Answers {
    /// At most so many wait, and at most so many rows are kept.
    pub(super) fn new(waiters_max: usize, rows_max: usize) -> Self {
        let waiting = Waiting::new(waiters_max, |waiters_max| WalkError::WalkWaitersFull { waiters_max });
        Self { waiting, kept: Arc::new(Mutex::new(Kept::new(rows_max))) }
    }

    /// An answer that was made before and will do.
    pub(super) fn kept(&self, spec: &WalkSpec, demand: &Demand) -> Option<Answered> {
        let walked = self.locked().find(spec, demand)?;
        Some(Answered { walked, shared: true, took: demand.asked_at.elapsed() })
    }

    fn locked(&self) -> MutexGuard<'_, Kept<WalkSpec, Arc<Walked>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers all who ask for this: by one walk at most.
    pub(super) fn answer_all(&self, engine: &mut Engine, ledger: &mut Ledger, asked: &Asked) {
        let mut left = Vec::new();
        // A requester that has gone does not want the answer, nor the work for it.
        for waiter in self.waiting.take(asked).into_iter().filter(|waiter| !waiter.answer.is_closed()) {
            // Since it came, a walk may have ended that was under way.
            let kept = self.locked().find(&asked.spec, &waiter.demand);
            match kept {
                Some(walked) => waiter.gets(Ok((walked, true))),
                None => left.push(waiter),
            }
        }
        if left.is_empty() {
            return;
        }
        left.sort_by_key(|waiter| Reverse(waiter.demand.oldest_from()));
        self.walk(engine, ledger, asked, left);
    }

    /// Walks for these, those first that want the freshest.
    fn walk(&self, engine: &mut Engine, ledger: &mut Ledger, asked: &Asked, waiters: Vec<WalkWaiter>) {
        let demands: Vec<FlushDemand> = waiters.iter().map(|waiter| waiter.demand.of_flush()).collect();
        let rule = match asked.flush {
            FlushMode::Never => FlushRule::Never,
            FlushMode::IfStale | FlushMode::Always => FlushRule::For(&demands),
        };
        let per_second_max = ledger.per_second_max();
        let mut freshening = Freshening::new(ledger, rule);
        let began_at = Instant::now();
        let walked = engine.walk(&asked.spec, &mut freshening);
        let (flush, retry_after) = freshening.ended();
        let walked = match walked {
            Ok(walked) => Arc::new(walked),
            Err(error) => {
                let error = Arc::new(error);
                return waiters.into_iter().for_each(|waiter| waiter.gets(Err(Arc::clone(&error))));
            }
        };
        let read = Read { began_at, flush };
        if waiters.iter().any(|waiter| !waiter.demand.freshness.max_staleness.is_zero()) {
            let rows = walked.samples.len();
            self.locked().keep(asked.spec.clone(), read, rows, Arc::clone(&walked));
        }
        let (mut met, limited): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|waiter| waiter.demand.is_met_by(&read));
        for waiter in limited {
            let retry_after = retry_after.unwrap_or_default();
            waiter.gets(Err(Arc::new(WalkError::FlushRateLimited { per_second_max, retry_after })));
        }
        met.extend(self.waiting.take_if(asked, |waiter| waiter.demand.is_met_by(&read)));
        let mut met = met.into_iter();
        let made_for = met.next();
        met.for_each(|waiter| waiter.gets(Ok((Arc::clone(&walked), true))));
        // The last, so that it is the only one to have it if it is alone.
        if let Some(waiter) = made_for {
            waiter.gets(Ok((walked, false)));
        }
    }
}
