//! The agent's errors as they cross the wire.

use cgfleet_proto::v1::ErrorReason;
use cgfleet_rpc::wire_error::WireError;
use tonic::Code;

use crate::{
    cgroupfs::LocateError, collectors::CollectorError, kernel::ViewError, views::ViewsError,
    walker::WalkError,
};

impl From<WalkError> for WireError {
    fn from(error: WalkError) -> Self {
        Self::from(&error)
    }
}

impl From<&WalkError> for WireError {
    fn from(error: &WalkError) -> Self {
        let message = error.to_string();
        match error {
            WalkError::Target { field, target, cause } => match cause {
                LocateError::NoSuchHierarchy { hierarchy, mounted } => {
                    Self::invalid_field(&format!("{field}.hierarchy"), hierarchy, mounted)
                }
                cause => Self::invalid_field(&format!("{field}.path"), target, cause),
            },
            WalkError::NoSuchCgroup { field, target } => {
                Self::new(Code::NotFound, ErrorReason::CgroupNotFound, message)
                    .with("field", field)
                    .with("value", target)
            }
            WalkError::StopAtElsewhere { stop_at, .. } => {
                Self::invalid_field("spec.stop_at", stop_at, "a cgroup in the hierarchy of spec.target")
            }
            WalkError::NoSuchEngine { engine, .. } => {
                Self::new(Code::FailedPrecondition, ErrorReason::KernelUnsupported, message)
                    .with("field", "spec.engine")
                    .with("value", engine)
            }
            WalkError::QueueFull { queue_max } => {
                Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
                    .with("limit", "walk_queue_max")
                    .with("value", queue_max)
            }
            WalkError::FlushWaitersFull { waiters_max } => {
                Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
                    .with("limit", "flush_waiters_max")
                    .with("value", waiters_max)
            }
            WalkError::WalkWaitersFull { waiters_max } => {
                Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
                    .with("limit", "walk_waiters_max")
                    .with("value", waiters_max)
            }
            WalkError::FlushRateLimited { per_second_max, retry_after } => {
                Self::new(Code::ResourceExhausted, ErrorReason::FlushRateLimited, message)
                    .with("limit", "flushes_per_second_max")
                    .with("value", per_second_max)
                    .retry_after(*retry_after)
            }
            WalkError::Restarted { .. } => Self::new(Code::Aborted, ErrorReason::WalkInterrupted, message),
            WalkError::TooDeep => Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
                .with("limit", "slice_names_max"),
            WalkError::TooManyLevels { .. } => {
                Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
                    .with("limit", "locked_rows_max")
            }
            WalkError::Collector(CollectorError::Unavailable { collector, .. }) => {
                Self::new(Code::FailedPrecondition, ErrorReason::CollectorUnavailable, message)
                    .with("collector", collector)
            }
            WalkError::Stopped => Self::new(Code::Unavailable, ErrorReason::ShuttingDown, message),
            WalkError::Kernel(_) | WalkError::Reopen { .. } | WalkError::Collector(_) => {
                Self::new(Code::Internal, ErrorReason::Internal, message)
            }
        }
    }
}

impl From<ViewsError> for WireError {
    fn from(error: ViewsError) -> Self {
        let message = error.to_string();
        match error {
            ViewsError::Target(error) => error.into(),
            ViewsError::Unavailable(_) => {
                Self::new(Code::FailedPrecondition, ErrorReason::ViewsUnavailable, message)
            }
            ViewsError::Exists(view) => {
                Self::new(Code::AlreadyExists, ErrorReason::ViewExists, message).with("view", view)
            }
            ViewsError::NotFound(view) => {
                Self::new(Code::NotFound, ErrorReason::ViewNotFound, message).with("view", view)
            }
            ViewsError::TooLarge { cgroups, bytes, .. } => {
                Self::new(Code::FailedPrecondition, ErrorReason::ViewTooLarge, message)
                    .with("limit", "bytes of a view")
                    .with("value", bytes)
                    .with("cgroups", cgroups)
            }
            ViewsError::NoSuchOrder(_) => {
                Self::new(Code::FailedPrecondition, ErrorReason::KernelUnsupported, message)
                    .with("field", "view.order")
                    .with("value", "CGROUP_ORDER_CHILDREN")
            }
            ViewsError::Kernel { source: ViewError::Full { programs }, .. } => {
                Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
                    .with("limit", "views_max")
                    .with("value", programs)
            }
            ViewsError::QueueFull => Self::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message),
            ViewsError::Stopped => Self::new(Code::Unavailable, ErrorReason::ShuttingDown, message),
            ViewsError::Kernel { .. } => Self::new(Code::Internal, ErrorReason::Internal, message),
        }
    }
}
