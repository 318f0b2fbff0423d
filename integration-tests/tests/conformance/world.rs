//! An agent, and what is around it: made when the first case needs it, shared by all that do.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, Result, anyhow};
use cgfleet_proto::v1::agent_service_client::AgentServiceClient;
use cgfleet_rpc::channel::Channel;
use integration_tests::{
    cgroups::{NamedV1, TestTree, v1_controllers},
    daemon::{Daemon, Start},
};
use tokio::runtime::Runtime;

/// Where an agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surroundings {
    /// As a host's own daemon.
    Host,
    /// In a cgroup namespace, with the host's mounts: it sees all, but the kernel takes no id of a cgroup
    /// outside its own.
    PrivateNamespace,
    /// In a cgroup namespace, with a mount made in it: its own cgroup is the root of what it sees.
    Container,
}

impl Surroundings {
    pub(crate) const ALL: [Self; 3] = [Self::Host, Self::PrivateNamespace, Self::Container];

    /// How the names of its cases begin.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Host => "",
            Self::PrivateNamespace => "private_namespace::",
            Self::Container => "container::",
        }
    }
}

/// A cgroup v1 hierarchy without controllers, mounted once. An agent reads what is mounted when it
/// starts, so every one starts after this.
#[derive(Clone, Default)]
pub(crate) struct SharedMount(Arc<OnceLock<Result<NamedV1, String>>>);

impl SharedMount {
    pub(crate) fn get(&self) -> Result<&NamedV1> {
        self.0.get_or_init(|| NamedV1::mount().map_err(|error| said(&error))).as_ref().map_err(unsaid)
    }
}

/// What runs cases.
pub(crate) struct World {
    surroundings: Surroundings,
    running: OnceLock<Result<Running, String>>,
    // Behind the agent and its cgroups, which end first.
    pub(crate) mount: SharedMount,
}

/// An agent that runs.
pub(crate) struct Running {
    pub(crate) runtime: Runtime,
    /// A connection of its own for every walk would be most of the cases' time.
    pub(crate) client: AgentServiceClient<Channel>,
    pub(crate) agent: Daemon,
    /// The cgroups that it runs in, behind it, for they cannot be removed before it ended.
    cgroups: Vec<TestTree>,
}

impl World {
    pub(crate) fn new(surroundings: Surroundings, mount: SharedMount) -> Self {
        Self { surroundings, mount, running: OnceLock::new() }
    }

    pub(crate) fn running(&self) -> Result<&Running> {
        self.running.get_or_init(|| self.start().map_err(|error| said(&error))).as_ref().map_err(unsaid)
    }

    /// The directory that the agent sees as the root of cgroup v2, if that is not the host's.
    pub(crate) fn v2_root(&self) -> Result<Option<PathBuf>> {
        let cgroup = self.running()?.cgroups.first().map(|cgroup| cgroup.directory(""));
        Ok(cgroup.filter(|_| self.surroundings == Surroundings::Container))
    }

    fn start(&self) -> Result<Running> {
        let named = self.mount.get()?;
        let mut cgroups = Vec::new();
        if self.surroundings != Surroundings::Host {
            cgroups.push(TestTree::v2()?);
        }
        if self.surroundings == Surroundings::PrivateNamespace {
            cgroups.push(TestTree::on(named.mount_point())?);
            // Nothing can run in a new cgroup of cpuset, which has no CPUs yet.
            for controller in v1_controllers()?.iter().filter(|controller| *controller != "cpuset") {
                cgroups.push(TestTree::v1(controller)?.context("a controller that is mounted")?);
            }
        }
        let directories: Vec<PathBuf> = cgroups.iter().map(|cgroup| cgroup.directory("")).collect();
        let start = match self.surroundings {
            Surroundings::Host => Start::agent()?.flushing_freely().flag("--collectors", ""),
            Surroundings::PrivateNamespace => {
                Start::agent()?.flushing_freely().flag("--collectors", "").in_cgroup_namespace(&directories)
            }
            Surroundings::Container => {
                Start::agent()?.flushing_freely().flag("--collectors", "").in_container(&directories[0])
            }
        };
        let runtime = Runtime::new()?;
        let agent = runtime.block_on(start.start())?;
        let client = runtime.block_on(async { agent.agent() })?;
        let world = Running { runtime, client, agent, cgroups };
        self.check_namespace(&world.agent)?;
        Ok(world)
    }

    /// A case that says it ran in a namespace shall have done so.
    fn check_namespace(&self, agent: &Daemon) -> Result<()> {
        let of = |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns/cgroup"));
        let is_ours = of("self")? == of(&agent.pid().to_string())?;
        anyhow::ensure!(is_ours == (self.surroundings == Surroundings::Host), "the agent's cgroup namespace");
        Ok(())
    }
}

fn said(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

fn unsaid(error: &String) -> anyhow::Error {
    anyhow!("{error}")
}
