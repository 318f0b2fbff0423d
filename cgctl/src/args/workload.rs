//! Filters on what runs in cgroups.

use cgfleet_model::{InvalidWorkloadFilter, WorkloadFilter};
use cgfleet_proto::v1;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// Only cgroups of this pod: its name, NAMESPACE/NAME or its uid
    #[arg(long, value_name = "POD", value_parser = parse_pod)]
    pod: Option<String>,
    /// Only cgroups of this container: its name, its id or the first 12 or more digits of that
    #[arg(long, value_name = "CONTAINER", value_parser = parse_container)]
    container: Option<String>,
    /// Only cgroups of this systemd unit or slice, such as ssh.service
    #[arg(long, value_name = "UNIT", value_parser = parse_unit)]
    unit: Option<String>,
}

impl WorkloadArgs {
    /// Whether all are chosen.
    pub(crate) fn is_empty(&self) -> bool {
        self.pod.is_none() && self.container.is_none() && self.unit.is_none()
    }

    /// The filter; `None` if all are chosen.
    pub(crate) fn into_filter(self) -> Option<v1::WorkloadFilter> {
        let Self { pod, container, unit } = self;
        let filter = v1::WorkloadFilter {
            pod: pod.unwrap_or_default(),
            container: container.unwrap_or_default(),
            unit: unit.unwrap_or_default(),
        };
        (filter != v1::WorkloadFilter::default()).then_some(filter)
    }
}

fn parse_pod(text: &str) -> Result<String, NotAllowed> {
    checked(text, WorkloadFilter::parse(Some(text), None, None))
}

fn parse_container(text: &str) -> Result<String, NotAllowed> {
    checked(text, WorkloadFilter::parse(None, Some(text), None))
}

fn parse_unit(text: &str) -> Result<String, NotAllowed> {
    checked(text, WorkloadFilter::parse(None, None, Some(text)))
}

fn checked<T>(text: &str, parsed: Result<T, InvalidWorkloadFilter>) -> Result<String, NotAllowed> {
    parsed.map(|_| text.to_owned()).map_err(|error| NotAllowed(error.allowed))
}

/// The flag and its value are named by clap.
#[derive(Debug, thiserror::Error)]
#[error("allowed: {0}")]
struct NotAllowed(&'static str);
