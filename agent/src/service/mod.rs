//! AgentService: requests in, answers out.
//!
//! Owns the translation between messages and the walker; must not touch the kernel or files.

mod capabilities;
mod flush;
mod spec;
mod subscribe;
mod views;

pub(crate) use capabilities::capabilities;
pub(crate) use spec::wire_order;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
    vec,
};

use cgfleet_model::{Collector, MetricSet, UnknownCollector};
use cgfleet_proto::v1::{
    AgentServiceCreateViewRequest, AgentServiceCreateViewResponse, AgentServiceDeleteViewRequest,
    AgentServiceDeleteViewResponse, AgentServiceFlushRequest, AgentServiceFlushResponse,
    AgentServiceSetCollectorRequest, AgentServiceSetCollectorResponse, CgroupSample, CollectorState,
    GetCapabilitiesRequest, GetCapabilitiesResponse, ListCollectorsRequest, ListCollectorsResponse,
    ListViewsRequest, ListViewsResponse, SampleBatch, SubscribeRequest, SubscribeResponse, WalkHeader,
    WalkRequest, WalkResponse, WalkSummary, agent_service_server::AgentService, walk_response::Event,
};
use cgfleet_rpc::wire_error::WireError;
use futures::{Stream, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    feeds::Feeds,
    identity::Identity,
    views::Views,
    walker::{Answered, Walked, Walker},
    workloads::Workloads,
};

/// Rows in one message: far below the 4 MiB that gRPC accepts by default, also for long paths.
const BATCH_ROWS: usize = 500;

/// The service.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) identity: Identity,
    pub(crate) capabilities: GetCapabilitiesResponse,
    pub(crate) walker: Walker,
    pub(crate) views: Views,
    pub(crate) feeds: Feeds,
    pub(crate) workloads: Workloads,
    /// Of subscriptions to whole ticks, and of others that ask for none.
    pub(crate) sample_interval: Duration,
    /// What whole ticks read.
    pub(crate) sample_metrics: MetricSet,
    pub(crate) subscribe_interval_min: Duration,
    /// Places of those who are told what changes, and of those who get whole ticks: servers, which may not be
    /// kept out by the others.
    pub(crate) subscribers: Arc<Semaphore>,
    pub(crate) tick_subscribers: Arc<Semaphore>,
    pub(crate) subscribers_max: u32,
    pub(crate) shutdown: CancellationToken,
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Agent {
    type WalkStream = Answers<WalkResponse>;
    type SubscribeStream = Answers<SubscribeResponse>;

    async fn walk(&self, request: Request<WalkRequest>) -> Result<Response<Self::WalkStream>, Status> {
        let (spec, freshness) = spec::walk_request(request.into_inner().spec)?;
        let started_at = SystemTime::now();
        let target = spec.target.to_text();
        let answered = self.walker.answer(spec, freshness).await;
        let Answered { walked, shared, took } = answered.map_err(|error| WireError::from(&*error))?;
        let (rows, walk_ns) = (walked.samples.len(), walked.summary.walk_ns);
        tracing::debug!(target, rows, walk_ns, shared, "walked");
        let header = WalkHeader {
            host_id: self.identity.host_id.to_string(),
            boot_id: self.identity.boot_id.to_string(),
            hostname: self.identity.hostname.clone(),
            started_at: Some(started_at.into()),
        };
        let request_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let summary = WalkSummary { shared, request_ns, ..walked.summary.clone() };
        let batches = Batches::of(walked).map(Event::Batch);
        let events = [Event::Header(header)].into_iter().chain(batches).chain([Event::Summary(summary)]);
        Ok(Response::new(Box::pin(stream::iter(events.map(|event| Ok(WalkResponse { event: Some(event) }))))))
    }

    async fn flush(
        &self,
        request: Request<AgentServiceFlushRequest>,
    ) -> Result<Response<AgentServiceFlushResponse>, Status> {
        let (spec, max_staleness) = flush::spec_of(request.into_inner())?;
        let answer = self.walker.flush(spec, max_staleness).await.map_err(WireError::from)?;
        let host_id = self.identity.host_id.to_string();
        Ok(Response::new(AgentServiceFlushResponse { host_id, ..flush::response(&answer) }))
    }

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(Response::new(subscribe::subscribe(self, request.into_inner()).await?))
    }

    async fn get_capabilities(
        &self,
        _request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        let description = self.walker.describe().await.map_err(WireError::from)?;
        Ok(Response::new(capabilities::described(self.capabilities.clone(), description)))
    }

    async fn list_collectors(
        &self,
        _request: Request<ListCollectorsRequest>,
    ) -> Result<Response<ListCollectorsResponse>, Status> {
        let collectors = self.walker.collectors().await.map_err(WireError::from)?;
        Ok(Response::new(ListCollectorsResponse { collectors, host_id: self.identity.host_id.to_string() }))
    }

    async fn set_collector(
        &self,
        request: Request<AgentServiceSetCollectorRequest>,
    ) -> Result<Response<AgentServiceSetCollectorResponse>, Status> {
        let request = request.into_inner();
        let collector = Collector::from_name(&request.name)
            .map_err(|_| WireError::invalid_field("name", &request.name, UnknownCollector::allowed()))?;
        let on = match request.state() {
            CollectorState::On => true,
            CollectorState::Off => false,
            CollectorState::Unspecified | CollectorState::Unavailable => {
                return Err(WireError::invalid_field("state", request.state, STATES).into());
            }
        };
        let collector = self.walker.switch_collector(collector, on).await.map_err(WireError::from)?;
        let host_id = self.identity.host_id.to_string();
        Ok(Response::new(AgentServiceSetCollectorResponse { collector: Some(collector), host_id }))
    }

    async fn create_view(
        &self,
        request: Request<AgentServiceCreateViewRequest>,
    ) -> Result<Response<AgentServiceCreateViewResponse>, Status> {
        let spec = views::view_spec(request.into_inner().view)?;
        let view = Some(self.views.create(spec).await.map_err(WireError::from)?);
        let host_id = self.identity.host_id.to_string();
        Ok(Response::new(AgentServiceCreateViewResponse { view, host_id }))
    }

    async fn list_views(
        &self,
        _request: Request<ListViewsRequest>,
    ) -> Result<Response<ListViewsResponse>, Status> {
        let views = self.views.list().await.map_err(WireError::from)?;
        Ok(Response::new(ListViewsResponse { views, host_id: self.identity.host_id.to_string() }))
    }

    async fn delete_view(
        &self,
        request: Request<AgentServiceDeleteViewRequest>,
    ) -> Result<Response<AgentServiceDeleteViewResponse>, Status> {
        let name = views::view_name("name", &request.get_ref().name)?;
        self.views.delete(name).await.map_err(WireError::from)?;
        Ok(Response::new(AgentServiceDeleteViewResponse { host_id: self.identity.host_id.to_string() }))
    }
}

