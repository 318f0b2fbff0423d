//! What runs in a cgroup, and filters on it, as the wire has them: there, absent is empty.

use cgfleet_model::{InvalidWorkloadFilter, Runtime, Workload, WorkloadFilter};

use crate::v1;

impl From<&Workload> for v1::Workload {
    fn from(workload: &Workload) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            pod_namespace: text(&workload.pod_namespace),
            pod_name: text(&workload.pod_name),
            pod_uid: text(&workload.pod_uid),
            container_name: text(&workload.container_name),
            container_id: text(&workload.container_id),
            runtime: workload.runtime.map(Runtime::name).unwrap_or_default().to_owned(),
            systemd_unit: workload.systemd_unit().unwrap_or_default().to_owned(),
            systemd_slice: workload.systemd_slice().unwrap_or_default().to_owned(),
        }
    }
}

/// A filter of a request; `None` if it chooses all.
pub fn workload_filter(
    wire: Option<&v1::WorkloadFilter>,
) -> Result<Option<WorkloadFilter>, InvalidWorkloadFilter> {
    let Some(v1::WorkloadFilter { pod, container, unit }) = wire else { return Ok(None) };
    let given = |text| Some(text).filter(|text: &&String| !text.is_empty()).map(String::as_str);
    WorkloadFilter::parse(given(pod), given(container), given(unit))
}
