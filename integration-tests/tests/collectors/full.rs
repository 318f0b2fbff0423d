//! More cgroups than a collector has room for.

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::{Metric, MetricGroup};
use cgfleet_proto::v1::GetCapabilitiesRequest;
use integration_tests::{cgroups::TestTree, cli, daemon::Start};

use crate::agent::rows;

const ROOM: u64 = 100;
const CGROUPS: u64 = 500;

pub(crate) async fn a_full_map_makes_no_sum_wrong() -> Result<()> {
    let agent = Start::agent()?
        .flag("--bpf", "require")
        .flag("--collectors", "attach")
        .flag("--collector-cgroups-max", &ROOM.to_string())
        .start()
        .await?;
    let mut tree = TestTree::v2()?;
    for number in 0..CGROUPS {
        let parent = number / 50;
        let below = format!("p{parent}/c{number}");
        tree.make(&below)?;
    }
    // One task goes through all of them.
    tree.visit((0..CGROUPS).map(|number| format!("p{}/c{number}", number / 50)))?;

    let rows = rows(&agent, tree.path(""), MetricGroup::Attach).await?;
    let count = |path: &str| rows.get(path).and_then(|row| row.metric(Metric::AttachCount));
    let (mut counted, mut overflowed) = (0, 0);
    for number in 0..CGROUPS {
        let path = tree.path(&format!("p{}/c{number}", number / 50));
        let row = rows.get(&path).context("its row")?;
        match (count(&path), row.is_overflowed(MetricGroup::Attach)) {
            (Some(1), false) => counted += 1,
            (None, true) => overflowed += 1,
            other => anyhow::bail!("{path}: {other:?}"),
        }
    }
    ensure!(counted > 50 && counted <= ROOM, "{counted} had room");
    assert_eq!(counted + overflowed, CGROUPS);
    assert_eq!(count(&tree.path("")), Some(CGROUPS), "the sum has them all");

    let capabilities = agent.agent()?.get_capabilities(GetCapabilitiesRequest {}).await?.into_inner();
    let listed = capabilities.collectors.into_iter().find(|collector| collector.name == "attach");
    let listed = listed.context("it is listed")?;
    ensure!(listed.cgroups <= ROOM && listed.cgroups_peak <= ROOM && listed.cgroups > 50, "{listed:?}");
    assert_eq!(listed.cgroups_max, ROOM);
    ensure!(listed.dropped_events >= overflowed, "{listed:?}");
    ensure!(listed.bytes_per_cgroup > 0 && listed.bytes_per_cgroup_and_cpu > 0, "{listed:?}");
    let doctor = cli::run("cgctl", &["doctor", "--agent", &agent.address().to_string()]).await?;
    ensure!(doctor.stdout.contains(&listed.dropped_events.to_string()), "{}", doctor.stdout);
    Ok(())
}
