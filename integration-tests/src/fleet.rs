//! What a server says of its fleet, awaited.

use std::time::Duration;

use anyhow::{Result, ensure};
use cgfleet_proto::v1::{
    CgroupTarget, HistoryGap, HistoryPoint, HostState, HostStatus, ListHostsRequest, QueryHistoryRequest,
    query_history_response::Event,
};

use crate::{daemon::Daemon, wait};

/// How long the fleet may take to settle.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every host.
pub async fn hosts(server: &Daemon) -> Result<Vec<HostStatus>> {
    Ok(server.fleet()?.list_hosts(ListHostsRequest::default()).await?.into_inner().hosts)
}

/// Waits until exactly these hosts are up and have stored ticks.
pub async fn all_up(server: &Daemon, names: &[&str]) -> Result<()> {
    wait::until(&format!("{names:?} up"), PATIENCE, || async {
        let hosts = hosts(server).await?;
        let is_up = |host: &HostStatus| host.state() == HostState::Up && host.last_tick_at.is_some();
        let names_up: Vec<&str> = hosts.iter().filter(|host| is_up(host)).filter_map(hostname).collect();
        Ok((names_up == names).then_some(()))
    })
    .await
}

/// A host's name.
pub fn hostname(host: &HostStatus) -> Option<&str> {
    host.host.as_ref().map(|host| host.hostname.as_str())
}

/// What was stored of a cgroup.
#[derive(Debug, Default)]
pub struct History {
    /// In time order.
    pub points: Vec<HistoryPoint>,
    /// In time order.
    pub gaps: Vec<HistoryGap>,
}

/// Reads the last hour of a cgroup.
pub async fn history(server: &Daemon, host: &str, target: CgroupTarget) -> Result<History> {
    let request = QueryHistoryRequest { host: host.to_owned(), target: Some(target), ..Default::default() };
    let mut stream = server.fleet()?.query_history(request).await?.into_inner();
    let mut history = History::default();
    while let Some(response) = stream.message().await? {
        match response.event {
            Some(Event::Points(points)) => history.points.extend(points.points),
            Some(Event::Gap(gap)) => history.gaps.push(gap),
            Some(Event::Series(_) | Event::Values(_) | Event::Summary(_)) | None => {}
        }
    }
    let ticks: Vec<_> =
        history.points.iter().map(|point| point.tick_at.map(|at| (at.seconds, at.nanos))).collect();
    ensure!(ticks.is_sorted_by(|earlier, later| earlier < later), "points out of order: {ticks:?}");
    Ok(history)
}

/// Waits until more than `than` points of a cgroup are stored, and reads them.
pub async fn more_history(server: &Daemon, host: &str, target: CgroupTarget, than: usize) -> Result<History> {
    wait::until(&format!("more than {than} points of {host}"), PATIENCE, || async {
        let history = history(server, host, target.clone()).await?;
        Ok((history.points.len() > than).then_some(history))
    })
    .await
}
