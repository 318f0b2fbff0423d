//! Subscriptions: whole ticks, or what changes.

mod changes;
mod events;
mod ticks;

use std::sync::Arc;

use cgfleet_proto::v1::{ErrorReason, SubscribeRequest, SubscribeResponse};
use cgfleet_rpc::{duration, wire_error::WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::{Agent, Answers};
use crate::feeds::{Listening, TooManyFeeds};

/// Opens a subscription.
pub(super) async fn subscribe(
    agent: &Agent,
    request: SubscribeRequest,
) -> Result<Answers<SubscribeResponse>, Status> {
    match request.changes {
        None => ticks::subscribe(agent, request.interval.as_ref()),
        Some(_) if request.interval.is_some() => {
            let interval = duration::from_zero("interval", request.interval)?;
            let allowed = "unset with changes, which has an interval of its own";
            Err(WireError::invalid_field("interval", format!("{interval:?}"), allowed).into())
        }
        Some(spec) => changes::subscribe(agent, spec).await,
    }
}

/// Takes a place among the subscribers of a kind.
fn take_place(places: &Arc<Semaphore>, subscribers_max: u32) -> Result<OwnedSemaphorePermit, WireError> {
    Arc::clone(places).try_acquire_owned().map_err(|_| {
        let message = format!("{subscribers_max} subscriptions are open already (subscribers_max)");
        WireError::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
            .with("limit", "subscribers_max")
            .with("value", subscribers_max)
    })
}

/// Ends a subscription of an agent that stops.
fn stopping() -> WireError {
    WireError::new(Code::Unavailable, ErrorReason::ShuttingDown, "the agent is stopping")
}

impl From<TooManyFeeds> for WireError {
    fn from(error: TooManyFeeds) -> Self {
        Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, error.to_string())
            .with("limit", "subscribe_intervals_max")
            .with("value", error.feeds_max)
    }
}

/// What a stream holds on to until it ends.
struct Held {
    listening: Listening,
    _place: OwnedSemaphorePermit,
}
