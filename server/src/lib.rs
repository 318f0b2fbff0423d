//! The central server: keeps every host's ticks in Postgres and fans queries out to the agents.
//!
//! main → [`run`] → service → hosts, fanout, watch, ingest → store, never back.

pub mod compaction;
pub mod config;
mod error;
mod fanout;
pub mod history;
pub mod hosts;
pub mod ingest;
pub mod private_postgres;
mod service;
pub mod store;
mod watch;

use std::{net::TcpListener, sync::Arc};

use cgfleet_proto::v1::fleet_service_server::FleetServiceServer;
use cgfleet_rpc::serve::{self, ServeError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    compaction::{CompactionProgress, Compactor},
    config::ServerConfig,
    hosts::Hosts,
    ingest::{IngestWriter, keep_ingesting},
    private_postgres::{PrivatePostgres, PrivatePostgresError},
    service::{Fleet, HistoryLimits},
    store::{Database, Store, StoreError, StoreLimits},
};

/// Runs a server on `listener` until `shutdown`: on the database that it was given, or on a Postgres of its own, for
/// which its state directory exists.
pub async fn run(
    config: ServerConfig,
    database: Option<Database>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    if let Some(database) = database {
        return serve_from(database, &config, listener, shutdown).await;
    }
    let options = config.private_postgres();
    let mut postgres = tokio::select! {
        started = PrivatePostgres::start(&options) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let served = tokio::select! {
        served = serve_from(postgres.database(), &config, listener, shutdown) => served,
        died = postgres.exited() => Err(died.into()),
    };
    // Also after a failure: a Postgres that is left behind would keep the state directory.
    postgres.stop().await;
    served
}

async fn serve_from(
    database: Database,
    config: &ServerConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let limits = StoreLimits { connections_max: config.postgres_connections_max, ..StoreLimits::default() };
    let store = Store::connect(&database, limits).await?;
    let hosts = Hosts::load(store.clone(), config.hosts_max, config.heartbeat_interval.get()).await?;
    let (ingest, writer) = IngestWriter::new(store.clone(), shutdown.clone());
    let writer = tokio::spawn(writer.run());
    let compaction = Arc::new(CompactionProgress::default());
    let tasks_max = config.compaction_tasks_max as usize;
    let compactor = Compactor::new(store.clone(), tasks_max, compaction, shutdown.clone());
    let compactor = tokio::spawn(compactor.run());
    for host in hosts.all().into_iter().filter(|host| host.claim_stream()) {
        tokio::spawn(keep_ingesting(host, ingest.clone(), shutdown.clone()));
    }
    tracing::info!(%database, hosts = hosts.all().len(), "serving");
    let fleet = Fleet {
        hosts: Arc::new(hosts),
        store: store.clone(),
        ingest,
        host_timeout: config.host_timeout.get(),
        fanout_hosts_max: config.fanout_hosts_max as usize,
        subscriptions: Arc::new(Semaphore::new(config.subscriptions_max as usize)),
        subscriptions_max: config.subscriptions_max,
        history_turns: Arc::new(Semaphore::new(config.history_queries_max as usize)),
        history_queries_max: config.history_queries_max,
        history_limits: HistoryLimits {
            series_max: config.history_series_max as usize,
            values_max: config.history_values_max as usize,
        },
        shutdown: shutdown.clone(),
    };
    let routes = Routes::new(FleetServiceServer::new(fleet));
    let served = serve::serve(listener, routes, &["cgfleet.v1.FleetService"], shutdown).await;
    // A batch under way is finished before the connections go.
    let _ = writer.await;
    let _ = compactor.await;
    store.close().await;
    Ok(served?)
}

/// A server that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its own Postgres does not run.
    #[error(transparent)]
    Postgres(#[from] PrivatePostgresError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// gRPC cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}
