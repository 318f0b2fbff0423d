//! A tree of cgroups in every hierarchy, and the loads in them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::CgroupTarget;
use integration_tests::{
    cgroups::TestTree,
    load::{Running, Stage},
    wait,
};

use super::plan::{DEVICE, FROZEN, Needs, PLAN, Planned, on_v1};

/// Hierarchies of cgroup v1 that count something.
const V1_CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];

/// A tree in one hierarchy.
#[derive(Debug)]
pub(crate) struct Tree {
    /// As requests call it; empty for cgroup v2.
    pub(crate) hierarchy: &'static str,
    cgroups: TestTree,
}

impl Tree {
    pub(crate) fn is_v2(&self) -> bool {
        self.hierarchy.is_empty()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.cgroups.directory("")
    }

    /// What a walk of it starts at.
    pub(crate) fn target(&self) -> CgroupTarget {
        let (path, hierarchy) = (self.cgroups.path(""), self.hierarchy.to_owned());
        CgroupTarget { path, hierarchy, ..CgroupTarget::default() }
    }
}

/// All of it. What is declared first is ended first.
#[derive(Debug)]
pub(crate) struct Forest {
    loads: Vec<Running>,
    pub(crate) trees: Vec<Tree>,
    pub(crate) started: Instant,
    stage: Stage,
}

impl Forest {
    /// Makes the cgroups, starts the loads, and waits until each has done something.
    pub(crate) fn grow() -> Result<Self> {
        let mut trees = vec![Tree { hierarchy: "", cgroups: TestTree::v2()? }];
        for hierarchy in V1_CONTROLLERS {
            let made = TestTree::v1(hierarchy)?;
            let is_new = |made: &TestTree| trees.iter().all(|tree| !tree.cgroups.is_in_hierarchy_of(made));
            let made = made.filter(is_new);
            trees.extend(made.map(|cgroups| Tree { hierarchy, cgroups }));
        }
        enable_controllers(&trees[0].directory())?;
        let mut forest = Self { loads: Vec::new(), trees, started: Instant::now(), stage: Stage::make()? };
        for planned in PLAN {
            if !forest.has(planned.needs) {
                continue;
            }
            for number in 0..planned.count {
                let name = if planned.count == 1 {
                    planned.name.to_owned()
                } else {
                    format!("{}-{number}", planned.name)
                };
                forest.plant(planned, &name).with_context(|| format!("cgroup {name}"))?;
            }
        }
        forest.loads.iter_mut().try_for_each(Running::worked)?;
        forest.set_frozen()?;
        println!("{} loads after {:.1?}", forest.loads.len(), forest.started.elapsed());
        forest.started = Instant::now();
        Ok(forest)
    }

    fn has(&self, needs: Needs) -> bool {
        let v2_has = |file| self.trees[0].directory().join(file).exists();
        match needs {
            Needs::Nothing => true,
            Needs::MemoryOnV2 => v2_has("memory.max"),
            Needs::SwapOnV2 => v2_has("memory.swap.max") && has_swap(),
            Needs::IoOnV2 => self.stage.has_disk && v2_has("io.max"),
        }
    }

    fn plant(&mut self, planned: &Planned, name: &str) -> Result<()> {
        for tree in &self.trees {
            tree.cgroups.make(name)?;
            let directory = tree.cgroups.directory(name);
            for (file, value) in planned.settings {
                if tree.is_v2() {
                    let value = value.replace(DEVICE, &self.stage.device()?);
                    set(&directory, file, &value)?;
                } else {
                    on_v1(file, value).iter().try_for_each(|(file, value)| set(&directory, file, value))?;
                }
            }
            if tree.is_v2() && planned.is_inner {
                enable_controllers(&directory)?;
            }
        }
        let Some(load) = planned.load else { return Ok(()) };
        let directories = self.trees.iter().map(|tree| tree.cgroups.directory(name)).collect();
        self.loads.push(Running::start(load, &self.stage.place(directories))?);
        Ok(())
    }

    fn set_frozen(&self) -> Result<()> {
        set(&self.trees[0].cgroups.directory(FROZEN), "cgroup.freeze", "1")
    }

    /// Stops every load, in all hierarchies, for all of them are in the tree of cgroup v2.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.freeze("1").await
    }

    /// Lets them go on.
    pub(crate) async fn go_on(&self) -> Result<()> {
        self.freeze("0").await
    }

    async fn freeze(&self, value: &str) -> Result<()> {
        let directory = self.trees[0].directory();
        set(&directory, "cgroup.freeze", value)?;
        wait::until("a stop of all loads", Duration::from_mins(1), || async {
            let events = fs::read_to_string(directory.join("cgroup.events"))?;
            Ok(events.contains(&format!("frozen {value}\n")).then_some(()))
        })
        .await
    }
}

impl Drop for Forest {
    fn drop(&mut self) {
        // A frozen process dies no less, but its cgroup is a moment longer there.
        let _ = set(&self.trees[0].directory(), "cgroup.freeze", "0");
    }
}

fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// What the hierarchy does not have is not set.
fn set(directory: &Path, file: &str, value: &str) -> Result<()> {
    let path = directory.join(file);
    if !path.exists() {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
}

/// Enables every controller for the children of a cgroup v2 cgroup.
fn enable_controllers(directory: &Path) -> Result<()> {
    let controllers = fs::read_to_string(directory.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        set(directory, "cgroup.subtree_control", &format!("+{controller}"))?;
    }
    ensure!(
        fs::read_to_string(directory.join("cgroup.subtree_control"))?.trim() == controllers.trim(),
        "not every controller could be enabled in {}",
        directory.display()
    );
    Ok(())
}
