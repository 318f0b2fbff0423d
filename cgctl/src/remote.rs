//! Calls to the server or to one agent: the overall deadline, and whose fault a failure is.

use std::{collections::HashMap, time::Duration};

use cgfleet_proto::v1::{
    Backlog, HostStatus, ListHostsRequest, agent_service_client::AgentServiceClient,
    fleet_service_client::FleetServiceClient,
};
use cgfleet_rpc::channel::{Channel, connect_lazy};
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use crate::error::{Error, Peer};

/// How much earlier than this command the other side is to end, at most: an answer that names the
/// hosts that were late needs time to arrive.
const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(500);

/// A client of the server.
pub(crate) type Server = Remote<FleetServiceClient<Channel>>;
/// A client of one host's agent.
pub(crate) type Agent = Remote<AgentServiceClient<Channel>>;

/// When the command has to be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self { at: Instant::now() + timeout, timeout }
    }

    /// A request that tells the other side its deadline.
    fn request<M>(self, message: M) -> Request<M> {
        let left = self.at.saturating_duration_since(Instant::now());
        let mut request = Request::new(message);
        request.set_timeout(left.saturating_sub((left / 10).min(DEADLINE_MARGIN_MAX)));
        request
    }
}

/// Who answers, and until when.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    peer: Peer,
    deadline: Deadline,
}

impl Link {
    /// The next message of an answer, `None` at its end.
    pub(crate) async fn next<T>(
        &self,
        messages: &mut (impl Stream<Item = Result<T, Status>> + Unpin),
    ) -> Result<Option<T>, Error> {
        match timeout_at(self.deadline.at, messages.next()).await {
            Ok(message) => message.transpose().map_err(|status| self.error(&status)),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// The next message of an answer that has no end, and so no deadline.
    pub(crate) async fn next_of_endless<T>(
        &self,
        messages: &mut (impl Stream<Item = Result<T, Status>> + Unpin),
    ) -> Result<Option<T>, Error> {
        messages.next().await.transpose().map_err(|status| self.error(&status))
    }

    /// The error of an answer that ended too early.
    pub(crate) fn cut_short(&self) -> Error {
        Error::CutShort { peer: self.peer.clone() }
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { peer: self.peer.clone(), timeout: self.deadline.timeout }
    }

    fn error(&self, status: &Status) -> Error {
        self.peer.error(status, self.deadline.timeout)
    }
}

/// A client, and the link it speaks over.
pub(crate) struct Remote<C> {
    client: C,
    pub(crate) link: Link,
}

impl<C: Clone> Remote<C> {
    /// Makes a call.
    pub(crate) async fn call<M, T>(
        &self,
        message: M,
        rpc: impl AsyncFnOnce(C, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let request = self.link.deadline.request(message);
        match timeout_at(self.link.deadline.at, rpc(self.client.clone(), request)).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(|status| self.link.error(&status)),
            Err(_) => Err(self.link.timed_out()),
        }
    }
}

impl Server {
    /// A client of the server at `url`; connects with the first call.
    pub(crate) fn new(url: &str, deadline: Deadline) -> Result<Self, Error> {
        let channel = connect_lazy(url).map_err(|source| Error::Address { flag: "--server", source })?;
        let link = Link { peer: Peer::Server(url.to_owned()), deadline };
        Ok(Self { client: FleetServiceClient::new(channel), link })
    }

    /// Every host.
    pub(crate) async fn hosts(&self) -> Result<Vec<HostStatus>, Error> {
        Ok(self.hosts_and_backlog().await?.0)
    }

    /// Every host, page by page, and what waits on its way into the server's Postgres.
    pub(crate) async fn hosts_and_backlog(&self) -> Result<(Vec<HostStatus>, Option<Backlog>), Error> {
        let mut hosts = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListHostsRequest { page_token, ..ListHostsRequest::default() };
            let page =
                self.call(request, async |mut client, request| client.list_hosts(request).await).await?;
            hosts.extend(page.hosts);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok((hosts, page.backlog));
            }
        }
    }

    /// The name of every host, by its id.
    pub(crate) async fn hostnames(&self) -> Result<HashMap<String, String>, Error> {
        let hosts = self.hosts().await?.into_iter().filter_map(|status| status.host);
        Ok(hosts.map(|host| (host.host_id, host.hostname)).collect())
    }
}

impl Agent {
    /// A client of the agent at `address`; connects with the first call.
    pub(crate) fn new(address: &str, deadline: Deadline) -> Result<Self, Error> {
        let channel = connect_lazy(address).map_err(|source| Error::Address { flag: "--agent", source })?;
        let link = Link { peer: Peer::Agent(address.to_owned()), deadline };
        Ok(Self { client: AgentServiceClient::new(channel), link })
    }
}
