//! Cgroups that live for a moment, with a little CPU work in each.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::cgroups::TestTree;

/// A process that goes where it is told to, and works a moment there.
#[derive(Debug)]
struct Visitor {
    child: Child,
    tell: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Visitor {
    fn start() -> Result<Self> {
        let script = "while read -r procs; do echo $$ > \"$procs\" || exit 1; \
                      i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; echo there; done";
        let mut child =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let tell = child.stdin.take().context("its input")?;
        let said = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, tell, said })
    }

    fn visit(&mut self, tree: &TestTree, below: &str) -> Result<()> {
        writeln!(self.tell, "{}", tree.directory(below).join("cgroup.procs").display())?;
        let mut said = String::new();
        self.said.read_line(&mut said)?;
        ensure!(said == "there\n", "the visitor came not to {below}");
        Ok(())
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes so many cgroups below `top` of the tree, has a process work in each, and removes each after `lifetime`. Gives
/// their ids. Until the end the process is in `rest` of the tree, and what it does there is charged there.
pub fn churn(
    tree: &TestTree,
    top: &str,
    rest: &str,
    count: u32,
    lifetime: Duration,
) -> Result<BTreeSet<u64>> {
    let mut visitor = Visitor::start()?;
    let (mut ids, mut alive) = (BTreeSet::new(), VecDeque::new());
    let remove = |name: &str| fs::remove_dir(tree.directory(name)).with_context(|| format!("remove {name}"));
    for number in 0..count {
        let name = format!("{top}/{number}");
        ids.insert(tree.make(&name)?);
        alive.push_back((Instant::now(), name.clone()));
        visitor.visit(tree, &name)?;
        // The newest is where the visitor is.
        while alive.len() > 1 && alive.front().is_some_and(|(made_at, _)| made_at.elapsed() >= lifetime) {
            alive.pop_front().map(|(_, name)| remove(&name)).transpose()?;
        }
    }
    visitor.visit(tree, rest)?;
    alive.iter().try_for_each(|(_, name)| remove(name))?;
    Ok(ids)
}
