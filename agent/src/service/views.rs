//! Requests for views, parsed.

use cgfleet_proto::v1;
use cgfleet_rpc::wire_error::WireError;

use super::spec;
use crate::views::{Columns, NAMES, ViewName, ViewSpec};

pub(super) fn view_spec(wire: Option<v1::ViewSpec>) -> Result<ViewSpec, WireError> {
    let wire = wire.ok_or_else(|| WireError::invalid_field("view", "", "what the view shows"))?;
    let fields = wire.read_mask.iter().flat_map(|mask| &mask.paths).map(String::as_str);
    let columns = Columns::of_fields(fields)
        .map_err(|error| WireError::invalid_field("view.read_mask", error.field, Columns::allowed()))?;
    Ok(ViewSpec {
        name: view_name("view.name", &wire.name)?,
        order: spec::order("view.order", wire.order)?,
        target: spec::target_or_root("view.target", wire.target)?,
        columns,
        truncate: wire.truncate,
    })
}

pub(super) fn view_name(field: &str, name: &str) -> Result<ViewName, WireError> {
    ViewName::parse(name).ok_or_else(|| WireError::invalid_field(field, name, NAMES))
}
