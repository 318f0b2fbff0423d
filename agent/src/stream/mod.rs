//! What a stream of changes is made of: snapshots, the history of them, and what one follower is told of it.
//!
//! Pure: no I/O, no clock, no randomness. Must not know who is asked for snapshots, nor how messages are sent.

mod choice;
mod follower;
mod form;
mod history;
mod snapshot;
mod token;

#[cfg(test)]
mod tests;

pub(crate) use choice::Choice;
pub(crate) use follower::{Change, Followed, Follower, Step};
pub(crate) use form::CounterForm;
pub(crate) use history::History;

pub(crate) use snapshot::{Hearing, Read, Snapshot};
pub(crate) use token::Token;
