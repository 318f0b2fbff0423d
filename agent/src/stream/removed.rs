//! Cgroups that were removed, as they are told of.

use std::time::SystemTime;

use cgfleet_proto::v1::CgroupSample;

/// Where the values of a cgroup that was removed are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemovedValues {
    /// Read after the removal.
    Final,
    /// The last that was known before.
    LastKnown,
}

/// A cgroup that was removed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Removed {
    /// What it was, and its values.
    pub(crate) sample: CgroupSample,
    pub(crate) values: RemovedValues,
    /// When it was made; `None` if nobody saw that.
    pub(crate) created_at: Option<SystemTime>,
    /// When it was removed; `None` if it was missing in a snapshot, and nobody saw why.
    pub(crate) removed_at: Option<SystemTime>,
}
