//! Where one case runs: a tree of its own, T with a child P, which has children C1 and C2.

use std::{fs, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_proto::v1::{CgroupOrder, CgroupTarget, ErrorReason, WalkEnd, WalkEngine, WalkSpec};
use cgfleet_rpc::wire_error::reason_of;
use integration_tests::{
    cgroups::TestTree,
    daemon::Daemon,
    walk::{Walked, by_id, by_path, spec, walk_through},
};
use tonic::{Code, Status};

use crate::world::World;

/// Which hierarchy a case is about.
#[derive(Debug, Clone)]
pub(crate) enum Hierarchy {
    V2,
    /// The one that is mounted for this.
    V1Named,
    /// The one with this controller.
    V1(String),
}

impl Hierarchy {
    pub(crate) fn is_v2(&self) -> bool {
        matches!(self, Self::V2)
    }
}

/// A hierarchy, and how its cgroups are named in requests.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) by_id: bool,
}

impl Named {
    pub(crate) fn v2(name: &str, by_id: bool) -> Self {
        Self { name: name.to_owned(), hierarchy: Hierarchy::V2, by_id }
    }

    pub(crate) fn v1(name: &str, hierarchy: Hierarchy) -> Self {
        Self { name: name.to_owned(), hierarchy, by_id: false }
    }
}

/// Where one case runs.
pub(crate) struct Site {
    world: Arc<World>,
    pub(crate) tree: TestTree,
    /// What requests call the hierarchy.
    hierarchy: String,
    pub(crate) by_id: bool,
    engine: WalkEngine,
    /// The paths above T, upward.
    above: &'static [&'static str],
}

impl Site {
    pub(crate) fn make(world: &Arc<World>, named: &Named, engine: WalkEngine) -> Result<Self> {
        let v2_root = world.v2_root()?;
        let above: &[&str] = if v2_root.is_some() { &["/", "/.."] } else { &["/"] };
        let (tree, hierarchy) = match (&named.hierarchy, v2_root) {
            (Hierarchy::V2, None) => (TestTree::v2()?, String::new()),
            (Hierarchy::V2, Some(root)) => (TestTree::on(&root)?, String::new()),
            (Hierarchy::V1Named, _) => {
                let mount = world.mount.get()?;
                (TestTree::on(mount.mount_point())?, mount.hierarchy())
            }
            (Hierarchy::V1(controller), _) => {
                (TestTree::v1(controller)?.context("a controller that is mounted")?, controller.clone())
            }
        };
        tree.make("P/C1")?;
        tree.make("P/C2")?;
        Ok(Self { world: Arc::clone(world), tree, hierarchy, by_id: named.by_id, engine, above })
    }

    pub(crate) fn agent(&self) -> Result<&Daemon> {
        Ok(&self.world.running()?.agent)
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.hierarchy.is_empty()
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.engine == WalkEngine::Locked
    }

    /// A cgroup of the tree as this case names it.
    pub(crate) fn target(&self, below: &str) -> Result<CgroupTarget> {
        if self.by_id {
            return Ok(by_id(self.tree.id(below)?));
        }
        Ok(self.by_path(&self.tree.path(below)))
    }

    pub(crate) fn by_path(&self, path: &str) -> CgroupTarget {
        CgroupTarget { hierarchy: self.hierarchy.clone(), ..by_path(path) }
    }

    /// A walk from a cgroup of the tree.
    pub(crate) fn spec(&self, below: &str, order: CgroupOrder) -> Result<WalkSpec> {
        Ok(self.spec_of(self.target(below)?, order))
    }

    pub(crate) fn spec_of(&self, target: CgroupTarget, order: CgroupOrder) -> WalkSpec {
        WalkSpec { engine: self.engine.into(), ..spec(target, order) }
    }

    pub(crate) fn walk(&self, spec: WalkSpec) -> Result<Walked> {
        let running = self.world.running()?;
        let walked = running.runtime.block_on(walk_through(&mut running.client.clone(), spec))?;
        ensure!(walked.summary.engine() == self.engine, "{:?} walked", walked.summary.engine());
        Ok(walked)
    }

    /// Walks, which has to give these cgroups of the tree, to end like this, and to say so.
    pub(crate) fn check(&self, spec: WalkSpec, expect: &[&str], end: WalkEnd) -> Result<Walked> {
        let expect: Vec<String> = expect.iter().map(|below| self.tree.path(below)).collect();
        self.check_paths(spec, &expect, end)
    }

    pub(crate) fn check_paths(&self, spec: WalkSpec, expect: &[String], end: WalkEnd) -> Result<Walked> {
        let walked = self.walk(spec)?;
        let found: Vec<&str> = walked.samples.iter().map(|sample| sample.path.as_str()).collect();
        ensure!(found == expect, "{found:?} instead of {expect:?}");
        ensure!(walked.summary.end() == end, "it ended with {:?}", walked.summary.end());
        Ok(walked)
    }

    /// The paths of these cgroups of the tree, and of all above it.
    pub(crate) fn up_to_the_root(&self, below: &[&str]) -> Vec<String> {
        let below = below.iter().map(|below| self.tree.path(below));
        below.chain(self.above.iter().map(|path| (*path).to_owned())).collect()
    }

    /// Walks, which has to be refused like this, and to leave nothing attached: its agent has no collectors on,
    /// which are.
    pub(crate) fn check_refused(
        &self,
        spec: WalkSpec,
        code: Code,
        reason: ErrorReason,
        says: &str,
    ) -> Result<()> {
        let status = match self.walk(spec) {
            Err(error) => error.downcast::<Status>()?,
            Ok(walked) => bail!("answered with {:?}", walked.samples),
        };
        ensure!((status.code(), reason_of(&status)) == (code, reason), "{status}");
        ensure!(status.message().contains(says), "{:?} does not name {says}", status.message());
        self.check_nothing_attached()
    }

    fn check_nothing_attached(&self) -> Result<()> {
        for entry in fs::read_dir(format!("/proc/{}/fd", self.agent()?.pid()))? {
            // One that was closed meanwhile is not attached.
            let Ok(open) = fs::read_link(entry?.path()) else { continue };
            let open = open.to_string_lossy();
            ensure!(!open.contains("bpf_link") && !open.contains("bpf_iter"), "{open} is open");
        }
        Ok(())
    }
}
