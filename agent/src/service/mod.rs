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
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_model::{Collector, MetricSet, UnknownCollector};
use cgfleet_proto::v1::{
    AgentServiceCreateViewRequest, AgentServiceCreateViewResponse, AgentServiceDeleteViewRequest,
    AgentServiceDeleteViewResponse, AgentServiceFlushRequest, AgentServiceFlushResponse,
    AgentServiceSetCollectorRequest, AgentServiceSetCollectorResponse, CgroupSample, CollectorState,
    GetCapabilitiesRequest, GetCapabilitiesResponse, ListCollectorsRequest, ListCollectorsResponse,
    ListViewsRequest, ListViewsResponse, SampleBatch, SubscribeRequest, SubscribeResponse, WalkHeader,
    WalkRequest, WalkResponse, agent_service_server::AgentService, walk_response::Event,
};
use cgfleet_rpc::wire_error::WireError;
use futures::{Stream, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{feeds::Feeds, identity::Identity, views::Views, walker::Walker, workloads::Workloads};

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
    pub(crate) subscribers: Arc<Semaphore>,
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
        let spec = spec::walk_spec(request.into_inner().spec)?;
        let started_at = SystemTime::now();
        let target = spec.target.to_text();
        let walked = self.walker.walk(spec).await.map_err(WireError::from)?;
        tracing::debug!(target, rows = walked.samples.len(), walk_ns = walked.summary.walk_ns, "walked");
        let header = WalkHeader {
            host_id: self.identity.host_id.to_string(),
            boot_id: self.identity.boot_id.to_string(),
            hostname: self.identity.hostname.clone(),
            started_at: Some(started_at.into()),
        };
        let batches = Batches(walked.samples.into_iter()).map(Event::Batch);
        let events =
            [Event::Header(header)].into_iter().chain(batches).chain([Event::Summary(walked.summary)]);
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

/// Cuts samples into messages, as they are taken.
struct Batches<I>(I);

impl<I: Iterator<Item = CgroupSample>> Iterator for Batches<I> {
    type Item = SampleBatch;

    fn next(&mut self) -> Option<SampleBatch> {
        let samples: Vec<CgroupSample> = self.0.by_ref().take(BATCH_ROWS).collect();
        (!samples.is_empty()).then_some(SampleBatch { samples })
    }
}
