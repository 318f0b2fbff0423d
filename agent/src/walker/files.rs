//! Walks through the cgroup filesystem: every value from its file. For hosts without BPF, and slow.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::DirEntryExt as _, fs::MetadataExt as _},
    path::PathBuf,
    time::Instant,
};

use cgfleet_model::escape_path;
use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkEngine, WalkSummary};

use super::{
    FlushedSubtree, Order, Target, WalkError, WalkSpec, Walked,
    find::{Found, find},
    sample_files::set_from_files,
};
use crate::cgroupfs::{Hierarchies, Hierarchy, read_metrics};

/// The files whose reading flushes what rstat keeps.
const FLUSHING: [&str; 3] = ["cpu.stat", "memory.stat", "io.stat"];

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
    /// Its children, in the order of their ids, which is about that of their making.
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

    /// The cgroup at a path that exists; `None` if it was removed meanwhile.
    fn at(hierarchy: &Hierarchy, path: &[u8]) -> Option<Self> {
        let id_of = |path: &[u8]| Some(fs::metadata(hierarchy.directory(path)?).ok()?.ino());
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let level = u32::try_from(names.count()).unwrap_or(u32::MAX);
        let parent_id = if level == 0 { 0 } else { id_of(parent_of(path))? };
        let (path, directory) = (path.to_vec(), hierarchy.directory(path)?);
        Some(Self { id: id_of(&path)?, path, directory, parent_id, level })
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => b"/",
        Some(at) => &path[..at],
    }
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

impl Walk<'_> {
    /// Reads one cgroup. Says why the walk ends behind it, if it does.
    fn visit(&mut self, cgroup: &Cgroup) -> Option<WalkEnd> {
        let mut sample = CgroupSample {
            cgroup_id: cgroup.id,
            parent_id: cgroup.parent_id,
            hierarchy_id: self.hierarchy.id,
            level: cgroup.level,
            path: escape_path(&cgroup.path),
            ..CgroupSample::default()
        };
        // Unlike the first directory of a cgroup namespace, a root has no cgroup.type.
        let is_root = cgroup.level == 0 && !cgroup.directory.join("cgroup.type").exists();
        let read = read_metrics(self.hierarchy, &cgroup.directory, is_root, self.spec.metrics);
        if read.values.is_empty() && !cgroup.directory.exists() {
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

    fn down(&mut self, cgroup: &Cgroup) -> Option<WalkEnd> {
        let depth = cgroup.level - self.start_level;
        let is_visited = self.spec.order != Order::Children || depth > 0;
        let post = self.spec.order == Order::DescendantsPost;
        if is_visited && !post {
            let end = self.visit(cgroup);
            if end.is_some() {
                return end;
            }
        }
        if self.spec.max_depth.is_none_or(|max_depth| depth < max_depth) {
            // A cgroup that was removed meanwhile has no children any more.
            for child in cgroup.children().unwrap_or_default() {
                let end = self.down(&child);
                if end.is_some() {
                    return end;
                }
            }
        }
        if post { self.visit(cgroup) } else { None }
    }

    fn up(&mut self, cgroup: Cgroup) -> Option<WalkEnd> {
        let mut cgroup = cgroup;
        loop {
            let end = self.visit(&cgroup);
            if end.is_some() || cgroup.level == 0 {
                return end;
            }
            cgroup = Cgroup::at(self.hierarchy, parent_of(&cgroup.path))?;
        }
    }
}

impl FilesEngine {
    pub(super) fn new(hierarchies: Hierarchies, rows_max: u32) -> Self {
        Self { hierarchies, rows_max }
    }

    pub(super) fn walk(&self, spec: &WalkSpec) -> Result<Walked, WalkError> {
        let started = Instant::now();
        let found = find(&self.hierarchies, "spec.target", &spec.target)?;
        let stop_at = spec.stop_at_in(&self.hierarchies, found.hierarchy_id())?;
        let (hierarchy, start) = self.start("spec.target", &spec.target, &found)?;
        let rows_max = self.rows_max as usize;
        let limit = if spec.limit == 0 { rows_max } else { (spec.limit as usize).min(rows_max) };
        let mut walk = Walk {
            hierarchy,
            spec,
            stop_at_id: stop_at.map_or(0, |stop_at| stop_at.cgroup_id()),
            limit,
            start_level: start.as_ref().map_or(0, |start| start.level),
            samples: Vec::new(),
        };
        let ended = match (start, spec.order) {
            (None, _) => Some(WalkEnd::TargetGone),
            (Some(start), Order::SelfOnly) => walk.visit(&start),
            (Some(start), Order::AncestorsUp) => walk.up(start),
            (Some(start), _) => walk.down(&start),
        };
        let is_ours = ended == Some(WalkEnd::Limit) && spec.limit as usize != limit;
        let end = if is_ours { WalkEnd::Truncated } else { ended.unwrap_or(WalkEnd::Complete) };
        let summary = WalkSummary {
            engine: WalkEngine::Files.into(),
            end: end.into(),
            cgroups_visited: walk.samples.len() as u64,
            truncated_by: if is_ours { "walk_rows_max" } else { "" }.to_owned(),
            files_ns: nanoseconds(started),
            ..WalkSummary::default()
        };
        Ok(Walked { samples: walk.samples, summary })
    }

    pub(super) fn flush(&self, target: &Target) -> Result<FlushedSubtree, WalkError> {
        let started = Instant::now();
        let found = find(&self.hierarchies, "target", target)?;
        let (_, start) = self.start("target", target, &found)?;
        let gone = || WalkError::NoSuchCgroup { field: "target", target: target.to_text() };
        let cgroup = start.ok_or_else(gone)?;
        for file in FLUSHING {
            // Those of controllers that are not enabled are not there.
            let _ = fs::read(cgroup.directory.join(file));
        }
        Ok(FlushedSubtree {
            cgroup_id: cgroup.id,
            path: escape_path(&cgroup.path),
            flush_ns: nanoseconds(started),
        })
    }

    /// Where a walk starts; no cgroup if it was removed since it was found.
    fn start(
        &self,
        field: &'static str,
        target: &Target,
        found: &Found,
    ) -> Result<(&Hierarchy, Option<Cgroup>), WalkError> {
        let missing = || WalkError::NoSuchCgroup { field, target: target.to_text() };
        let hierarchy = self.hierarchies.by_id(found.hierarchy_id()).ok_or_else(missing)?;
        let start = match found {
            Found::ByPath(located) => Cgroup::at(hierarchy, &located.path),
            Found::ById(id) => Some(search(hierarchy, *id).ok_or_else(missing)?),
        };
        Ok((hierarchy, start))
    }
}

/// Looks for a cgroup by its id, from the root down.
fn search(hierarchy: &Hierarchy, id: u64) -> Option<Cgroup> {
    let mut waiting = vec![Cgroup::at(hierarchy, b"/")?];
    while let Some(cgroup) = waiting.pop() {
        if cgroup.id == id {
            return Some(cgroup);
        }
        waiting.extend(cgroup.children().unwrap_or_default());
    }
    None
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
