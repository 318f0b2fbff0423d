//! Walks through the cgroup filesystem: every value from its file. For hosts without BPF, and slow.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::DirEntryExt as _, fs::MetadataExt as _},
    path::PathBuf,
    time::{Instant, SystemTime},
    vec,
};

use cgfleet_model::escape_path;
use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkEngine, WalkSummary};

use super::{
    Order, Subsystem, Target, WalkError, WalkSpec, Walked,
    find::{Found, find},
    flush::{FlushSite, FlushSpec, FlushedSubtree, Subsystems, flush_by_files},
    sample_files::set_from_files,
};
use crate::cgroupfs::{Hierarchies, Hierarchy, read_metrics};

/// Runs walks and flushes without the kernel side.
#[derive(Debug)]
pub(super) struct FilesEngine {
    hierarchies: Hierarchies,
    rows_max: u32,
}

/// A cgroup as the filesystem shows it.
#[derive(Debug, Clone)]
struct Cgroup {
    /// From the root of its hierarchy, as bytes.
    path: Vec<u8>,
    directory: PathBuf,
    id: u64,
    parent_id: u64,
    level: u32,
}

impl Cgroup {
    /// Its children in the order of their making: ids of one hierarchy only grow (fs/kernfs/dir.c,
    /// `__kernfs_new_node`).
    fn children(&self) -> io::Result<Vec<Self>> {
        let mut children = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let parent = self.path.strip_suffix(b"/").unwrap_or(&self.path);
            children.push(Self {
                path: [parent, b"/", entry.file_name().as_bytes()].concat(),
                directory: entry.path(),
                id: entry.ino(),
                parent_id: self.id,
                level: self.level + 1,
            });
        }
        children.sort_by_key(|child| child.id);
        Ok(children)
    }

    /// Whether its path is still its own. An id is given to no other cgroup, so everything that was read
    /// at the path before was read of this one.
    fn is_there(&self) -> bool {
        fs::metadata(&self.directory).is_ok_and(|directory| directory.ino() == self.id)
    }

    /// The cgroup at a path, then its parent, and so on to the root; none if it was removed meanwhile.
    fn line_up(hierarchy: &Hierarchy, path: &[u8]) -> io::Result<Vec<Self>> {
        let mut line: Vec<Self> = Vec::new();
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
        let mut path = path;
        for level in (0..=u32::try_from(names).unwrap_or(u32::MAX)).rev() {
            let directory = hierarchy.directory(path).ok_or(io::ErrorKind::NotFound)?;
            let id = fs::metadata(&directory)?.ino();
            if let Some(child) = line.last_mut() {
                child.parent_id = id;
            }
            line.push(Self { path: path.to_vec(), directory, id, parent_id: 0, level });
            path = parent_of(path);
        }
        // While a cgroup is there, so are those above it.
        Ok(if line.first().is_some_and(Self::is_there) { line } else { Vec::new() })
    }

    /// Unlike the first directory of a cgroup namespace, a root has no cgroup.type.
    fn is_root(&self) -> bool {
        self.level == 0 && !self.directory.join("cgroup.type").exists()
    }

    fn failed(&self, source: io::Error) -> WalkError {
        WalkError::Reopen { path: escape_path(&self.path), source }
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/",
        Some(at) => &path[..at],
    }
}

/// Whether this is how the filesystem says that a cgroup was removed: by the name, or by what is open.
fn says_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// A walk under way.
struct Walk<'a> {
    hierarchy: &'a Hierarchy,
    spec: &'a WalkSpec,
    stop_at_id: u64,
    limit: usize,
    start_level: u32,
    samples: Vec<CgroupSample>,
}

/// A cgroup whose descendants are being visited, and those of its children that are still to come.
struct Entered {
    cgroup: Cgroup,
    children: vec::IntoIter<Cgroup>,
}

