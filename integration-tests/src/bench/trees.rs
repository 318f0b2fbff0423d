//! Trees of cgroups to measure on.

use std::path::PathBuf;

use anyhow::Result;

use crate::cgroups::TestTree;

/// A tree. Its own top is one cgroup more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) below_top: u32,
    pub(super) is_chain: bool,
    pub(super) rounds: usize,
}

/// A tree that was made, removed on drop.
pub(super) struct Grown {
    pub(super) tree: TestTree,
    /// Of every cgroup, a parent before its children.
    pub(super) directories: Vec<PathBuf>,
}

impl Shape {
    /// Makes it on cgroup v2, without controllers.
    pub(super) fn grow(&self) -> Result<Grown> {
        self.grow_in(TestTree::v2()?)
    }

    /// Makes it on cgroup v2, with every controller that the mount's root hands down in each cgroup.
    pub(super) fn grow_with_controllers(&self) -> Result<Grown> {
        let tree = TestTree::v2()?;
        tree.enable_controllers("")?;
        self.grow_in(tree)
    }

    fn grow_in(&self, tree: TestTree) -> Result<Grown> {
        let mut directories = vec![tree.directory("")];
        let mut below = String::new();
        for number in 0..self.below_top {
            below = if self.is_chain && number > 0 { format!("{below}/c") } else { format!("c{number}") };
            tree.make(&below)?;
            directories.push(tree.directory(&below));
        }
        Ok(Grown { tree, directories })
    }

    pub(super) fn cgroups(&self) -> u32 {
        self.below_top + 1
    }
}
