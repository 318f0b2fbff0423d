//! From ticks in the head to chunks and rollups, in the background; and away with what is old enough.
//!
//! `window` says which ticks may become chunks, `log` turns ticks into series, `rollup` these into minutes and hours: all
//! pure. `pass` puts them together; `host` reads and writes one host's windows, `compactor` goes from host to host;
//! `retention` drops partitions.
//! Must not know: SQL, agents, who asks for what is stored.

mod compactor;
mod host;
mod log;
mod pass;
mod retention;
mod rollup;
mod window;

pub use self::{
    compactor::{CompactionCounts, CompactionProgress, Compactor},
    host::{Compacted, CompactionError, compact_next_window},
    retention::{Retention, RetentionLimits, RetentionProgress},
};
