//! Simulated hosts are hosts like others to a server: they register, their ticks are stored, and what befalls them
//! shows as it does elsewhere.

use std::time::Duration;

use anyhow::{Result, ensure};
use cgfleet_model::{Metric, MetricSet};
use cgfleet_proto::v1::{GapReason, HistoryGap};
use integration_tests::{
    daemon::{Daemon, Start},
    fleet::{all_up, history, more_history},
    sim::{ANY_PORT, Activity, HostSpec, METRICS, SimulatedHost, TreeSpec},
    wait,
    walk::by_path,
};

const LIVELY: Activity =
    Activity { changing: 0.2, pods_replaced_per_second: 2.0, services_restarted_per_second: 1.0 };
const PATIENCE: Duration = Duration::from_secs(30);

fn host(server: &Daemon, hostname: &str, seed: u64) -> Result<SimulatedHost> {
    SimulatedHost::start(HostSpec {
        hostname: hostname.to_owned(),
        server_url: Some(server.url()),
        listen_address: ANY_PORT,
        sample_interval: Duration::from_millis(100),
        history_bytes_max: 8 << 20,
        tree: TreeSpec { seed, cgroups: 60, activity: LIVELY },
    })
}

/// Waits for a gap behind the ones that were seen.
async fn next_gap(server: &Daemon, hostname: &str, seen: usize) -> Result<GapReason> {
    let what = format!("gap {} of {hostname}", seen + 1);
    wait::until(&what, PATIENCE, || async {
        let history = history(server, hostname, by_path("/".to_owned())).await?;
        Ok(history.gaps.get(seen).map(HistoryGap::reason))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_of_simulated_hosts_are_stored_as_they_were_made() -> Result<()> {
    let server = Start::server()?.start().await?;
    let hosts = [host(&server, "sim-a", 1)?, host(&server, "sim-b", 2)?];
    all_up(&server, &["sim-a", "sim-b"]).await?;
    let expect: MetricSet = METRICS.into_iter().collect();
    for simulated in &hosts {
        let history =
            more_history(&server, simulated.hostname(), by_path("/system.slice".to_owned()), 5).await?;
        let mut last = None;
        for point in &history.points {
            let sample = point.sample.clone().unwrap_or_default();
            let present: MetricSet =
                MetricSet::all().iter().filter(|metric| sample.metric(*metric).is_some()).collect();
            ensure!(present == expect, "{sample:?}");
            let usage = sample.metric(Metric::CpuUsage);
            ensure!(last <= usage, "a counter fell from {last:?} to {usage:?}");
            last = usage;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_befalls_a_simulated_host_shows_as_gaps() -> Result<()> {
    let server = Start::server()?.start().await?;
    let mut simulated = host(&server, "sim", 3)?;
    all_up(&server, &["sim"]).await?;
    simulated.faults().fail_walks(3);
    ensure!(next_gap(&server, "sim", 0).await? == GapReason::NotTaken);
    simulated.reboot().await?;
    ensure!(next_gap(&server, "sim", 1).await? == GapReason::AgentRestarted);
    simulated.faults().delay_walks(Duration::from_millis(250));
    ensure!(next_gap(&server, "sim", 2).await? == GapReason::NotTaken);
    simulated.stop().await
}
