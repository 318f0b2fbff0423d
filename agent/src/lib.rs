//! The agent of one host: walks its cgroups in the kernel and answers gRPC.
//!
//! main → [`Prepared`], [`run`] → service → feeds → walker → kernel and cgroupfs, never back.

pub mod cgroupfs;
pub mod collectors;
pub mod config;
mod error;
mod feeds;
pub mod identity;
pub mod kernel;
mod register;
mod service;
mod stream;
mod views;
pub mod walker;
pub mod workloads;

pub use feeds::tick_checksum;

use std::{io, net::TcpListener, path::PathBuf, sync::Arc};

use cgfleet_privileges::{PrivilegeError, RunAs};
use cgfleet_proto::v1::{Host, agent_service_server::AgentServiceServer};
use cgfleet_rpc::{
    channel::{self, InvalidTarget},
    listen::{self, Exposure, ListenError},
    serve::{self, ServeError},
};
use nix::unistd::Group;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use uuid::Uuid;

use crate::{
    cgroupfs::{Hierarchies, HierarchyError},
    collectors::Collectors,
    config::{AgentConfig, BpfUse},
    feeds::{FeedLimits, Feeds, Journal},
    identity::{Identity, IdentityError},
    kernel::{Bounds, Kernel, Lifecycle, LoadError, Loader, PinError, Pins, ViewPrograms},
    service::Agent,
    views::{Shown, ViewDirectory, Views},
    walker::{Engine, Tree, Walker, WalkerLimits},
    workloads::Workloads,
};

/// What takes privilege to make and none to use: a loaded BPF program is attached through its descriptor
/// (kernel/bpf/syscall.c, link_create, checks no capability for iterators).
#[derive(Debug)]
pub struct Prepared {
    listener: TcpListener,
    bpf: Bpf,
    workloads: Workloads,
    /// The boot and the tree of a host that is simulated.
    simulated: Option<(Uuid, Box<dyn Tree>)>,
}

/// Every program that may ever be attached, and what belongs to them.
#[derive(Debug)]
struct Bpf {
    /// The reason if there is none.
    kernel: Result<Kernel, String>,
    collectors: Vec<(&'static str, Result<kernel::Collector, LoadError>)>,
    /// What tells of cgroups that come and go, if this kernel lets anything.
    lifecycle: Option<Lifecycle>,
    /// What makes views; the reason if there are none.
    views: Result<(ViewPrograms, ViewDirectory), String>,
    /// Locked while the agent runs.
    pins: Option<Pins>,
}

impl Prepared {
    /// Binds the listener and loads every program that may ever be attached, if BPF is to be used. Views will be
    /// `run_as`'s.
    pub fn new(config: &AgentConfig, run_as: &RunAs) -> Result<Self, AgentError> {
        let listener = listen::bind(config.listen_address, Exposure::of_insecure(config.insecure))?;
        let bpf = match config.bpf {
            BpfUse::Off => Bpf::none("it is switched off (bpf = off)".to_owned()),
            BpfUse::Require => Bpf::load(config, run_as)??,
            BpfUse::Auto => match Bpf::load(config, run_as) {
                Ok(bpf) => bpf?,
                Err(error) => Bpf::none(error.to_string()),
            },
        };
        let workloads = Workloads::new(&config.kubelet_log_dir);
        Ok(Self { listener, bpf, workloads, simulated: None })
    }

    /// Of a host that is simulated: in this boot, with this tree of cgroups, and without BPF.
    pub fn simulated(config: &AgentConfig, boot_id: Uuid, tree: Box<dyn Tree>) -> Result<Self, AgentError> {
        let listener = listen::bind(config.listen_address, Exposure::of_insecure(config.insecure))?;
        let workloads = Workloads::new(&config.kubelet_log_dir);
        let bpf = Bpf::none("the host is simulated".to_owned());
        Ok(Self { listener, bpf, workloads, simulated: Some((boot_id, tree)) })
    }
}

impl Bpf {
    /// Loads all; the outer error is that of the walk's programs, without which there is no BPF.
    fn load(config: &AgentConfig, run_as: &RunAs) -> Result<Result<Self, AgentError>, LoadError> {
        let bounds = Bounds {
            records_max: config.slice_rows_max,
            locked_visits_max: config.locked_rows_max,
            names_max: config.slice_names_max,
            slice_max: config.slice_time_max.get(),
        };
        kernel::with_loader(|loader| {
            let kernel = Kernel::load(loader, bounds)?;
            Ok(Self::with_kernel(kernel, loader, config, run_as))
        })
    }

