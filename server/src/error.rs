//! The server's errors as they cross the wire.

use cgfleet_proto::v1::{ErrorReason, HostError};
use cgfleet_rpc::wire_error::WireError;
use tonic::Code;

use crate::{
    fanout::HostCallError,
    hosts::{FindError, RegisterError},
    store::StoreError,
};

impl From<HostCallError> for HostError {
    fn from(error: HostCallError) -> Self {
        let message = error.to_string();
        let (code, reason) = match error {
            // What the agent itself said, it said with a reason; the rest is the way to it.
            HostCallError::Call { source, .. } if source.reason != ErrorReason::Unspecified => {
                let error = WireError::new(source.code, source.reason, source.message);
                let again = |after| error.clone().retry_after(after);
                return source.retry_after.map_or_else(|| error.clone(), again).into();
            }
            HostCallError::Timeout { .. } => (Code::DeadlineExceeded, ErrorReason::HostTimeout),
            HostCallError::Call { source, .. } if source.code == Code::DeadlineExceeded => {
                (Code::DeadlineExceeded, ErrorReason::HostTimeout)
            }
            HostCallError::Call { .. }
            | HostCallError::CutShort { .. }
            | HostCallError::Ended { .. }
            | HostCallError::NoChange { .. }
            | HostCallError::AnotherHost { .. }
            | HostCallError::CallerGone => (Code::Unavailable, ErrorReason::HostUnreachable),
        };
        WireError::new(code, reason, message).into()
    }
}

impl From<StoreError> for WireError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Payload { .. } | StoreError::Chunk { .. } => {
                Self::new(Code::DataLoss, ErrorReason::Internal, message)
            }
            _ => Self::new(Code::Unavailable, ErrorReason::StoreUnavailable, message),
        }
    }
}

impl From<RegisterError> for WireError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Address(error) => Self::invalid_field("host.address", error.target, "host:port"),
            RegisterError::TooMany { hosts_max } => {
                Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, error.to_string())
                    .with("limit", "hosts_max")
                    .with("value", hosts_max)
            }
            RegisterError::Store(error) => error.into(),
        }
    }
}

impl From<FindError> for WireError {
    fn from(error: FindError) -> Self {
        let message = error.to_string();
        match error {
            FindError::Unknown { host } => {
                Self::new(Code::NotFound, ErrorReason::HostUnknown, message).with("host", host)
            }
            FindError::Ambiguous { host, host_ids } => {
                let host_ids = host_ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                Self::new(Code::InvalidArgument, ErrorReason::HostAmbiguous, message)
                    .with("host", host)
                    .with("host_ids", host_ids)
            }
        }
    }
}
