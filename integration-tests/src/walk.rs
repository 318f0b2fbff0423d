//! Walks and queries, collected.

use anyhow::{Context as _, Result};
use cgfleet_proto::v1::{
    CgroupOrder, CgroupSample, CgroupTarget, HostResult, QueryRequest, QuerySummary, WalkHeader, WalkRequest,
    WalkSpec, WalkSummary, agent_service_client::AgentServiceClient, query_response, walk_response,
};
use cgfleet_rpc::channel::Channel;

use crate::daemon::Daemon;

/// A whole walk.
#[derive(Debug)]
pub struct Walked {
    /// Its header.
    pub header: WalkHeader,
    /// All of its rows.
    pub samples: Vec<CgroupSample>,
    /// Its summary.
    pub summary: WalkSummary,
}

/// A target by path on cgroup v2.
pub fn by_path(path: impl Into<String>) -> CgroupTarget {
    CgroupTarget { path: path.into(), ..CgroupTarget::default() }
}

/// A target by id.
pub fn by_id(cgroup_id: u64) -> CgroupTarget {
    CgroupTarget { cgroup_id, ..CgroupTarget::default() }
}

/// A walk of everything in this order.
pub fn spec(target: CgroupTarget, order: CgroupOrder) -> WalkSpec {
    WalkSpec { target: Some(target), order: order.into(), ..WalkSpec::default() }
}

/// Walks on an agent.
pub async fn walk(agent: &Daemon, spec: WalkSpec) -> Result<Walked> {
    walk_through(&mut agent.agent()?, spec).await
}

/// Walks on the agent of this client.
pub async fn walk_through(client: &mut AgentServiceClient<Channel>, spec: WalkSpec) -> Result<Walked> {
    let mut stream = client.walk(WalkRequest { spec: Some(spec) }).await?.into_inner();
    let (mut header, mut samples, mut summary) = (None, Vec::new(), None);
    while let Some(response) = stream.message().await? {
        match response.event.context("an empty part")? {
            walk_response::Event::Header(part) => header = Some(part),
            walk_response::Event::Batch(part) => samples.extend(part.samples),
            walk_response::Event::Summary(part) => summary = Some(part),
        }
    }
    Ok(Walked { header: header.context("no header")?, samples, summary: summary.context("no summary")? })
}

/// A whole query.
#[derive(Debug, Default)]
pub struct Queried {
    /// Rows with their host's id, as they came.
    pub samples: Vec<(String, CgroupSample)>,
    /// One result a host.
    pub results: Vec<HostResult>,
    /// The summary.
    pub summary: QuerySummary,
}

/// Queries a server.
pub async fn query(server: &Daemon, request: QueryRequest) -> Result<Queried> {
    let mut stream = server.fleet()?.query(request).await?.into_inner();
    let mut queried = Queried::default();
    while let Some(response) = stream.message().await? {
        match response.event.context("an empty part")? {
            query_response::Event::Samples(part) => {
                queried.samples.extend(part.samples.into_iter().map(|sample| (part.host_id.clone(), sample)));
            }
            query_response::Event::Result(part) => queried.results.push(part),
            query_response::Event::Summary(part) => queried.summary = part,
        }
    }
    Ok(queried)
}