    fn with_kernel(
        kernel: Kernel,
        loader: &mut Loader<'_>,
        config: &AgentConfig,
        run_as: &RunAs,
    ) -> Result<Self, AgentError> {
        let pins = pins(config)?;
        let lifecycle = lifecycle(loader, config);
        let views = match &pins {
            None => Err("bpffs_dir is not to be had; the agent's log says why".to_owned()),
            Some(_) => views(loader, config, run_as)?,
        };
        let collectors = kernel::load_collectors(loader, config.collector_cgroups_max, pins.as_ref());
        Ok(Self { kernel: Ok(kernel), collectors, lifecycle, views, pins })
    }

    /// An agent does without it where it must.
    fn none(reason: String) -> Self {
        tracing::warn!(reason, "no BPF here: every value is read from its cgroup file");
        let views = Err(reason.clone());
        Self { kernel: Err(reason), collectors: Vec::new(), lifecycle: None, views, pins: None }
    }
}

/// What tells of cgroups that come and go. An agent does without it where it must.
fn lifecycle(loader: &mut Loader<'_>, config: &AgentConfig) -> Option<Lifecycle> {
    let loaded = Lifecycle::load(loader, config.removed_slots_max);
    loaded.inspect_err(|error| tracing::warn!(%error, "removed cgroups are not reported")).ok()
}

/// What makes views; the reason if there can be none.
fn views(
    loader: &mut Loader<'_>,
    config: &AgentConfig,
    run_as: &RunAs,
) -> Result<Result<(ViewPrograms, ViewDirectory), String>, AgentError> {
    let (user, own_group) = run_as.ids().unzip();
    let group = config.view_group.as_deref().map(group_id).transpose()?.or(own_group);
    // It was checked with the rest of the configuration.
    let mode = config.view_file_mode().unwrap_or(0o640);
    let directory = ViewDirectory::make(&config.bpffs_dir, (user, group), mode);
    let directory = directory.map_err(|error| format!("bpffs_dir: make its directory views: {error}"));
    let mut programs = || ViewPrograms::load(loader, config.views_max).map_err(|error| error.to_string());
    let views = directory.and_then(|directory| Ok((programs()?, directory)));
    if let Err(reason) = &views {
        tracing::warn!(reason, "no text views here");
    }
    Ok(views)
}

/// The journal for tests, if there is to be one.
fn journal(config: &AgentConfig, identity: &Identity) -> Result<Option<Journal>, AgentError> {
    let Some(name) = &config.tick_journal else { return Ok(None) };
    let path = config.state_dir.join(name);
    let opened = Journal::open(&path, identity.agent_epoch.to_string(), config.sample_interval.get());
    opened.map(Some).map_err(|source| AgentError::Journal { path, source })
}

/// A group by name or number.
fn group_id(group: &str) -> Result<u32, AgentError> {
    let unknown = || AgentError::ViewGroup { group: group.to_owned() };
    let found = || Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw());
    group.parse().ok().or_else(found).ok_or_else(unknown)
}

/// Where collectors' maps are kept; `None` where they cannot be. An error if another agent keeps its own there.
fn pins(config: &AgentConfig) -> Result<Option<Pins>, AgentError> {
    match Pins::new(&config.bpffs_dir) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ (PinError::InUse { .. } | PinError::NotBpffs { .. } | PinError::NotOurs { .. })) => {
            Err(error.into())
        }
        Err(error @ PinError::Directory { .. }) => {
            tracing::warn!(%error, "what collectors count is lost when the agent ends");
            Ok(None)
        }
    }
}

