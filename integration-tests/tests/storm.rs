//! Cgroups come and go while they are walked.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use cgfleet_proto::v1::{
    CgroupOrder, CgroupSample, CgroupTarget, ErrorReason, WalkEnd, WalkEngine, WalkSpec,
};
use cgfleet_rpc::wire_error::reason_of;
use integration_tests::{
    cgroups::{NamedV1, TestTree},
    daemon::{Daemon, Start},
    effort::repetitions,
    walk::{by_path, spec, walk},
};
use tonic::Status;

const GROUPS: usize = 10;
/// With the groups and the root of the tree, 2,000 cgroups are always there.
const STEADY_IN_GROUP: usize = 199;

/// What a storm makes and removes, again and again: paths below the tree's root, each below the one before.
type Pass = fn(u32) -> Vec<String>;

/// A leaf in one of the groups.
fn leaf(number: u32) -> Vec<String> {
    vec![format!("{}/passing-{number}", number as usize % GROUPS)]
}

/// A subtree in one of the groups or beside them, which is removed with all that is in it: a walk that is
/// there loses several levels.
fn subtree(number: u32) -> Vec<String> {
    let group = match number as usize % (GROUPS + 1) {
        GROUPS => String::new(),
        group => format!("{group}/"),
    };
    ["", "/b", "/b/c", "/b/c/d"].map(|below| format!("{group}passing-tree-{number}{below}")).to_vec()
}

/// Threads that make and remove cgroups until they are asked what they made.
struct Storm {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<HashMap<u64, String>>>>,
}

impl Storm {
    fn over(tree: &TestTree, passes: &[Pass]) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let threads = passes.iter().map(|pass| {
            let (root, path, done, pass) = (tree.directory(""), tree.path(""), Arc::clone(&done), *pass);
            thread::spawn(move || pass_by(&root, &path, &done, pass))
        });
        Self { threads: threads.collect(), done }
    }

    /// Every cgroup that was made: id and path.
    fn end(mut self) -> Result<HashMap<u64, String>> {
        self.done.store(true, Ordering::Relaxed);
        let mut made = HashMap::new();
        for thread in self.threads.drain(..) {
            made.extend(thread.join().map_err(|_| anyhow!("the storm panicked"))??);
        }
        Ok(made)
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // The tree can be removed only when nothing is made in it any more.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn pass_by(root: &Path, path: &str, done: &AtomicBool, pass: Pass) -> io::Result<HashMap<u64, String>> {
    let mut made = HashMap::new();
    for number in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let passing = pass(number);
        for below in &passing {
            let directory = root.join(below);
            fs::create_dir(&directory)?;
            made.insert(fs::metadata(&directory)?.ino(), format!("{path}/{below}"));
        }
        passing.iter().rev().try_for_each(|below| fs::remove_dir(root.join(below)))?;
    }
    Ok(made)
}

/// What is there all the time: paths, in the order in which they were made, which is the order of siblings.
struct Steady {
    ids: HashMap<u64, String>,
    leaves: Vec<String>,
}

impl Steady {
    fn make(tree: &TestTree) -> Result<Self> {
        let mut ids = HashMap::from([(tree.id("")?, tree.path(""))]);
        let mut leaves = Vec::new();
        for group in 0..GROUPS {
            let group = group.to_string();
            ids.insert(tree.make(&group)?, tree.path(&group));
            for leaf in 0..STEADY_IN_GROUP {
                let below = format!("{group}/steady-{leaf:03}");
                ids.insert(tree.make(&below)?, tree.path(&below));
                leaves.push(tree.path(&below));
            }
        }
        Ok(Self { ids, leaves })
    }

