//! Reading back what was stored: ticks as they were, and values for series, from whatever tier has them.
//!
//! A page is read in one snapshot: ticks up to a host's watermark from `chunk`, later ones from `head`. So each tick
//! is met once, whatever compaction does meanwhile.

mod chunk;
mod head;
mod micros;
mod rollup;
mod select;
mod series;
mod ticks;

pub(super) use self::ticks::keyframe_before;
pub use self::{
    rollup::is_rolled_up,
    select::{CgroupFilter, CgroupSelector, StoredCgroup, WorkloadNames},
    series::{PageRead, ReadError, SeriesPage, TierRead},
    ticks::{HistoryEvent, HistoryReader},
};
