//! Reading back what was stored: ticks as they were, and values for series, from whatever tier has them.
//!
//! A page is read in one snapshot: ticks up to a host's watermark from `chunk`, later ones from `head`. So each tick
//! is met once, whatever compaction does meanwhile.

mod head;
mod micros;
mod select;
mod series;
mod ticks;

pub use self::{
    select::{CgroupFilter, CgroupSelector, StoredCgroup, WorkloadNames},
    series::{ReadError, SeriesPage, StoredTier, TierRead},
    ticks::{HistoryEvent, HistoryReader},
};
