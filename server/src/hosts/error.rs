//! What calls to hosts end with: an agent's refusal, or whatever lies on the way to it.

use std::time::Duration;

use cgfleet_proto::v1::ErrorReason;
use cgfleet_rpc::wire_error;
use tonic::{Code, Status};

/// What an agent, or the way to it, answered.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CallError {
    /// The gRPC code.
    pub(crate) code: Code,
    /// The agent's reason; unspecified if the call did not get so far.
    pub(crate) reason: ErrorReason,
    /// One line, causes included.
    pub(crate) message: String,
    /// When the agent says to try again.
    pub(crate) retry_after: Option<Duration>,
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let reason = wire_error::reason_of(&status);
        let retry_after = wire_error::retry_after_of(&status);
        Self { code: status.code(), reason, message: wire_error::describe(&status), retry_after }
    }
}
