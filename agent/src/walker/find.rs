//! Targets of requests, found.

use std::os::fd::AsFd as _;

use cgfleet_ebpf::abi;

use super::{Target, WalkError, WalkSpec};
use crate::{
    cgroupfs::{Hierarchies, LocateError, Located},
    kernel::Start,
};

/// A target as the kernel takes it.
#[derive(Debug)]
pub(crate) enum Found {
    ByPath(Located),
    ById(u64),
}

/// Finds a cgroup that the request names in this field. An id is for the kernel to find.
pub(crate) fn find(
    hierarchies: &Hierarchies,
    field: &'static str,
    target: &Target,
) -> Result<Found, WalkError> {
    match target {
        Target::Id(id) => Ok(Found::ById(*id)),
        Target::Path { hierarchy, path } => match hierarchies.locate(hierarchy, path) {
            Ok(located) => Ok(Found::ByPath(located)),
            Err(LocateError::NoSuchCgroup(_)) => {
                Err(WalkError::NoSuchCgroup { field, target: target.to_text() })
            }
            Err(cause) => Err(WalkError::Target { field, target: target.to_text(), cause }),
        },
    }
}

impl Found {
    pub(crate) fn start(&self) -> Start<'_> {
        match self {
            Self::ByPath(located) => Start::Directory(located.directory.as_fd()),
            Self::ById(id) => Start::Id(*id),
        }
    }

    pub(super) fn cgroup_id(&self) -> u64 {
        match self {
            Self::ByPath(located) => located.cgroup_id,
            Self::ById(id) => *id,
        }
    }

    /// The kernel takes ids of cgroup v2 only.
    pub(super) fn hierarchy_id(&self) -> u32 {
        match self {
            Self::ByPath(located) => located.hierarchy_id,
            Self::ById(_) => 0,
        }
    }

    /// The path of the topmost cgroup below the root that an answer in this order may contain; `None` if
    /// that is not known from the target.
    pub(super) fn topmost_path(&self, order: abi::cg_order) -> Option<Vec<u8>> {
        let Self::ByPath(Located { path, .. }) = self else { return None };
        if order != abi::CG_ORDER_ANCESTORS_UP {
            return Some(path.clone());
        }
        let first = path.split(|byte| *byte == b'/').find(|name| !name.is_empty())?;
        Some([b"/", first].concat())
    }
}

impl WalkSpec {
    /// Where the walk stops, if it is to; it has to be in the hierarchy of the target.
    pub(super) fn stop_at_in(
        &self,
        hierarchies: &Hierarchies,
        hierarchy_id: u32,
    ) -> Result<Option<Found>, WalkError> {
        let Some(stop_at) = &self.stop_at else { return Ok(None) };
        let found = find(hierarchies, "spec.stop_at", stop_at)?;
        if found.hierarchy_id() != hierarchy_id {
            let (stop_at, target) = (stop_at.to_text(), self.target.to_text());
            return Err(WalkError::StopAtElsewhere { stop_at, target });
        }
        Ok(Some(found))
    }
}
