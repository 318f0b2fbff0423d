//! The central server: keeps every host's ticks in Postgres and fans queries out to the agents.
//!
//! main → [`run`] → service → hosts, fanout, watch, ingest → spool, compaction → store, never back.

pub mod compaction;
pub mod config;
mod error;
mod fanout;
pub mod history;
pub mod hosts;
pub mod ingest;
pub mod latest;
pub mod private_postgres;
mod service;
pub mod spool;
pub mod store;
mod watch;

use std::{net::TcpListener, sync::Arc};

use cgfleet_proto::v1::fleet_service_server::FleetServiceServer;
use cgfleet_rpc::serve::{self, ServeError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    compaction::{CompactionProgress, Compactor, Retention},
    config::ServerConfig,
    hosts::Hosts,
    ingest::{IngestWriter, Spooling, keep_ingesting},
    private_postgres::{PrivatePostgres, PrivatePostgresError},
    service::{Fleet, HistoryLimits},
    spool::{Spool, SpoolError, SpoolLimits, StateSpace},
    store::{Database, Store, StoreError, StoreLimits},
};

/// Runs a server on `listener` until `shutdown`: on the database that it was given, or on a Postgres of its own. For
/// that, and for a spool, its state directory exists.
pub async fn run(
    config: ServerConfig,
    database: Option<Database>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let spool = open_spool(&config)?;
    if let Some(database) = database {
        let spooling = Spooling { spool, after: config.spool_after.get(), store_space: None };
        return serve_from(database, spooling, &config, listener, shutdown).await;
    }
    let options = config.private_postgres();
    // It needs less than the spool leaves free: the spool's ticks shall find room.
    let space = StateSpace::new(config.state_dir.clone(), config.state_free_bytes_min / 2);
    let spooling = Spooling { spool, after: config.spool_after.get(), store_space: Some(space.clone()) };
    let mut postgres = tokio::select! {
        started = PrivatePostgres::start(&options) => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let served = tokio::select! {
        served = serve_from(postgres.database(), spooling, &config, listener, shutdown) => served,
        given_up = postgres.keep_running(|| space.check().is_err()) => Err(given_up.into()),
    };
    // Also after a failure: a Postgres that is left behind would keep the state directory.
    postgres.stop().await;
    served
}

/// Opens the spool, if there is to be one, and tells what of it cannot be read.
fn open_spool(config: &ServerConfig) -> Result<Option<Arc<Spool>>, ServerError> {
    if config.spool_bytes_max == 0 {
        return Ok(None);
    }
    let space = StateSpace::new(config.state_dir.clone(), config.state_free_bytes_min);
    let limits = SpoolLimits { bytes_max: config.spool_bytes_max, space };
    let (spool, damage) = Spool::open(&Spool::dir_in(&config.state_dir), limits)?;
    for damage in damage {
        tracing::error!(%damage, "ticks in the spool are lost");
    }
    if let Some(held) = spool.held() {
        tracing::info!(
            ticks = held.ticks,
            bytes = spool.bytes(),
            "an earlier server left ticks in the spool"
        );
    }
    Ok(Some(Arc::new(spool)))
}

async fn serve_from(
    database: Database,
    spooling: Spooling,
    config: &ServerConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let limits = StoreLimits { connections_max: config.postgres_connections_max, ..StoreLimits::default() };
    let store = Store::connect(&database, limits).await?;
    let hosts = Hosts::load(store.clone(), config.hosts_max, config.heartbeat_interval.get()).await?;
    let spool = spooling.spool.clone();
    let (ingest, writer) = IngestWriter::spooling(store.clone(), spooling, shutdown.clone());
    for (host_id, gap) in store.last_gaps().await? {
        ingest.remember_gap(host_id, gap);
    }
    let writer = tokio::spawn(writer.run());
    let compaction = Arc::default();
    let compacting = start_compaction(&store, spool, config, &compaction, &shutdown);
    for host in hosts.all().into_iter().filter(|host| host.claim_stream()) {
        tokio::spawn(keep_ingesting(host, ingest.clone(), shutdown.clone()));
    }
    tracing::info!(%database, hosts = hosts.all().len(), "serving");
    let fleet = Fleet {
        hosts: Arc::new(hosts),
        store: store.clone(),
        ingest,
        compaction,
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
    for task in compacting {
        let _ = task.await;
    }
    store.close().await;
    Ok(served?)
}

/// What goes on in the background: ticks into chunks, and away with what is old.
fn start_compaction(
    store: &Store,
    spool: Option<Arc<Spool>>,
    config: &ServerConfig,
    progress: &Arc<CompactionProgress>,
    shutdown: &CancellationToken,
) -> [tokio::task::JoinHandle<()>; 2] {
    let tasks_max = config.compaction_tasks_max as usize;
    let compactor = Compactor::new(store.clone(), tasks_max, Arc::clone(progress), shutdown.clone());
    let retention =
        Retention::new(store.clone(), config.retention(), spool, Arc::default(), shutdown.clone());
    [tokio::spawn(compactor.run()), tokio::spawn(retention.run())]
}

/// A server that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its own Postgres does not run.
    #[error(transparent)]
    Postgres(#[from] PrivatePostgresError),
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// gRPC cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}
