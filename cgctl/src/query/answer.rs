//! The answer to a query as one stream of events, whoever gives it: an agent's walk is a query
//! over one host.

use std::collections::HashMap;

use cgfleet_proto::v1::{
    HostResult, HostSamples, QueryRequest, QuerySummary, WalkHeader, WalkRequest, WalkResponse, WalkSpec,
    host_result::Outcome, query_response::Event, walk_response,
};
use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::Status;

use crate::{
    error::Error,
    remote::{Agent, Link, Server},
};

/// An answer on its way.
pub(super) struct Answer {
    /// The names of hosts by their ids, as far as they are known beforehand.
    pub(super) hostnames: HashMap<String, String>,
    pub(super) link: Link,
    events: BoxStream<'static, Result<Event, Status>>,
}

impl Answer {
    /// What the server answers.
    pub(super) async fn of_server(
        server: &Server,
        request: QueryRequest,
        hostnames: HashMap<String, String>,
    ) -> Result<Self, Error> {
        let stream = server.call(request, async |mut client, request| client.query(request).await).await?;
        let events = stream.filter_map(async |message| message.map(|message| message.event).transpose());
        Ok(Self { hostnames, link: server.link.clone(), events: events.boxed() })
    }

    /// What one agent answers.
    pub(super) async fn of_agent(agent: &Agent, spec: WalkSpec) -> Result<Self, Error> {
        let request = WalkRequest { spec: Some(spec) };
        let mut stream = agent.call(request, async |mut client, request| client.walk(request).await).await?;
        let first = agent.link.next(&mut stream).await?;
        let Some(WalkResponse { event: Some(walk_response::Event::Header(header)) }) = first else {
            return Err(agent.link.cut_short());
        };
        let hostnames = HashMap::from([(header.host_id.clone(), header.hostname.clone())]);
        let mut walk = Walk { header, rows: 0 };
        let events = stream.flat_map(move |message| {
            stream::iter(match message {
                Ok(message) => walk.events(message).into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            })
        });
        Ok(Self { hostnames, link: agent.link.clone(), events: events.boxed() })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Event>, Error> {
        self.link.next(&mut self.events).await
    }
}

/// An agent's walk on its way to become a query's events.
struct Walk {
    header: WalkHeader,
    rows: u64,
}

impl Walk {
    fn events(&mut self, message: WalkResponse) -> Vec<Event> {
        let host_id = self.header.host_id.clone();
        match message.event {
            Some(walk_response::Event::Batch(batch)) => {
                self.rows += batch.samples.len() as u64;
                vec![Event::Samples(HostSamples { host_id, samples: batch.samples })]
            }
            Some(walk_response::Event::Summary(summary)) => {
                let hostname = self.header.hostname.clone();
                let outcome = Some(Outcome::Summary(summary));
                let result = HostResult { host_id, hostname, rows: self.rows, outcome };
                // What the hosts sum up to is counted from their results.
                vec![Event::Result(result), Event::Summary(QuerySummary::default())]
            }
            Some(walk_response::Event::Header(_)) | None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{CgroupSample, SampleBatch, WalkSummary};

    use super::*;

    #[test]
    fn a_walk_is_a_query_over_one_host() {
        let header = WalkHeader { host_id: "id".into(), hostname: "web".into(), ..WalkHeader::default() };
        let mut walk = Walk { header, rows: 0 };
        let batch = |rows| SampleBatch { samples: vec![CgroupSample::default(); rows] };
        let messages = [
            walk_response::Event::Batch(batch(2)),
            walk_response::Event::Batch(batch(1)),
            walk_response::Event::Summary(WalkSummary::default()),
        ];
        let events: Vec<Event> =
            messages.into_iter().flat_map(|event| walk.events(WalkResponse { event: Some(event) })).collect();
        let samples =
            |rows| Event::Samples(HostSamples { host_id: "id".into(), samples: batch(rows).samples });
        let result = HostResult {
            host_id: "id".into(),
            hostname: "web".into(),
            rows: 3,
            outcome: Some(Outcome::Summary(WalkSummary::default())),
        };
        let expect = [samples(2), samples(1), Event::Result(result), Event::Summary(QuerySummary::default())];
        assert_eq!(events, expect);
    }
}
