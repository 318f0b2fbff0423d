//! One simulated host: an agent over a living tree, that listens, registers, and can be stopped and booted anew.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use cgfleet_agent::{
    AgentError, Prepared,
    config::{AgentConfig, DAEMON},
    run,
};
use cgfleet_config::{HumanDuration, Outcome};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Faults, Tree, TreeSpec, kubelet::Kubelet, walk::LivingTree};
use crate::daemon::state_dir;

/// What each cgroup's groups are.
const FIELDS: &str = "cpu,memory,io,pids";

/// What a host is made of.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Its name.
    pub hostname: String,
    /// Where it registers; nowhere if there is none.
    pub server_url: Option<String>,
    /// Where its agent listens; port 0 for any.
    pub listen_address: SocketAddr,
    /// Between its ticks; shorter than a real agent's configuration allows, too.
    pub sample_interval: Duration,
    /// What an agent keeps of its ticks.
    pub history_bytes_max: u32,
    /// Its cgroups.
    pub tree: TreeSpec,
}

/// Any port of this machine alone.
pub const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A host whose agent runs until this is dropped.
#[derive(Debug)]
pub struct SimulatedHost {
    spec: HostSpec,
    faults: Arc<Faults>,
    state: TempDir,
    boots: u64,
    agent: Option<Agent>,
}

#[derive(Debug)]
struct Agent {
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), AgentError>>,
}

impl SimulatedHost {
    /// Starts it, in the runtime of whoever calls this.
    pub fn start(spec: HostSpec) -> Result<Self> {
        let mut host = Self { spec, faults: Arc::default(), state: state_dir()?, boots: 0, agent: None };
        host.boot()?;
        Ok(host)
    }

    /// What befalls its walks.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Its name.
    pub fn hostname(&self) -> &str {
        &self.spec.hostname
    }

    /// Boots it anew, as after a crash: the agent is gone in the middle of what it did, and all cgroups are others.
    pub async fn reboot(&mut self) -> Result<()> {
        self.crash().await;
        self.boot()
    }

    /// Boots it as another one, once it has crashed.
    pub fn boot_as(&mut self, change: impl FnOnce(&mut HostSpec)) -> Result<()> {
        change(&mut self.spec);
        self.boot()
    }

    /// Ends the agent in the middle of what it does.
    pub async fn crash(&mut self) {
        if let Some(Agent { shutdown, running }) = self.agent.take() {
            running.abort();
            shutdown.cancel();
            // It holds its state directory until it is gone.
            let _ = running.await;
        }
    }

    /// Asks the agent to stop, and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(Agent { shutdown, running }) = self.agent.take() else { return Ok(()) };
        shutdown.cancel();
        Ok(running.await.context("the agent panicked")??)
    }

    fn boot(&mut self) -> Result<()> {
        let boot = self.boots;
        self.boots += 1;
        // Another boot's cgroups are others, and so are its ids.
        let seed = self.spec.tree.seed.wrapping_add(boot << 32);
        let tree = Tree::new(TreeSpec { seed, ..self.spec.tree });
        let kubelet_log_dir = self.state.path().join(format!("log-{boot}"));
        let kubelet = Kubelet::new(kubelet_log_dir.clone())?;
        let tree = LivingTree::new(tree, kubelet, Arc::clone(&self.faults))?;
        let state_dir = self.state.path().join("state");
        std::fs::create_dir_all(&state_dir)?;
        let config = AgentConfig {
            listen_address: self.spec.listen_address,
            state_dir,
            kubelet_log_dir,
            hostname: Some(self.spec.hostname.clone()),
            server_url: self.spec.server_url.clone(),
            sample_interval: self.spec.sample_interval.to_human()?,
            sample_fields: FIELDS.to_owned(),
            history_bytes_max: self.spec.history_bytes_max,
            ..defaults()?
        };
        let prepared = Prepared::simulated(&config, Uuid::new_v4(), Box::new(tree))?;
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run(config, prepared, shutdown.clone()));
        self.agent = Some(Agent { shutdown, running });
        Ok(())
    }
}

impl Drop for SimulatedHost {
    fn drop(&mut self) {
        if let Some(Agent { shutdown, running }) = &self.agent {
            shutdown.cancel();
            running.abort();
        }
    }
}

/// What an agent does that is told nothing.
fn defaults() -> Result<AgentConfig> {
    let no_file = ["cgfleet-agent", "--config", "/dev/null"];
    match cgfleet_config::load::<AgentConfig>(&DAEMON, no_file, |_| None)? {
        Outcome::Run(config) => Ok(config),
        _ => bail!("an agent without arguments does not run"),
    }
}

trait ToHuman {
    fn to_human(self) -> Result<HumanDuration>;
}

impl ToHuman for Duration {
    fn to_human(self) -> Result<HumanDuration> {
        let text = format!("{}us", self.as_micros());
        text.parse().with_context(|| format!("an interval of {text}"))
    }
}
