//! From ticks as agents send them to ticks in the store, each exactly once (docs/ingest-contract.md).
//!
//! `cursor` and `tick_clock` decide and are pure; `host_ingest` holds what one host's stream knows;
//! `host_stream` reads it from the agent; `writer` gathers the ticks of all hosts into transactions, and spools what the
//! store does not take; `drain` stores that later, `attempts` tries for both, and `backlog` says what waits.
//! Must not know: SQL, or who asks for what is stored.

mod attempts;
mod backlog;
mod cursor;
mod drain;
mod host_ingest;
mod host_stream;
mod tick_clock;
mod writer;

pub use self::{
    attempts::Failing,
    backlog::{Backlog, HostBacklog},
    cursor::{Step, TickId, step},
    host_ingest::{HostIngest, IngestError, Stored, Tick},
    host_stream::keep_ingesting,
    tick_clock::TickClock,
    writer::{IngestHandle, IngestWriter, Spooling},
};