impl Walk<'_> {
    /// Reads one cgroup, if it is still there. Says why the walk ends behind it, if it does.
    fn visit(&mut self, cgroup: &Cgroup) -> Option<WalkEnd> {
        let mut sample = CgroupSample {
            cgroup_id: cgroup.id,
            parent_id: cgroup.parent_id,
            hierarchy_id: self.hierarchy.id,
            level: cgroup.level,
            path: escape_path(&cgroup.path),
            ..CgroupSample::default()
        };
        let read = read_metrics(self.hierarchy, &cgroup.directory, cgroup.is_root(), self.spec.metrics);
        if !cgroup.is_there() {
            return None;
        }
        set_from_files(&mut sample, read);
        let holds =
            self.spec.stop_when.is_some_and(|condition| condition.holds(sample.metric(condition.metric)));
        self.samples.push(sample);
        match () {
            () if cgroup.id == self.stop_at_id => Some(WalkEnd::StopAt),
            () if holds => Some(WalkEnd::StopWhen),
            () if self.samples.len() >= self.limit => Some(WalkEnd::Limit),
            () => None,
        }
    }

    /// Visits the start and its descendants. Its own stack: a tree may be deeper than a thread's.
    fn down(&mut self, start: Cgroup) -> Result<Option<WalkEnd>, WalkError> {
        let is_post = self.spec.order == Order::DescendantsPost;
        let mut way: Vec<Entered> = Vec::new();
        let mut next = Some(start);
        loop {
            let end = if let Some(cgroup) = next {
                let end = if is_post { None } else { self.visit_below(&cgroup) };
                let children = if end.is_some() { Vec::new() } else { self.children(&cgroup)? };
                way.push(Entered { cgroup, children: children.into_iter() });
                end
            } else {
                let Some(Entered { cgroup, .. }) = way.pop() else { return Ok(None) };
                if is_post { self.visit(&cgroup) } else { None }
            };
            if end.is_some() {
                return Ok(end);
            }
            next = way.last_mut().and_then(|entered| entered.children.next());
        }
    }

    /// Visits a cgroup, unless it is the start of a walk of children alone.
    fn visit_below(&mut self, cgroup: &Cgroup) -> Option<WalkEnd> {
        if self.spec.order == Order::Children && cgroup.level == self.start_level {
            return None;
        }
        self.visit(cgroup)
    }

    /// The children that the walk goes on to. What hides them is an error, unless the cgroup was removed.
    fn children(&self, cgroup: &Cgroup) -> Result<Vec<Cgroup>, WalkError> {
        let depth = cgroup.level - self.start_level;
        if self.spec.max_depth.is_some_and(|max_depth| depth >= max_depth) {
            return Ok(Vec::new());
        }
        match cgroup.children() {
            Err(error) if says_gone(&error) => Ok(Vec::new()),
            found => found.map_err(|error| cgroup.failed(error)),
        }
    }

    /// Visits the start and those above it.
    fn up(&mut self, line: &[Cgroup]) -> Option<WalkEnd> {
        for cgroup in line {
            let end = self.visit(cgroup);
            // A start that was removed has no ancestors any more.
            if end.is_some() || self.samples.is_empty() {
                return end;
            }
        }
        None
    }
}

impl FilesEngine {
    pub(super) fn new(hierarchies: Hierarchies, rows_max: u32) -> Self {
        Self { hierarchies, rows_max }
    }

    pub(super) fn walk(&self, spec: &WalkSpec) -> Result<Walked, WalkError> {
        let (started, read_at) = (Instant::now(), SystemTime::now());
        let found = find(&self.hierarchies, "spec.target", &spec.target)?;
        let stop_at = spec.stop_at_in(&self.hierarchies, found.hierarchy_id())?;
        let (hierarchy, line) = self.line_up("spec.target", &spec.target, &found)?;
        let rows_max = self.rows_max as usize;
        let limit = if spec.limit == 0 { rows_max } else { (spec.limit as usize).min(rows_max) };
        let start = line.first().cloned();
        let mut walk = Walk {
            hierarchy,
            spec,
            stop_at_id: stop_at.map_or(0, |stop_at| stop_at.cgroup_id()),
            limit,
            start_level: start.as_ref().map_or(0, |start| start.level),
            samples: Vec::new(),
        };
        let ended = match (start.clone(), spec.order) {
            (None, _) => None,
            (Some(start), Order::SelfOnly) => walk.visit(&start),
            (Some(_), Order::AncestorsUp) => walk.up(&line),
            (Some(start), _) => walk.down(start)?,
        };
        let is_gone = walk.samples.is_empty() && start.is_none_or(|start| !start.is_there());
        let is_ours = ended == Some(WalkEnd::Limit) && spec.limit as usize != limit;
        let end = match ended {
            None if is_gone => WalkEnd::TargetGone,
            _ if is_ours => WalkEnd::Truncated,
            ended => ended.unwrap_or(WalkEnd::Complete),
        };
        let summary = WalkSummary {
            engine: WalkEngine::Files.into(),
            end: end.into(),
            cgroups_visited: walk.samples.len() as u64,
            truncated_by: if is_ours { "walk_rows_max" } else { "" }.to_owned(),
            files_ns: nanoseconds(started),
            read_at: Some(read_at.into()),
            ..WalkSummary::default()
        };
        Ok(Walked { samples: walk.samples, summary })
    }

