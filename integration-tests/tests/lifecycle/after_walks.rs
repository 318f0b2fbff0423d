//! What one walk met and a later one does not is told by then.

use std::{collections::HashSet, os::fd::AsFd as _, thread};

use anyhow::{Result, anyhow, ensure};
use cgfleet_agent::{
    kernel::{Lifecycle, Start},
    walker::{Order, Removals, Target, WalkEngine, WalkSpec},
};
use integration_tests::{cgroups::TestTree, effort::repetitions};
use tokio::join;

use crate::{
    ALONE, SLOTS, load_lifecycle, root, walker,
    watched::{KEPT_MAX, come_and_go},
};

/// So long is the way up that a program of the tracepoint goes.
const LEVELS: usize = 300;

/// Others that watch, as other agents would. They are told first, so a cgroup that is offline already, and not
/// told of to the walker, is so for about a millisecond, and not for a few microseconds.
fn others() -> Result<Vec<Lifecycle>> {
    let (_, root_id) = root()?;
    let other = |_| -> Result<Lifecycle> {
        let mut lifecycle = load_lifecycle(16)?;
        lifecycle.attach(root_id, 0)?;
        Ok(lifecycle)
    };
    (0..8).map(other).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_walk_does_not_meet_any_more_is_told_right_behind_it() -> Result<()> {
    let _alone = ALONE.lock().await;
    let tree = TestTree::v2()?;
    let deep = vec!["d"; LEVELS].join("/");
    tree.make(&deep)?;
    let others = others()?;
    let walker = walker(SLOTS, KEPT_MAX)?;
    assert!(walker.watch_removals(true).await?);
    let (directory, above) = (tree.directory(&deep), tree.path(&deep) + "/");
    let target = Target::Path { hierarchy: String::new(), path: tree.path(&deep).into_bytes() };
    let engine = Some(WalkEngine::Unlocked);
    let spec = WalkSpec { order: Order::Children, engine, ..WalkSpec::alone(target) };
    let storm = thread::spawn(move || come_and_go(&directory, repetitions(2000), 4));

    let (mut met_before, mut told) = (HashSet::new(), HashSet::new());
    let (mut walks, mut missing, mut late) = (0, 0, 0);
    loop {
        let is_over = storm.is_finished();
        // In this order, and with nothing in between: the first poll of each queues it.
        let (walked, removals) = join!(biased; walker.walk(spec.clone()), walker.removals());
        let met: HashSet<u64> = walked?.samples.iter().map(|sample| sample.cgroup_id).collect();
        ensure!(met.is_disjoint(&told), "what was told as removed is met again");
        let Removals { removed, lost } = removals?;
        assert_eq!(lost, 0);
        for removed in removed.iter().filter(|removed| removed.sample.path.starts_with(&above)) {
            ensure!(told.insert(removed.sample.cgroup_id), "{} is told again", removed.sample.path);
        }
        let gone: Vec<&u64> = met_before.difference(&met).collect();
        missing += gone.len();
        late += gone.iter().filter(|id| !told.contains(**id)).count();
        met_before = met;
        walks += 1;
        if is_over {
            break;
        }
    }
    let made = storm.join().map_err(|_| anyhow!("the storm panicked"))??;
    println!("{walks} walks, {missing} missing, {late} of them told too late, {} removed", made.len());
    ensure!(missing > 0, "no walk met what a later one did not");
    assert_eq!(late, 0, "of {missing} that a walk did not meet any more");
    assert!(told == made, "{} of {} are told", told.len(), made.len());
    let (root, _) = root()?;
    others.into_iter().try_for_each(|mut other| Ok(other.detach(Start::Directory(root.as_fd()))?))
}