/// Runs a prepared agent until `shutdown`. Its state directory exists.
pub async fn run(
    config: AgentConfig,
    prepared: Prepared,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let Prepared { listener, bpf, workloads, simulated } = prepared;
    let Bpf { kernel, collectors, lifecycle, views, pins: _pins } = bpf;
    let (mut identity, _lock) = Identity::load(&config.state_dir, config.hostname.clone())?;
    let tree = simulated.map(|(boot_id, tree)| {
        identity.boot_id = boot_id;
        tree
    });
    let address = listener.local_addr().map_err(AgentError::Thread)?.to_string();
    let address = config.advertise_address.clone().unwrap_or(address);
    let server =
        config.server_url.as_deref().map(channel::connect_lazy).transpose().map_err(AgentError::ServerUrl)?;

    let hierarchies = Hierarchies::read()?;
    let collectors = match &kernel {
        Ok(_) => Collectors::start(collectors, &config.collectors().unwrap_or_default(), &hierarchies),
        Err(reason) => Collectors::none(reason),
    };
    let mut engine =
        Engine::new(kernel, collectors, workloads.clone(), &hierarchies, config.walk_rows_max).over(tree);
    if let Some(lifecycle) = lifecycle {
        engine = engine.with_lifecycle(lifecycle, config.removed_cgroups_max);
    }
    let capabilities = service::capabilities(&engine, &identity, &hierarchies, &config)?;
    let views = Shown::new(views, &hierarchies);
    let views =
        Views::start(views, config.configured_views().unwrap_or_default()).map_err(AgentError::Thread)?;
    let limits = WalkerLimits {
        queue_max: config.walk_queue_max as usize,
        walk_waiters_max: config.walk_waiters_max as usize,
        kept_rows_max: config.walk_cache_rows_max as usize,
        flush_waiters_max: config.flush_waiters_max as usize,
        flushes_per_second_max: config.flushes_per_second_max,
    };
    let walker = Walker::start(engine, limits).map_err(AgentError::Thread)?;
    let limits = FeedLimits {
        feeds_max: config.subscribe_intervals_max as usize,
        history_bytes_max: config.history_bytes_max as usize,
    };
    let journal = journal(&config, &identity)?;
    let feeds = Feeds::new(walker.clone(), limits, journal, shutdown.clone());

    if let Some(server) = server {
        tokio::spawn(register::keep_registered(server, host(&identity, &address), shutdown.clone()));
    }
    tracing::info!(host_id = %identity.host_id, hostname = identity.hostname, address, "serving");
    let agent = Agent {
        identity,
        capabilities,
        walker,
        views: views.clone(),
        feeds,
        workloads,
        sample_interval: config.sample_interval.get(),
        // It was checked with the rest of the configuration.
        sample_metrics: config.sample_metrics().unwrap_or_default(),
        subscribe_interval_min: config.subscribe_interval_min.get(),
        subscribers: Arc::new(Semaphore::new(config.subscribers_max as usize)),
        tick_subscribers: Arc::new(Semaphore::new(config.subscribers_max as usize)),
        subscribers_max: config.subscribers_max,
        shutdown: shutdown.clone(),
    };
    let routes = Routes::new(AgentServiceServer::new(agent));
    let served = serve::serve(listener, routes, &["cgfleet.v1.AgentService"], shutdown).await;
    if let Err(error) = views.stop().await {
        tracing::warn!(%error, "views stay until the next start");
    }
    Ok(served?)
}

fn host(identity: &Identity, address: &str) -> Host {
    Host {
        host_id: identity.host_id.to_string(),
        boot_id: identity.boot_id.to_string(),
        agent_epoch: identity.agent_epoch.to_string(),
        hostname: identity.hostname.clone(),
        address: address.to_owned(),
        kernel_release: identity.kernel_release.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// An agent that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It does not know the cgroup filesystems.
    #[error(transparent)]
    Hierarchies(#[from] HierarchyError),
    /// The kernel side cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What collectors count cannot be kept where it was asked to be.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Views cannot be given to their group.
    #[error("view_group: {group:?} is no group of this host")]
    ViewGroup {
        /// As given.
        group: String,
    },
    /// The file for tests cannot be opened.
    #[error("tick_journal: open {}: {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server's address is no address.
    #[error("server_url: {0}")]
    ServerUrl(InvalidTarget),
    /// It cannot tell what it may do.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The kernel gives no thread or socket.
    #[error("start: {0}")]
    Thread(io::Error),
    /// gRPC cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}
