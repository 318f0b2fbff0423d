//! A walk by the unlocked engine: slices put together.
//!
//! Between two slices cgroups come and go. Must not know what was asked for, or what a sample is.

use std::os::fd::AsFd as _;

use cgfleet_ebpf::abi;
use cgfleet_proto::v1::WalkEnd;

use super::{
    decode,
    recorder::{Cost, Recorded, Recorder, Reopened, Row},
};
use crate::{
    cgroupfs::Located,
    kernel::{AttachError, Cursor, Drained, KernelError, Place, Start, WalkRequest},
    walker::WalkError,
};

/// How often a walk whose place in the tree was removed, with all above it that the kernel told, begins
/// again.
const RESTARTS_MAX: u32 = 3;

impl Recorder {
    /// Walks in slices.
    pub(super) fn record_unlocked(&mut self, request: &WalkRequest<'_>) -> Result<Recorded, WalkError> {
        let mut cost = Cost::default();
        for _ in 0..=RESTARTS_MAX {
            if let Some((rows, end)) = self.record_slices(request, &mut cost)? {
                return Ok(Recorded { rows, end, cost });
            }
        }
        Err(WalkError::Restarted { restarts: RESTARTS_MAX })
    }

    /// `None` if the walk has to begin again.
    fn record_slices(
        &mut self,
        request: &WalkRequest<'_>,
        cost: &mut Cost,
    ) -> Result<Option<(Vec<Row>, WalkEnd)>, WalkError> {
        cost.cgroups_visited = 0;
        let mut drained = self.kernel.walk_slice(request, None)?;
        if drained.walk.session_css == 0 {
            return Ok(Some((Vec::new(), WalkEnd::TargetGone)));
        }
        let mut recorded: Vec<Row> = Vec::new();
        loop {
            cost.add_slice(&drained);
            let end = drained.walk.end;
            let cursor = drained.cursor.take();
            recorded.extend(self.learn(drained));
            let Some(cursor) = cursor else {
                let end = decode::end(end).ok_or(KernelError::Unfinished { end })?;
                return Ok(Some((recorded, end)));
            };
            // There will be no more than are known, and a few; grown as they come, they would be moved about.
            recorded.reserve(self.tree.len().saturating_sub(recorded.len()));
            let visited = u32::try_from(recorded.len()).unwrap_or(u32::MAX);
            let left = if request.limit == 0 { 0 } else { request.limit.saturating_sub(visited) };
            let request = WalkRequest { limit: left, ..*request };
            drained = match self.next_slice(&request, &cursor, cost)? {
                Some(slice) => slice,
                None if !cursor.is_whole => return Ok(None),
                // The start was removed, and so all that was left of the walk.
                None if recorded.is_empty() => return Ok(Some((recorded, WalkEnd::TargetGone))),
                None => return Ok(Some((recorded, WalkEnd::Complete))),
            };
        }
    }

    /// Goes on behind the cursor's cgroup, or, if that was removed meanwhile, behind where it was, at the
    /// nearest cgroup above that is still there. `None` if all of them are gone.
    fn next_slice(
        &mut self,
        request: &WalkRequest<'_>,
        cursor: &Cursor,
        cost: &mut Cost,
    ) -> Result<Option<Drained>, WalkError> {
        for place in &cursor.places {
            if let Some(slice) = self.slice_at(request, cursor.hierarchy_id, *place, cost)? {
                return Ok(Some(slice));
            }
        }
        match request.order {
            // The root cannot be gone: the agent finds no way to it.
            abi::CG_ORDER_ANCESTORS_UP => Err(WalkError::TooDeep),
            _ => Ok(None),
        }
    }

    /// A slice that begins at this place; `None` if its cgroup is gone. By its id where the kernel takes
    /// ids (cgroup v2, outside a cgroup namespace), by its directory elsewhere.
    fn slice_at(
        &mut self,
        request: &WalkRequest<'_>,
        hierarchy_id: u32,
        place: Place,
        cost: &mut Cost,
    ) -> Result<Option<Drained>, WalkError> {
        let located: Located;
        let start = if hierarchy_id == 0 && self.takes_ids {
            Start::Id(place.cgroup_id)
        } else {
            match self.reopen_named(request, hierarchy_id, place.serial, cost)? {
                Some(found) => located = found,
                None => return Ok(None),
            }
            Start::Directory(located.directory.as_fd())
        };
        match self.kernel.walk_slice(&WalkRequest { start, ..*request }, Some(place)) {
            Ok(drained) => Ok(Some(drained).filter(|drained| drained.walk.session_css != 0)),
            Err(KernelError::Attach(AttachError::NoSuchCgroup)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory of a cgroup of this walk; `None` if it is gone. Those above it need not have been
    /// named yet: a post-order walk comes to them later, and an earlier walk may have met newer ones only.
    fn reopen_named(
        &mut self,
        request: &WalkRequest<'_>,
        hierarchy_id: u32,
        serial: u64,
        cost: &mut Cost,
    ) -> Result<Option<Located>, WalkError> {
        let mut reopened = self.reopen(hierarchy_id, serial)?;
        if matches!(reopened, Reopened::Unnamed) {
            if request.order == abi::CG_ORDER_ANCESTORS_UP {
                return Err(WalkError::TooDeep);
            }
            self.learn_names(&WalkRequest::ancestors(request.start), cost)?;
            let order = abi::CG_ORDER_DESCENDANTS_PRE;
            let names = WalkRequest {
                order,
                groups: 0,
                names_from: 0,
                limit: 0,
                stop_at_id: 0,
                stop_when: None,
                ..*request
            };
            // Such a walk has named all that is above its place.
            if request.order != order || request.names_from != 0 {
                self.learn_names(&names, cost)?;
            }
            reopened = self.reopen(hierarchy_id, serial)?;
        }
        match reopened {
            Reopened::Found(located) => Ok(Some(located)),
            Reopened::Gone | Reopened::Unnamed => Ok(None),
        }
    }
}
