//! The flushes before a walk: which rule they follow, and how fresh the walk's answer is by them.
//!
//! Must not know how a cgroup is found or flushed: that is the engine's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cgfleet_proto::v1::FlushOutcome;

use super::{Asked, FlushDemand, FlushedSubtree, Ledger, MetBy, Subsystems, Verdict, enter};
use crate::walker::{WalkError, demand::OfFlush};

/// When a walk flushes.
#[derive(Debug, Clone, Copy)]
pub(in crate::walker) enum FlushRule<'a> {
    /// Always, and out of no budget: for the agent itself.
    Always,
    /// Never.
    Never,
    /// For these requests, those first that want the freshest: if no flush that was performed meets them, and out of
    /// the budget. One at least is met, or the walk is refused.
    For(&'a [FlushDemand]),
}

/// A cgroup that a walk would have flushed.
#[derive(Debug)]
pub(in crate::walker) struct ToFlush {
    pub(in crate::walker) hierarchy_id: u32,
    pub(in crate::walker) subsystems: Subsystems,
    /// The topmost cgroup of the answer and all above it, empty if nothing has to be flushed; `None` if it was not
    /// worth finding out.
    pub(in crate::walker) line: Option<Vec<u64>>,
}

/// How the flush that a walk needs comes about.
#[derive(Debug)]
pub(in crate::walker) enum Freshened {
    /// It is to be performed now.
    Perform,
    /// It was performed before.
    Met(FlushOutcome, Arc<FlushedSubtree>),
    /// None is needed or wanted.
    Nothing,
}

/// The flushes of a walk, which may be in several hierarchies.
#[derive(Debug)]
pub(in crate::walker) struct Freshening<'a> {
    ledger: &'a mut Ledger,
    rule: FlushRule<'a>,
    /// When the oldest of its flushes began and ended.
    oldest: Option<(Instant, Instant)>,
    /// When those can come again that were not met.
    retry_after: Option<Duration>,
}

impl<'a> Freshening<'a> {
    pub(in crate::walker) fn new(ledger: &'a mut Ledger, rule: FlushRule<'a>) -> Self {
        Self { ledger, rule, oldest: None, retry_after: None }
    }

    /// Whether a flush is wanted at all.
    pub(in crate::walker) fn is_wanted(&self) -> bool {
        !matches!(self.rule, FlushRule::Never)
    }

    /// Whether it matters what is above the cgroup.
    pub(in crate::walker) fn needs_line(&self, hierarchy_id: u32) -> bool {
        match self.rule {
            FlushRule::For(demands) => self.ledger.is_of_use(hierarchy_id, demands, Instant::now()),
            FlushRule::Always | FlushRule::Never => false,
        }
    }

    /// Decides.
    pub(in crate::walker) fn decide(&mut self, site: &ToFlush) -> Result<Freshened, WalkError> {
        let demands = match self.rule {
            FlushRule::Never => return Ok(Freshened::Nothing),
            FlushRule::Always => return Ok(Freshened::Perform),
            FlushRule::For(demands) => demands,
        };
        if site.line.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Freshened::Nothing);
        }
        let ToFlush { hierarchy_id, subsystems, .. } = *site;
        let asked = Asked { hierarchy_id, line: site.line.as_deref().unwrap_or(&[]), subsystems, demands };
        let now = Instant::now();
        let met = match self.ledger.judge(&asked, now) {
            Verdict::Perform => return Ok(Freshened::Perform),
            Verdict::Met(by, flush) => (by, flush),
            Verdict::RateLimited { retry_after } => {
                let limited =
                    WalkError::FlushRateLimited { per_second_max: self.ledger.per_second_max(), retry_after };
                self.retry_after = self.retry_after.max(Some(retry_after));
                // The first one that can be met, and with it those that ask for no more.
                let alone =
                    |demand: &'a [FlushDemand]| self.ledger.met(&Asked { demands: demand, ..asked }, now);
                demands.chunks(1).find_map(alone).ok_or(limited)?
            }
        };
        let (by, flush) = met;
        self.add(flush.times);
        let outcome = match by {
            MetBy::Beginning => FlushOutcome::Coalesced,
            MetBy::Staleness => FlushOutcome::Skipped,
        };
        Ok(Freshened::Met(outcome, flush))
    }

    /// Takes in what was performed; `None` if nothing had to be.
    pub(in crate::walker) fn performed(
        &mut self,
        site: &ToFlush,
        flush: Result<Option<FlushedSubtree>, WalkError>,
    ) -> Result<Option<Arc<FlushedSubtree>>, WalkError> {
        let flush = match flush {
            Ok(Some(flush)) => Arc::new(flush),
            nothing => {
                if let FlushRule::For(_) = self.rule {
                    self.ledger.give_back();
                }
                return nothing.map(|_| None);
            }
        };
        enter(self.ledger, site.hierarchy_id, site.subsystems, &flush);
        self.add(flush.times);
        Ok(Some(flush))
    }

    /// How fresh what was read is by its flushes, and when those can come again for whom that is not enough.
    pub(in crate::walker) fn ended(self) -> (OfFlush, Option<Duration>) {
        let of_flush = match (self.rule, self.oldest) {
            (FlushRule::Never, _) => OfFlush::NotWanted,
            (_, None) => OfFlush::NotNeeded,
            (_, Some((began_at, ended_at))) => OfFlush::Flushed { began_at, ended_at },
        };
        (of_flush, self.retry_after)
    }

    fn add(&mut self, (began_at, ended_at): (Instant, Instant)) {
        let (oldest_began, oldest_ended) = self.oldest.unwrap_or((began_at, ended_at));
        self.oldest = Some((oldest_began.min(began_at), oldest_ended.min(ended_at)));
    }
}