/// What a collector can be switched to.
const STATES: &str = "COLLECTOR_STATE_ON (1), COLLECTOR_STATE_OFF (2)";

/// An answer's rows cut into messages, each as it is taken.
enum Batches {
    /// Nobody else has the answer.
    Own(vec::IntoIter<CgroupSample>),
    /// Others may have it: its rows are copied, from this one on.
    Shared(Arc<Walked>, usize),
}

impl Batches {
    fn of(walked: Arc<Walked>) -> Self {
        match Arc::try_unwrap(walked) {
            Ok(walked) => Self::Own(walked.samples.into_iter()),
            Err(walked) => Self::Shared(walked, 0),
        }
    }
}

impl Iterator for Batches {
    type Item = SampleBatch;

    fn next(&mut self) -> Option<SampleBatch> {
        let samples: Vec<CgroupSample> = match self {
            Self::Own(samples) => samples.by_ref().take(BATCH_ROWS).collect(),
            Self::Shared(walked, from) => {
                let to = walked.samples.len().min(*from + BATCH_ROWS);
                walked.samples[mem::replace(from, to)..to].to_vec()
            }
        };
        (!samples.is_empty()).then_some(SampleBatch { samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_sent_once_whoever_has_the_answer() {
        for count in [0, 1, BATCH_ROWS, BATCH_ROWS + 1, 3 * BATCH_ROWS] {
            let sample = |cgroup_id| CgroupSample { cgroup_id, ..CgroupSample::default() };
            let samples: Vec<_> = (0..count as u64).map(sample).collect();
            for is_shared in [true, false] {
                let summary = WalkSummary::default();
                let walked = Arc::new(Walked { samples: samples.clone(), summary });
                let other = is_shared.then(|| Arc::clone(&walked));
                let batches: Vec<SampleBatch> = Batches::of(walked).collect();
                assert!(batches.iter().all(|batch| (1..=BATCH_ROWS).contains(&batch.samples.len())));
                let sent: Vec<_> = batches.into_iter().flat_map(|batch| batch.samples).collect();
                assert_eq!(sent, samples);
                drop(other);
            }
        }
    }
}
