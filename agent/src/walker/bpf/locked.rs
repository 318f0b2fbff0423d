//! A walk by the locked engine: one session under cgroup_mutex, or, where that would visit more cgroups
//! than one session may, many: the start alone, then the subtree of each child, and so on below.
//!
//! Knows sessions and directories. Must not know what was asked for, or what a sample is.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use cgfleet_ebpf::abi;
use cgfleet_model::escape_path;
use cgfleet_proto::v1::WalkEnd;

use super::{
    decode,
    recorder::{Cost, Recorded, Recorder, Reopened, Row},
};
use crate::{
    cgroupfs::{Located, children, open_child},
    kernel::{AttachError, KernelError, Start, WalkRequest},
    walker::WalkError,
};

/// Levels of subtrees, one in the other, that are each too large for a session. Every one of them keeps
/// a descriptor open.
const LEVELS_MAX: u32 = 256;

/// A locked walk under way.
struct LockedWalk<'recorder, 'request> {
    recorder: &'recorder mut Recorder,
    request: WalkRequest<'request>,
    /// The level of its start, if a session has to be told.
    start_level: Option<u32>,
    rows: Vec<Row>,
    cost: Cost,
}

/// A subtree of a walk.
#[derive(Clone, Copy)]
struct Subtree<'fd> {
    start: Start<'fd>,
    /// Levels below its start that are recorded.
    max_depth: u32,
    /// The level of its start, where a session has to be told.
    start_level: Option<u32>,
}

/// What became of a subtree in one session.
enum Session {
    /// It was walked, and this is why the walk ends in it, if it does.
    Whole(Option<WalkEnd>),
    /// It is more than one session may visit; nothing of it was recorded.
    TooLarge,
    /// Its start was removed.
    Gone,
}

impl Recorder {
    /// Walks under cgroup_mutex, in as many sessions as that takes.
    pub(super) fn record_locked(
        &mut self,
        request: &WalkRequest<'_>,
        hierarchy_id: u32,
    ) -> Result<Recorded, WalkError> {
        let mut walk = LockedWalk {
            recorder: self,
            request: *request,
            start_level: None,
            rows: Vec::new(),
            cost: Cost::default(),
        };
        let end = match walk.in_one_session()? {
            Some(end) => end,
            None => walk.in_pieces(hierarchy_id)?,
        };
        Ok(Recorded { rows: walk.rows, end, cost: walk.cost })
    }
}

impl LockedWalk<'_, '_> {
    /// Walks in one session. `None` if that is too much for one.
    fn in_one_session(&mut self) -> Result<Option<WalkEnd>, WalkError> {
        let WalkRequest { start, max_depth, .. } = self.request;
        self.start_level = self.level_if_needed()?;
        let top = Subtree { start, max_depth, start_level: self.start_level };
        Ok(match self.session(&top)? {
            Session::Whole(end) => Some(end.unwrap_or(WalkEnd::Complete)),
            Session::Gone => Some(WalkEnd::TargetGone),
            Session::TooLarge if self.request.order == abi::CG_ORDER_ANCESTORS_UP => {
                return Err(WalkError::TooDeep);
            }
            Session::TooLarge => None,
        })
    }

    /// Walks in pieces, which takes the start's directory.
    fn in_pieces(&mut self, hierarchy_id: u32) -> Result<WalkEnd, WalkError> {
        let located: Located;
        let directory = match self.request.start {
            Start::Directory(directory) => directory,
            Start::Id(id) => {
                self.recorder.learn_names(&WalkRequest::ancestors(self.request.start), &mut self.cost)?;
                let Some(serial) = self.recorder.tree.serial(hierarchy_id, id) else {
                    return Ok(WalkEnd::TargetGone);
                };
                match self.recorder.reopen(hierarchy_id, serial)? {
                    Reopened::Found(found) => located = found,
                    Reopened::Gone | Reopened::Unnamed => return Ok(WalkEnd::TargetGone),
                }
                located.directory.as_fd()
            }
        };
        let start = Start::Directory(directory);
        let top = Subtree { start, max_depth: self.request.max_depth, start_level: self.start_level };
        let end = self.pieces(&top, directory, 1)?;
        // A walk to the children alone may have found that there are none left.
        let is_gone = self.rows.is_empty() && self.request.order != abi::CG_ORDER_CHILDREN;
        Ok(end.unwrap_or(if is_gone { WalkEnd::TargetGone } else { WalkEnd::Complete }))
    }

    /// A walk that comes to its start last, and has a depth, has to know the start's level before.
    fn level_if_needed(&mut self) -> Result<Option<u32>, WalkError> {
        let WalkRequest { start, order, max_depth, .. } = self.request;
        if order != abi::CG_ORDER_DESCENDANTS_POST || max_depth == u32::MAX {
            return Ok(None);
        }
        let alone = WalkRequest::of(start, abi::CG_ORDER_SELF_ONLY);
        let alone = self.recorder.kernel.walk_locked(&alone, None)?;
        self.cost.add_session(&alone);
        Ok(alone.records.first().map(|record| record.level))
    }

