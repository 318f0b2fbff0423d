//! Filters on workloads in requests, parsed.

use cgfleet_model::{InvalidWorkloadFilter, WorkloadFilter};
use cgfleet_proto::v1;

use crate::wire_error::WireError;

/// A field's filter; `None` if it chooses all.
pub fn filter(field: &str, wire: Option<&v1::WorkloadFilter>) -> Result<Option<WorkloadFilter>, WireError> {
    cgfleet_proto::workload_filter(wire).map_err(|InvalidWorkloadFilter { part, value, allowed }| {
        WireError::invalid_field(&format!("{field}.{part}"), value, allowed)
    })
}