    /// Checks what one walk brought.
    fn check(&self, samples: &[CgroupSample], order: CgroupOrder) {
        let mut at: HashMap<u64, usize> = HashMap::new();
        for (position, sample) in samples.iter().enumerate() {
            assert!(at.insert(sample.cgroup_id, position).is_none(), "{} is there twice", sample.path);
        }
        for (position, sample) in samples.iter().enumerate() {
            // The first level below the hierarchy's root is the tree's root.
            let is_root = !sample.path[1..].contains('/');
            let parent = at.get(&sample.parent_id);
            match order {
                _ if is_root => {}
                CgroupOrder::DescendantsPre => {
                    assert!(parent.is_some_and(|parent| *parent < position), "{} is an orphan", sample.path);
                }
                // Between a child and its parent, which comes later, both may have gone.
                _ => assert!(
                    parent.map_or(sample.path.contains("/passing-"), |parent| *parent > position),
                    "{} is an orphan",
                    sample.path
                ),
            }
        }
        let found = samples.iter().map(|sample| &sample.path).filter(|path| path.contains("/steady-"));
        assert!(found.eq(&self.leaves), "a cgroup that was there all the time is not, or elsewhere");
    }
}

/// Walks through a storm in the smallest of slices and holds.
struct Walks<'a> {
    agent: &'a Daemon,
    target: CgroupTarget,
    steady: &'a Steady,
    /// Every cgroup that was met: id and path.
    met: HashSet<(u64, String)>,
    interrupted: u32,
}

impl Walks<'_> {
    async fn walk(&mut self, order: CgroupOrder, engine: WalkEngine) -> Result<()> {
        let spec = WalkSpec { engine: engine.into(), ..spec(self.target.clone(), order) };
        let walked = match walk(self.agent, spec).await {
            Ok(walked) => walked,
            // Said, and not hidden: it lost its place.
            Err(error) => {
                let status = error.downcast::<Status>()?;
                anyhow::ensure!(reason_of(&status) == ErrorReason::WalkInterrupted, "{status}");
                self.interrupted += 1;
                return Ok(());
            }
        };
        assert_eq!(walked.summary.end(), WalkEnd::Complete);
        self.steady.check(&walked.samples, order);
        self.met.extend(walked.samples.into_iter().map(|sample| (sample.cgroup_id, sample.path)));
        Ok(())
    }
}

async fn agent_of_small_bounds() -> Result<Daemon> {
    Start::agent()?
        .flushing_freely()
        .flag("--slice-time-max", "10us")
        .flag("--locked-rows-max", "256")
        .start()
        .await
}

/// Walks a tree so often while it is stormed.
async fn check(tree: &TestTree, target: CgroupTarget, rounds: u32) -> Result<()> {
    let agent = agent_of_small_bounds().await?;
    let steady = Steady::make(tree)?;
    let storm = Storm::over(tree, &[leaf, subtree]);
    let mut walks = Walks { agent: &agent, target, steady: &steady, met: HashSet::new(), interrupted: 0 };
    for round in 0..rounds {
        let order = if round % 2 == 0 { CgroupOrder::DescendantsPost } else { CgroupOrder::DescendantsPre };
        let engine = if round % 5 == 4 { WalkEngine::Locked } else { WalkEngine::Unlocked };
        walks.walk(order, engine).await.with_context(|| format!("round {round}, {order:?} {engine:?}"))?;
    }
    let made = storm.end()?;
    let passing = walks.met.iter().filter(|(id, _)| !steady.ids.contains_key(id)).count();
    println!("{} cgroups came and went, {passing} of them were met", made.len());
    for (id, path) in &walks.met {
        let existed = steady.ids.get(id).or_else(|| made.get(id));
        assert_eq!(existed, Some(path), "cgroup {id} never existed");
    }
    assert_eq!(walks.interrupted, 0, "walks that lost their place");
    assert!(passing > 0, "no walk met any of {} that came and went", made.len());
    Ok(())
}

/// What is there all the time is there once, in order, with its parent, and nothing else than what was
/// made.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cgroups_leaves_no_duplicate_no_orphan_and_no_ghost() -> Result<()> {
    let tree = TestTree::v2()?;
    check(&tree, by_path(tree.path("")), repetitions(500)).await
}

/// Where the kernel takes no ids, walks go on by directory, for which the agent needs the names of what
/// is coming and going.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_cgroup_v1_is_walked_as_well() -> Result<()> {
    let v1 = NamedV1::mount()?;
    let tree = TestTree::on(v1.mount_point())?;
    let target = CgroupTarget { hierarchy: v1.hierarchy(), ..by_path(tree.path("")) };
    check(&tree, target, repetitions(100)).await
}
