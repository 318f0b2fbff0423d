//! Errors as they cross the wire: a gRPC code, a stable reason, one line for people, and what was
//! given.

use std::{collections::HashMap, fmt::Display, time::Duration};

use cgfleet_model::{UnknownCollector, UnknownMetric};
use cgfleet_proto::v1::{ErrorReason, HostError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `ErrorInfo.domain` of every error of ours.
const DOMAIN: &str = "cgfleet";

/// An error on its way to the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
}

impl WireError {
    /// An error with a code, a reason and one line of text.
    pub fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), metadata: HashMap::new(), retry_after: None }
    }

    /// INVALID_ARGUMENT for a request's field: names the field, the value and what is allowed.
    #[allow(clippy::needless_pass_by_value, reason = "numbers and texts alike, without & at every call")]
    pub fn invalid_field(field: &str, value: impl Display, allowed: impl Display) -> Self {
        let value = value.to_string();
        let message = format!("{field}: {value:?} is not allowed; allowed: {allowed}");
        Self::new(Code::InvalidArgument, ErrorReason::InvalidField, message)
            .with("field", field)
            .with("value", value)
            .with("allowed", allowed)
    }

    /// Adds one entry of `ErrorInfo.metadata`.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "numbers and texts alike, without & at every call")]
    pub fn with(mut self, key: &str, value: impl Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says when to try again (google.rpc.RetryInfo).
    #[must_use]
    pub fn retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }
}

impl From<UnknownMetric> for WireError {
    fn from(error: UnknownMetric) -> Self {
        Self::invalid_field("read_mask", error.path, UnknownMetric::allowed())
    }
}

impl From<UnknownCollector> for WireError {
    fn from(error: UnknownCollector) -> Self {
        Self::invalid_field("name", error.name, UnknownCollector::allowed())
    }
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        let mut details = ErrorDetails::with_error_info(error.reason.as_wire(), DOMAIN, error.metadata);
        if error.retry_after.is_some() {
            details.set_retry_info(error.retry_after);
        }
        Self::with_error_details(error.code, error.message, details)
    }
}

impl From<WireError> for HostError {
    fn from(error: WireError) -> Self {
        let retry_after = error.retry_after.and_then(|after| after.try_into().ok());
        Self { code: error.code as i32, reason: error.reason.into(), message: error.message, retry_after }
    }
}

/// The reason that a status carries; unspecified if it is none of ours.
pub fn reason_of(status: &Status) -> ErrorReason {
    status
        .get_details_error_info()
        .filter(|details| details.domain == DOMAIN)
        .and_then(|details| ErrorReason::from_wire(&details.reason))
        .unwrap_or(ErrorReason::Unspecified)
}

/// When the status says to try again; `None` if it does not say.
pub fn retry_after_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|details| details.retry_delay)
}

/// A status in one line, with what lies under it: a transport error's own text says little.
pub fn describe(status: &Status) -> String {
    let mut text =
        if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_names_itself_its_value_and_what_is_allowed() {
        let status = Status::from(WireError::invalid_field("limit", -1, "0 to 10"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), r#"limit: "-1" is not allowed; allowed: 0 to 10"#);
        assert_eq!(reason_of(&status), ErrorReason::InvalidField);
        let details = status.get_details_error_info().unwrap();
        assert_eq!(details.metadata["field"], "limit");
    }

    #[test]
    fn when_to_try_again_is_said_in_both_forms() {
        let error = WireError::new(Code::ResourceExhausted, ErrorReason::FlushRateLimited, "later")
            .retry_after(Duration::from_millis(250));
        let of_host = HostError::from(error.clone()).retry_after.map(|after| (after.seconds, after.nanos));
        assert_eq!(of_host, Some((0, 250_000_000)));
        assert_eq!(retry_after_of(&error.into()), Some(Duration::from_millis(250)));
        assert_eq!(retry_after_of(&WireError::invalid_field("limit", -1, "0 to 10").into()), None);
    }

    #[test]
    fn a_foreign_status_has_no_reason_of_ours() {
        assert_eq!(reason_of(&Status::unavailable("tcp")), ErrorReason::Unspecified);
    }
}