    /// A subtree that is too large for a session: its start alone, and its children's subtrees, in the
    /// order of the walk.
    fn pieces(
        &mut self,
        top: &Subtree<'_>,
        directory: BorrowedFd<'_>,
        level: u32,
    ) -> Result<Option<WalkEnd>, WalkError> {
        if level > LEVELS_MAX {
            return Err(WalkError::TooManyLevels { levels_max: LEVELS_MAX });
        }
        let alone = Subtree { max_depth: 0, ..*top };
        if self.request.order == abi::CG_ORDER_DESCENDANTS_PRE
            && let Session::Whole(Some(end)) = self.piece(&alone)?
        {
            return Ok(Some(end));
        }
        let found = children(directory).map_err(|source| reopen_error(b".", source))?;
        for child in found {
            let opened = open_child(directory, &child);
            let opened = opened.map_err(|source| reopen_error(child.name.as_bytes(), source))?;
            let Some(opened) = opened else { continue };
            if let Some(end) = self.child(top, &opened, level)? {
                return Ok(Some(end));
            }
        }
        if self.request.order == abi::CG_ORDER_DESCENDANTS_POST
            && let Session::Whole(Some(end)) = self.piece(&alone)?
        {
            return Ok(Some(end));
        }
        Ok(None)
    }

    fn child(
        &mut self,
        parent: &Subtree<'_>,
        directory: &OwnedFd,
        level: u32,
    ) -> Result<Option<WalkEnd>, WalkError> {
        let subtree = Subtree {
            start: Start::Directory(directory.as_fd()),
            max_depth: if parent.max_depth == u32::MAX { u32::MAX } else { parent.max_depth - 1 },
            start_level: parent.start_level.map(|level| level + 1),
        };
        match self.piece(&subtree)? {
            Session::Whole(end) => Ok(end),
            Session::Gone => Ok(None),
            Session::TooLarge => self.pieces(&subtree, directory.as_fd(), level + 1),
        }
    }

    /// Walks a part of the whole in one session. Others may remove it any time.
    fn piece(&mut self, subtree: &Subtree<'_>) -> Result<Session, WalkError> {
        match self.session(subtree) {
            Err(WalkError::Kernel(KernelError::Attach(AttachError::NoSuchCgroup))) => Ok(Session::Gone),
            session => session,
        }
    }

    /// Walks a subtree in one session, if it is not too large.
    fn session(&mut self, subtree: &Subtree<'_>) -> Result<Session, WalkError> {
        let recorded = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let limit = self.request.limit;
        let request = WalkRequest {
            start: subtree.start,
            order: self.order_of(subtree),
            max_depth: subtree.max_depth,
            limit: if limit == 0 { 0 } else { limit.saturating_sub(recorded).max(1) },
            ..self.request
        };
        let drained = self.recorder.kernel.walk_locked(&request, subtree.start_level)?;
        self.cost.add_session(&drained);
        let walk = drained.walk;
        let rows = self.recorder.learn(drained);
        if walk.end == abi::CG_END_RECORDS_FULL {
            return Ok(Session::TooLarge);
        }
        if walk.visited == 0 && !self.is_there(&request)? {
            return Ok(Session::Gone);
        }
        self.rows.extend(rows);
        let end = decode::end(walk.end).ok_or(KernelError::Unfinished { end: walk.end })?;
        Ok(Session::Whole(Some(end).filter(|end| *end != WalkEnd::Complete)))
    }

    /// Whether a start that nothing was visited of is there: the iterator's order of the children
    /// leaves it out, and a cgroup may have none.
    fn is_there(&mut self, request: &WalkRequest<'_>) -> Result<bool, WalkError> {
        if request.order != abi::CG_ORDER_CHILDREN {
            return Ok(false);
        }
        let alone = WalkRequest::of(request.start, abi::CG_ORDER_SELF_ONLY);
        match self.recorder.kernel.walk_locked(&alone, None) {
            Ok(drained) => Ok(drained.walk.visited > 0),
            Err(KernelError::Attach(AttachError::NoSuchCgroup)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Of the children of a cgroup each is recorded alone.
    fn order_of(&self, subtree: &Subtree<'_>) -> abi::cg_order {
        match self.request.order {
            abi::CG_ORDER_CHILDREN if subtree.max_depth == 0 => abi::CG_ORDER_SELF_ONLY,
            order => order,
        }
    }
}

fn reopen_error(name: &[u8], source: io::Error) -> WalkError {
    WalkError::Reopen { path: escape_path(name), source }
}
