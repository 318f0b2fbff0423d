//! From a path to its workload, one name after the other.

use std::borrow::Cow;

use super::{
    Runtime, Workload,
    name::{ID_DIGITS, container_of, is_container_id, pod_of_slice, pod_uid, unit_of},
};

/// A path as far as it was read.
#[derive(Debug, Clone, Default)]
pub struct WorkloadPath {
    workload: Workload,
    place: Place,
}

/// What the last name was, where that gives the next one a meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Elsewhere,
    /// Where the kubelet makes pods.
    Kubepods,
    Pod,
    /// Where this runtime, and nobody else, makes containers.
    Containers(Runtime),
}

/// What a name says.
#[derive(Debug, Default)]
struct Said<'a> {
    place: Place,
    pod_uid: Option<String>,
    /// Its id, and its runtime, if that is said.
    container: Option<(&'a str, Option<Runtime>)>,
    unit: Option<Cow<'a, str>>,
}

impl WorkloadPath {
    /// Reads a path, as text with `\xHH`.
    pub fn of(path: &str) -> Self {
        let mut read = Self::default();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match said(name, read.place) {
                Some(said) => read.take(said),
                None => read.place = Place::Elsewhere,
            }
        }
        read
    }

    /// What the path says.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// What the path says.
    pub fn into_workload(self) -> Workload {
        self.workload
    }

    /// What the path with one more name says; `None` if the name says nothing, and all is as without it.
    pub fn below(&self, name: &str) -> Option<Workload> {
        let said = said(name, self.place)?;
        let mut below = self.clone();
        below.take(said);
        Some(below.workload)
    }

    fn take(&mut self, Said { place, pod_uid, container, unit }: Said<'_>) {
        self.place = place;
        if pod_uid.is_some() {
            self.place = Place::Pod;
            // Whatever container is around a pod is none of the pod's.
            let units = std::mem::take(&mut self.workload.units);
            self.workload = Workload { pod_uid, units, ..Workload::default() };
        }
        if let Some((id, runtime)) = container {
            self.place = Place::Elsewhere;
            self.workload.container_id = Some(id.to_owned());
            self.workload.runtime = runtime;
        }
        self.workload.units.extend(unit.map(Cow::into_owned));
    }
}

/// What a name says in its place; `None` if nothing.
fn said(name: &str, place: Place) -> Option<Said<'_>> {
    let leads_to = |place| Some(Said { place, ..Said::default() });
    match (name, place) {
        ("kubepods", _) | ("burstable" | "besteffort", Place::Kubepods) => leads_to(Place::Kubepods),
        ("docker", _) => leads_to(Place::Containers(Runtime::Docker)),
        // containerd's namespace for the kubelet, which is the parent where none is named (containerd,
        // oci/spec.go, `populateDefaultUnixSpec`). Others' ("default") may be anybody's names.
        ("k8s.io", _) => leads_to(Place::Containers(Runtime::Containerd)),
        (name, Place::Kubepods) if name.starts_with("pod") => {
            Some(Said { pod_uid: Some(pod_uid(&name["pod".len()..])?), ..Said::default() })
        }
        // In a pod, more than one runtime names its containers like this.
        (id, Place::Pod) if is_container_id(id) => {
            Some(Said { container: Some((id, None)), ..Said::default() })
        }
        (id, Place::Containers(runtime)) if is_container_id(id) => {
            Some(Said { container: Some((id, Some(runtime))), ..Said::default() })
        }
        (name, _) => said_anywhere(name),
    }
}

/// What a name says in any place.
fn said_anywhere(name: &str) -> Option<Said<'_>> {
    // As of nearly all names of cgroups that nobody here knows.
    if name.len() < ID_DIGITS && !name.as_bytes().contains(&b'.') {
        return None;
    }
    let unit = unit_of(name);
    let container = container_of(name).map(|(runtime, id)| (id, Some(runtime)));
    if unit.is_none() && container.is_none() {
        return None;
    }
    // Before the first colon of a container's name is the slice that it was meant to be in.
    let slice = name.split(':').next().unwrap_or(name);
    Some(Said { place: Place::Elsewhere, pod_uid: pod_of_slice(slice), container, unit })
}
