//! `ErrorReason` to and from the string that `google.rpc.ErrorInfo` carries.

use crate::v1::ErrorReason;

/// What the enum's names have in front on behalf of protobuf's scoping, and `ErrorInfo` leaves out.
const PREFIX: &str = "ERROR_REASON_";

impl ErrorReason {
    /// The reason as `ErrorInfo.reason` carries it, for example `CGROUP_NOT_FOUND`.
    pub fn as_wire(self) -> &'static str {
        self.as_str_name().strip_prefix(PREFIX).unwrap_or_default()
    }

    /// The reason named by `ErrorInfo.reason`; `None` if this version does not know it.
    pub fn from_wire(reason: &str) -> Option<Self> {
        Self::from_str_name(&format!("{PREFIX}{reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorReason;

    #[test]
    fn every_reason_survives_the_wire() {
        for number in 0..=i32::MAX {
            let Ok(reason) = ErrorReason::try_from(number) else { break };
            assert_eq!(ErrorReason::from_wire(reason.as_wire()), Some(reason));
            assert!(!reason.as_wire().is_empty());
        }
        assert_eq!(ErrorReason::from_wire("NO_SUCH_REASON"), None);
    }
}
