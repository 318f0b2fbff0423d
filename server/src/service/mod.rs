//! FleetService: requests in, answers out.
//!
//! Owns the translation between messages and the server's parts; must not touch SQL or dial hosts.

mod collectors;
mod flush;
mod history;
mod hosts;
mod latest;
mod metrics;
mod query;
mod subscribe;
mod views;

use std::{pin::Pin, sync::Arc, time::Duration};

use cgfleet_proto::v1::{
    FleetServiceCreateViewRequest, FleetServiceCreateViewResponse, FleetServiceDeleteViewRequest,
    FleetServiceDeleteViewResponse, FleetServiceFlushRequest, FleetServiceFlushResponse,
    FleetServiceListCollectorsRequest, FleetServiceListCollectorsResponse, FleetServiceListViewsRequest,
    FleetServiceListViewsResponse, FleetServiceSetCollectorRequest, FleetServiceSetCollectorResponse,
    FleetServiceSubscribeRequest, FleetServiceSubscribeResponse, GetLatestRequest, GetLatestResponse,
    ListHostsRequest, ListHostsResponse, ListMetricsRequest, ListMetricsResponse, QueryHistoryRequest,
    QueryHistoryResponse, QueryRequest, QueryResponse, RegisterHostRequest, RegisterHostResponse,
    fleet_service_server::FleetService,
};
use futures::Stream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub(crate) use self::history::HistoryLimits;
use crate::{compaction::CompactionProgress, hosts::Hosts, ingest::IngestHandle, store::Store};

/// The service.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) store: Store,
    pub(crate) ingest: IngestHandle,
    pub(crate) compaction: Arc<CompactionProgress>,
    pub(crate) host_timeout: Duration,
    pub(crate) fanout_hosts_max: usize,
    /// A permit for each subscription.
    pub(crate) subscriptions: Arc<Semaphore>,
    pub(crate) subscriptions_max: u32,
    /// A permit for each question on the past.
    pub(crate) history_turns: Arc<Semaphore>,
    pub(crate) history_queries_max: u32,
    pub(crate) history_limits: HistoryLimits,
    pub(crate) shutdown: CancellationToken,
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl FleetService for Fleet {
    type QueryStream = Answers<QueryResponse>;
    type FlushStream = Answers<FleetServiceFlushResponse>;
    type QueryHistoryStream = Answers<QueryHistoryResponse>;
    type GetLatestStream = Answers<GetLatestResponse>;
    type ListCollectorsStream = Answers<FleetServiceListCollectorsResponse>;
    type SetCollectorStream = Answers<FleetServiceSetCollectorResponse>;
    type CreateViewStream = Answers<FleetServiceCreateViewResponse>;
    type ListViewsStream = Answers<FleetServiceListViewsResponse>;
    type DeleteViewStream = Answers<FleetServiceDeleteViewResponse>;
    type SubscribeStream = Answers<FleetServiceSubscribeResponse>;

    async fn register_host(
        &self,
        request: Request<RegisterHostRequest>,
    ) -> Result<Response<RegisterHostResponse>, Status> {
        Ok(Response::new(hosts::register(self, request.into_inner()).await?))
    }

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        Ok(Response::new(hosts::list(self, &request.into_inner())?))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        Ok(Response::new(query::query(self, request)?))
    }

    async fn flush(
        &self,
        request: Request<FleetServiceFlushRequest>,
    ) -> Result<Response<Self::FlushStream>, Status> {
        Ok(Response::new(flush::flush(self, request)?))
    }

    async fn query_history(
        &self,
        request: Request<QueryHistoryRequest>,
    ) -> Result<Response<Self::QueryHistoryStream>, Status> {
        Ok(Response::new(history::query_history(self, request.into_inner()).await?))
    }

    async fn get_latest(
        &self,
        request: Request<GetLatestRequest>,
    ) -> Result<Response<Self::GetLatestStream>, Status> {
        Ok(Response::new(latest::get_latest(self, request.into_inner())?))
    }

    async fn list_metrics(
        &self,
        _request: Request<ListMetricsRequest>,
    ) -> Result<Response<ListMetricsResponse>, Status> {
        Ok(Response::new(metrics::list()))
    }

    async fn list_collectors(
        &self,
        request: Request<FleetServiceListCollectorsRequest>,
    ) -> Result<Response<Self::ListCollectorsStream>, Status> {
        Ok(Response::new(collectors::list(self, request)?))
    }

    async fn set_collector(
        &self,
        request: Request<FleetServiceSetCollectorRequest>,
    ) -> Result<Response<Self::SetCollectorStream>, Status> {
        Ok(Response::new(collectors::set(self, request)?))
    }

    async fn create_view(
        &self,
        request: Request<FleetServiceCreateViewRequest>,
    ) -> Result<Response<Self::CreateViewStream>, Status> {
        Ok(Response::new(views::create(self, request)?))
    }

    async fn list_views(
        &self,
        request: Request<FleetServiceListViewsRequest>,
    ) -> Result<Response<Self::ListViewsStream>, Status> {
        Ok(Response::new(views::list(self, request)?))
    }

    async fn delete_view(
        &self,
        request: Request<FleetServiceDeleteViewRequest>,
    ) -> Result<Response<Self::DeleteViewStream>, Status> {
        Ok(Response::new(views::delete(self, request)?))
    }
    async fn subscribe(
        &self,
        request: Request<FleetServiceSubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(Response::new(subscribe::subscribe(self, request.into_inner())?))
    }
}
