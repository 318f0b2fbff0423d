//! What was counted outlives the agent that had it counted.

use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::{Metric, MetricGroup};
use cgfleet_proto::v1::{AgentServiceCreateViewRequest, CgroupOrder, ViewSpec};
use integration_tests::{
    cgroups::TestTree,
    daemon::{Daemon, Start},
    effort::repetitions,
    wait,
    walk::{by_path, spec, walk_through},
};

use tokio::{sync::oneshot, task::JoinHandle};

use crate::agent::{find, rows, start};

const KILLS: u32 = 20;

async fn count(agent: &Daemon, tree: &TestTree, below: &str) -> Result<u64> {
    let rows = rows(agent, tree.path(""), MetricGroup::Attach).await?;
    let row = rows.get(&tree.path(below)).context("its row")?;
    row.metric(Metric::AttachCount).with_context(|| format!("{row:?}"))
}

fn pins(agent: &Daemon) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![agent.bpffs_dir()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) async fn totals_outlive_an_agent_that_is_killed() -> Result<()> {
    let mut agent = start("attach,reclaim").await?;
    let pinned = pins(&agent)?;
    ensure!(pinned.len() == 4 * 3, "the maps of four collectors: {pinned:?}");
    let mut tree = TestTree::v2()?;
    tree.make("P/C")?;
    let mut expect = 0;
    for _ in 0..repetitions(KILLS).max(4) {
        let view = ViewSpec { name: "killed".to_owned(), target: Some(by_path(tree.path("P"))), ..view() };
        let made = agent.agent()?.create_view(AgentServiceCreateViewRequest { view: Some(view) }).await?;
        let made = made.into_inner().view.context("a view was made")?;
        ensure!(read(&made.path)?.contains("# end of 2 cgroups"), "{made:?}");
        let walking = walk_until_it_ends(&agent, tree.path("")).await?;
        // Nobody reads this before the kill.
        tree.rest_in("P/C")?;
        expect += 1;
        agent.kill_9()?;
        walking.await?;
        // Flushed while nothing folds, as somebody reads it.
        fs::read_to_string(tree.directory("").join("cpu.stat"))?;
        agent.start_again().await?;
        assert_eq!(count(&agent, &tree, "P/C").await?, expect);
        assert_eq!(count(&agent, &tree, "").await?, expect);
        assert_eq!(pins(&agent)?, pinned, "no view and no other map is left");
    }
    tree.end_workers();
    let is_removed = async || Ok(fs::remove_dir(tree.directory("P/C")).is_ok().then_some(()));
    wait::until("the cgroup to be empty", Duration::from_secs(10), is_removed).await?;
    fs::remove_dir(tree.directory("P"))?;
    // Nothing of ours keeps them.
    let stat = tree.directory("").join("cgroup.stat");
    let is_freed = async || Ok(fs::read_to_string(&stat)?.contains("nr_dying_descendants 0").then_some(()));
    wait::until("the cgroups to be freed", Duration::from_secs(30), is_freed).await?;
    assert_eq!(count(&agent, &tree, "").await?, expect);
    Ok(())
}

/// A view takes no read that is smaller than the kernel's buffer.
fn read(path: &str) -> Result<String> {
    let mut text = vec![0; 64 << 10];
    let length = File::open(path)?.read(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn view() -> ViewSpec {
    ViewSpec { order: CgroupOrder::DescendantsPre.into(), ..ViewSpec::default() }
}

/// Walks again and again, until the agent ends. Comes back when the first walk was answered.
async fn walk_until_it_ends(agent: &Daemon, path: String) -> Result<JoinHandle<()>> {
    let mut client = agent.agent()?;
    let (first, is_walking) = oneshot::channel();
    let walking = tokio::spawn(async move {
        let spec = spec(by_path(path), CgroupOrder::DescendantsPost);
        let mut first = Some(first);
        while walk_through(&mut client, spec.clone()).await.is_ok() {
            if let Some(first) = first.take() {
                let _ = first.send(());
            }
        }
    });
    is_walking.await.context("no walk was answered")?;
    Ok(walking)
}

pub(crate) async fn what_was_removed_meanwhile_stays() -> Result<()> {
    let mut agent = start("attach").await?;
    let mut tree = TestTree::v2()?;
    for leaf in ["P/C1", "P/C2/D"] {
        tree.make(leaf)?;
        tree.rest_in(leaf)?;
    }
    assert_eq!(count(&agent, &tree, "P").await?, 2);
    let used = async |agent: &Daemon| Ok::<_, anyhow::Error>(find(agent, "attach").await?.cgroups);
    let before = used(&agent).await?;
    agent.kill_9()?;
    let (gone, parent) = (tree.directory("P/C2/D"), tree.directory("P/C2"));
    fs::write(gone.join("cgroup.kill"), "1")?;
    let is_removed = async || Ok(fs::remove_dir(&gone).is_ok().then_some(()));
    wait::until("the cgroup to be empty", Duration::from_secs(10), is_removed).await?;
    fs::remove_dir(&parent)?;
    agent.start_again().await?;
    assert_eq!(count(&agent, &tree, "P").await?, 2, "what they counted is their parent's");
    assert_eq!(count(&agent, &tree, "P/C1").await?, 1);
    ensure!(used(&agent).await? == before - 2, "and their places are free: {before} before");
    Ok(())
}

pub(crate) async fn two_agents_do_not_share_a_directory() -> Result<()> {
    let first = start("attach").await?;
    let directory = first.bpffs_dir().display().to_string();
    let second = Start::agent()?.flag("--bpffs-dir", &directory).start().await;
    let refused = format!("{:#}", second.err().context("it was refused")?);
    ensure!(refused.contains("bpffs_dir") && refused.contains("another agent"), "{refused}");
    Ok(())
}
