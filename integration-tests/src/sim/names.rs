//! What cgroups of a Kubernetes node are called. Pure: the same numbers give the same names.

use std::fmt::Write as _;

use fastrand::Rng;

/// How the kubelet treats a pod, which decides where its cgroup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quality {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Quality {
    pub(super) const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    /// The path of the slice that its pods are in.
    pub(super) fn slice(self) -> &'static str {
        match self {
            Self::Guaranteed => "/kubepods.slice",
            Self::Burstable => "/kubepods.slice/kubepods-burstable.slice",
            Self::BestEffort => "/kubepods.slice/kubepods-besteffort.slice",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Guaranteed => "kubepods",
            Self::Burstable => "kubepods-burstable",
            Self::BestEffort => "kubepods-besteffort",
        }
    }
}

/// A pod's uid, as the kubelet writes it.
pub(super) fn pod_uid(rng: &mut Rng) -> String {
    let hex = hex(rng, 32);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The path of a pod's cgroup.
pub(super) fn pod_path(quality: Quality, uid: &str) -> String {
    format!("{}/{}-pod{}.slice", quality.slice(), quality.prefix(), uid.replace('-', "_"))
}

/// A container's id.
pub(super) fn container_id(rng: &mut Rng) -> String {
    hex(rng, 64)
}

/// The path of a container's cgroup in its pod's.
pub(super) fn container_path(pod_path: &str, id: &str) -> String {
    format!("{pod_path}/cri-containerd-{id}.scope")
}

fn hex(rng: &mut Rng, digits: usize) -> String {
    let mut text = String::with_capacity(digits);
    while text.len() < digits {
        // Writing to a string does not fail.
        let _ = write!(text, "{:016x}", rng.u64(..));
    }
    text.truncate(digits);
    text
}