    /// Finds the cgroup to flush, and what is above it.
    pub(super) fn find_to_flush(&self, spec: &FlushSpec) -> Result<FlushSite, WalkError> {
        let found = find(&self.hierarchies, "target", &spec.target)?;
        let (hierarchy, line) = self.line_up("target", &spec.target, &found)?;
        let located = line.first().and_then(|cgroup| {
            let located = self.hierarchies.locate_in(hierarchy.id, &cgroup.path).ok()?;
            (located.cgroup_id == cgroup.id).then_some(located)
        });
        let Some(located) = located else {
            return Err(WalkError::NoSuchCgroup { field: "target", target: spec.target.to_text() });
        };
        let ends_at_root = line.last().is_some_and(Cgroup::is_root);
        let line = line.iter().map(|cgroup| cgroup.id).collect();
        Ok(FlushSite::new(Found::ByPath(located), spec.scope, line, ends_at_root, Subsystems::ALL))
    }

    /// Flushes; `None` if the cgroup was removed.
    pub(super) fn flush(&self, site: &FlushSite) -> Result<Option<FlushedSubtree>, WalkError> {
        let started = Instant::now();
        let target = Target::Id(site.found.cgroup_id());
        let (hierarchy, line) = self.line_up("target", &target, &site.found)?;
        let Some(cgroup) = line.iter().find(|cgroup| Some(&cgroup.id) == site.line.first()) else {
            return Ok(None);
        };
        // CPU time of cgroup v1 is not in rstat, nor is its block I/O.
        let subsystems = if hierarchy.is_v2() { &Subsystem::ALL[..] } else { &[Subsystem::Memory] };
        let subsystems =
            flush_by_files(&cgroup.directory, cgroup.is_root(), subsystems, "there is no BPF here");
        Ok(cgroup.is_there().then(|| FlushedSubtree {
            cgroup_id: cgroup.id,
            path: escape_path(&cgroup.path),
            flush_ns: 0,
            files: started.elapsed(),
            mutex_held_ns: 0,
            flushed_at: SystemTime::now(),
            times: (started, Instant::now()),
            subsystems,
        }))
    }

    /// Where a walk starts, and what is above; nothing if the start was removed since it was found.
    fn line_up(
        &self,
        field: &'static str,
        target: &Target,
        found: &Found,
    ) -> Result<(&Hierarchy, Vec<Cgroup>), WalkError> {
        let missing = || WalkError::NoSuchCgroup { field, target: target.to_text() };
        let hierarchy = self.hierarchies.by_id(found.hierarchy_id()).ok_or_else(missing)?;
        let path = match found {
            Found::ByPath(located) => located.path.clone(),
            Found::ById(id) => search(hierarchy, *id)?.ok_or_else(missing)?,
        };
        let line = match Cgroup::line_up(hierarchy, &path) {
            Ok(line) => line,
            Err(error) if says_gone(&error) => Vec::new(),
            Err(source) => return Err(WalkError::Reopen { path: escape_path(&path), source }),
        };
        // Another cgroup may have taken the path.
        let is_found = line.first().is_some_and(|start| start.id == found.cgroup_id());
        Ok((hierarchy, if is_found { line } else { Vec::new() }))
    }
}

/// Looks for a cgroup by its id, from the root down, and gives its path. Only if it is nowhere else, a
/// cgroup that cannot be looked into is an error.
fn search(hierarchy: &Hierarchy, id: u64) -> Result<Option<Vec<u8>>, WalkError> {
    let mut hidden = None;
    let mut waiting = Cgroup::line_up(hierarchy, b"/").unwrap_or_default();
    while let Some(cgroup) = waiting.pop() {
        if cgroup.id == id {
            return Ok(Some(cgroup.path));
        }
        match cgroup.children() {
            Ok(children) => waiting.extend(children),
            Err(error) if says_gone(&error) => {}
            Err(error) => hidden = Some(cgroup.failed(error)),
        }
    }
    hidden.map_or(Ok(None), Err)
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
