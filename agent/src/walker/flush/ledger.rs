//! What becomes of requests for a flush: met by one that was performed, one of their own, or refused.
//!
//! Owns the rule, and what it remembers for it. Pure: no I/O, and the time is given. Must not know how
//! cgroups are found or flushed.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Subsystems, budget::Budget};

/// Flushes that are remembered, the last of each cgroup and of what was flushed of it. One that is forgotten costs a flush more.
const FLUSHES_KEPT_MAX: usize = 1024;

/// How fresh a flush has to be that meets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::walker) struct FlushDemand {
    pub(in crate::walker) asked_at: Instant,
    /// How long ago a flush may have ended that will do; zero for one that begins after the request.
    pub(in crate::walker) max_staleness: Duration,
}

/// How a flush meets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::walker) enum MetBy {
    /// It began after the request had come, so it has all that was counted before that.
    Beginning,
    /// It is not too old.
    Staleness,
}

impl FlushDemand {
    /// Whether a flush from then to then will do, `now`.
    pub(in crate::walker) fn met_by(
        &self,
        (began_at, ended_at): (Instant, Instant),
        now: Instant,
    ) -> Option<MetBy> {
        let is_recent = || now.saturating_duration_since(ended_at) <= self.max_staleness;
        match () {
            () if began_at >= self.asked_at => Some(MetBy::Beginning),
            () if !self.max_staleness.is_zero() && is_recent() => Some(MetBy::Staleness),
            () => None,
        }
    }
}

/// What is to be flushed, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) hierarchy_id: u32,
    /// The cgroup to flush and all above it: whichever is flushed, that cgroup is.
    pub(super) line: &'a [u64],
    /// What has to be flushed of it.
    pub(super) subsystems: Subsystems,
    /// Requests that one flush is to meet.
    pub(super) demands: &'a [FlushDemand],
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<T> {
    /// This flush meets all, the first of them so.
    Met(MetBy, T),
    /// Perform one: it was taken from the budget.
    Perform,
    /// There is no flush left in the budget before so much time has passed.
    RateLimited { retry_after: Duration },
}

/// A flush that was performed.
#[derive(Debug)]
pub(super) struct Performed<T> {
    pub(super) hierarchy_id: u32,
    pub(super) cgroup_id: u64,
    /// What was flushed of it.
    pub(super) subsystems: Subsystems,
    pub(super) began_at: Instant,
    pub(super) ended_at: Instant,
    /// What is told of it.
    pub(super) flush: T,
}

impl<T> Performed<T> {
    fn times(&self) -> (Instant, Instant) {
        (self.began_at, self.ended_at)
    }
}

/// The flushes that were performed, and how many more may be.
#[derive(Debug)]
pub(in crate::walker) struct Ledger<T> {
    per_second_max: u32,
    budget: Budget,
    /// The oldest first: one is performed at a time.
    performed: VecDeque<Performed<T>>,
}

impl<T: Clone> Ledger<T> {
    pub(in crate::walker) fn new(flushes_per_second_max: u32) -> Self {
        Self {
            per_second_max: flushes_per_second_max,
            budget: Budget::new(flushes_per_second_max),
            performed: VecDeque::new(),
        }
    }

    /// The most flushes in a second.
    pub(in crate::walker) fn per_second_max(&self) -> u32 {
        self.per_second_max
    }

    /// Whether it matters for the verdict what is to be flushed: who does not know that yet can save finding it
    /// out otherwise.
    pub(super) fn is_of_use(&self, hierarchy_id: u32, demands: &[FlushDemand], now: Instant) -> bool {
        let last = self.performed.iter().rev().find(|performed| performed.hierarchy_id == hierarchy_id);
        let meets = |performed: &Performed<T>| {
            demands.iter().any(|demand| demand.met_by(performed.times(), now).is_some())
        };
        self.budget.is_empty(now) || last.is_some_and(meets)
    }

    pub(super) fn judge(&mut self, asked: &Asked<'_>, now: Instant) -> Verdict<T> {
        if let Some((by, flush)) = self.met(asked, now) {
            return Verdict::Met(by, flush);
        }
        match self.budget.take(now) {
            Ok(()) => Verdict::Perform,
            Err(retry_after) => Verdict::RateLimited { retry_after },
        }
    }

    /// The flush that meets all, if there is one.
    pub(super) fn met(&self, asked: &Asked<'_>, now: Instant) -> Option<(MetBy, T)> {
        let covers = |performed: &&Performed<T>| {
            performed.hierarchy_id == asked.hierarchy_id
                && performed.subsystems.contain(asked.subsystems)
                && asked.line.contains(&performed.cgroup_id)
        };
        // The last that was performed is the freshest that there is.
        let freshest = self.performed.iter().rev().find(covers)?;
        let mut by = asked.demands.iter().map(|demand| demand.met_by(freshest.times(), now));
        let first = by.next()??;
        by.all(|by| by.is_some()).then(|| (first, freshest.flush.clone()))
    }

    /// Puts a flush back that was to be performed, and was not.
    pub(super) fn give_back(&mut self) {
        self.budget.give_back();
    }

    /// Takes in a flush, the last one.
    pub(super) fn performed(&mut self, performed: Performed<T>) {
        let is_replaced = |kept: &Performed<T>| {
            (kept.hierarchy_id, kept.cgroup_id) == (performed.hierarchy_id, performed.cgroup_id)
                && performed.subsystems.contain(kept.subsystems)
        };
        self.performed.retain(|kept| !is_replaced(kept));
        if self.performed.len() == FLUSHES_KEPT_MAX {
            self.performed.pop_front();
        }
        self.performed.push_back(performed);
    }
}

#[cfg(test)]
mod tests;
