//! What runs in a cgroup, as its path says: pod, container, systemd units. And filters on it.
//!
//! Must not know what no path says: a pod's and a container's names are for others to add.

mod filter;
mod name;
mod path;

pub use filter::{InvalidWorkloadFilter, WorkloadFilter};
pub use path::WorkloadPath;

/// What runs in a cgroup: of each kind the nearest around it, itself included. `None` is unknown or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// The pod's namespace, which no path says.
    pub pod_namespace: Option<String>,
    /// The pod's name, which no path says.
    pub pod_name: Option<String>,
    /// The pod's uid, in lower case with hyphens; of a static pod the hash that it has instead.
    pub pod_uid: Option<String>,
    /// The container's name within its pod, which no path says.
    pub container_name: Option<String>,
    /// The container's id, 64 digits.
    pub container_id: Option<String>,
    /// What runs the container.
    pub runtime: Option<Runtime>,
    /// The systemd units and slices around the cgroup, the outermost first.
    pub units: Vec<String>,
}

impl Workload {
    /// What a path says, as text with `\xHH`.
    pub fn of_path(path: &str) -> Self {
        WorkloadPath::of(path).into_workload()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.pod_uid.is_none() && self.container_id.is_none() && self.units.is_empty()
    }

    /// The innermost systemd unit that is no slice.
    pub fn systemd_unit(&self) -> Option<&str> {
        self.units.iter().rev().map(String::as_str).find(|unit| !name::is_slice(unit))
    }

    /// The innermost systemd slice.
    pub fn systemd_slice(&self) -> Option<&str> {
        self.units.iter().rev().map(String::as_str).find(|unit| name::is_slice(unit))
    }
}

/// What runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// containerd, by its CRI plugin or by nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

impl Runtime {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

#[cfg(test)]
mod tests;
