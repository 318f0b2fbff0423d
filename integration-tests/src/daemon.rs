//! Real agents and servers as processes, ended by pid on drop.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_proto::v1::{agent_service_client::AgentServiceClient, fleet_service_client::FleetServiceClient};
use cgfleet_rpc::channel::{self, Channel};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::runtime::{Handle, RuntimeFlavor};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{lacking::Lacking, wait};

const AGENT: &str = "cgfleet-agent";

/// A binary of this workspace, as `cargo xtask test` builds it before the tests.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile_dir =
        test.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "deps" || name == "examples"));
    let profile_dir =
        profile_dir.and_then(Path::parent).or(test.parent()).context("a test lives in target/")?;
    let path = profile_dir.join(name);
    ensure!(path.exists(), "{} is not built; run the tests with `cargo xtask test`", path.display());
    Ok(path)
}

/// A directory for state that another user can reach too: the daemons run unprivileged.
pub fn state_dir() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("cgfleet-test-").tempdir_in("/tmp")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// A port that is free now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Where an agent with this state pins what outlives it.
fn bpffs_dir(state: &Path) -> PathBuf {
    Path::new("/sys/fs/bpf").join(state.file_name().unwrap_or_default())
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    command: Vec<String>,
    /// Who starts it, if that is not who runs the tests.
    user: Option<u32>,
    address: SocketAddr,
    child: Child,
    state: TempDir,
}

/// How to start a daemon.
#[derive(Debug)]
pub struct Start {
    name: &'static str,
    prefix: Vec<String>,
    user: Option<u32>,
    address: SocketAddr,
    flags: Vec<String>,
}

impl Start {
    /// An agent on loopback with fast ticks.
    pub fn agent() -> Result<Self> {
        let start = Self::new(AGENT)?;
        Ok(start.flag("--sample-interval", "200ms"))
    }

    /// A server on loopback with its private Postgres.
    pub fn server() -> Result<Self> {
        Self::new("cgfleet-server")
    }

    fn new(name: &'static str) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        Ok(Self { name, prefix: Vec::new(), user: None, address, flags: Vec::new() }
            .flag("--log", "debug,aya=info,aya_obj=info,h2=info,hyper=info,tower=info"))
    }

    /// Sets a flag, also one that was set before.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        let prefix = format!("{name}=");
        self.flags.retain(|flag| !flag.starts_with(&prefix));
        self.flags.push(prefix + value);
        self
    }

    /// May flush for as many walks as come back to back: an agent whose limit is not what is tested.
    #[must_use]
    pub fn flushing_freely(self) -> Self {
        self.flag("--flushes-per-second-max", "10000")
    }

    /// Registers with this server, under this name.
    #[must_use]
    pub fn registered(self, server: &Daemon, hostname: &str) -> Self {
        self.flag("--server-url", &server.url()).flag("--hostname", hostname)
    }

    /// Listens here instead, inside this network namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str, address: SocketAddr) -> Self {
        // Not `ip netns exec`, which mounts a new /sys without the cgroup filesystems.
        self.prefix = vec!["nsenter".to_owned(), format!("--net=/run/netns/{namespace}")];
        self.listening_on(address)
    }

    /// Starts it by this command, to which its own is appended.
    #[must_use]
    pub fn under(mut self, command: &[&str]) -> Self {
        self.prefix.extend(command.iter().map(|&word| word.to_owned()));
        self
    }

    /// Starts without this, and so without BPF.
    #[must_use]
    pub fn lacking(mut self, lacking: Lacking) -> Self {
        self.prefix = lacking.wrapper().iter().map(ToString::to_string).collect();
        self.user = lacking.user();
        self
    }

    /// Starts in these cgroups, one a hierarchy, and in a cgroup namespace whose roots they are.
    #[must_use]
    pub fn in_cgroup_namespace(self, cgroups: &[PathBuf]) -> Self {
        self.in_cgroups(cgroups.iter().map(PathBuf::as_path), &["unshare", "--cgroup"])
    }

    /// Starts as a container does: in this cgroup v2 cgroup, in namespaces where it is the root of all
    /// that is mounted of cgroups.
    #[must_use]
    pub fn in_container(self, cgroup: &Path) -> Self {
        let mounted = "points=$(while read -r _ point kind _; do \
                       [ \"$kind\" = cgroup2 ] && echo \"$point\"; done < /proc/self/mounts); \
                       for point in $points; do umount -l \"$point\" || exit 1; done; \
                       mount -t cgroup2 none \"$point\" && exec \"$@\"";
        self.in_cgroups([cgroup], &["unshare", "--cgroup", "--mount", "sh", "-c", mounted, "sh"])
    }

    fn in_cgroups<'a>(mut self, cgroups: impl IntoIterator<Item = &'a Path>, then: &[&str]) -> Self {
        let joined = "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\" || exit 1; shift; done; \
                      shift; exec \"$@\"";
        let cgroups = cgroups.into_iter().map(|cgroup| cgroup.display().to_string());
        let words = ["sh", "-c", joined, "sh"].map(str::to_owned).into_iter().chain(cgroups);
        let then = ["--"].iter().chain(then).map(|word| (*word).to_owned());
        self.prefix = words.chain(then).collect();
        self
    }

    /// Listens here instead, on loopback.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Listens here instead, where other hosts can reach it.
    #[must_use]
    pub fn listening_on(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self.flag("--insecure", "true")
    }

    /// Starts it and waits until it serves. Its end is awaited without awaiting, when it is dropped: then other threads
    /// have to close the connections to it, or it waits until its grace is over.
    pub async fn start(self) -> Result<Daemon> {
        let flavor = Handle::current().runtime_flavor();
        ensure!(
            flavor != RuntimeFlavor::CurrentThread,
            "daemons need #[tokio::test(flavor = \"multi_thread\")]"
        );
        let state = state_dir()?;
        let mut command = self.prefix.clone();
        command.push(binary(self.name)?.display().to_string());
        command.push(format!("--listen-address={}", self.address));
        if !self.flags.iter().any(|flag| flag.starts_with("--state-dir=")) {
            command.push(format!("--state-dir={}", state.path().join("state").display()));
        }
        command.extend(self.flags.iter().cloned());
        if self.name == AGENT && !self.flags.iter().any(|flag| flag.starts_with("--bpffs-dir=")) {
            command.push(format!("--bpffs-dir={}", bpffs_dir(state.path()).display()));
        }
        if let Some(user) = self.user {
            fs::create_dir(state.path().join("state"))?;
            chown(state.path().join("state"), Some(user), Some(user))?;
        }
        let child = spawn(&command, self.user, state.path())?;
        let Self { name, user, address, .. } = self;
        let mut daemon = Daemon { name, command, user, address, child, state };
        daemon.wait_until_serving().await?;
        Ok(daemon)
    }
}

fn spawn(command: &[String], user: Option<u32>, state: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(state.join("log"))?;
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.spawn().with_context(|| format!("start {program}"))
}

impl Daemon {
    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.state.path().join("state")
    }

    /// Where it pins what outlives it, if it is an agent.
    pub fn bpffs_dir(&self) -> PathBuf {
        bpffs_dir(self.state.path())
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }

    /// A channel to it.
    pub fn channel(&self) -> Result<Channel> {
        Ok(channel::connect_lazy(&self.url())?)
    }

    /// A client of an agent.
    pub fn agent(&self) -> Result<AgentServiceClient<Channel>> {
        Ok(AgentServiceClient::new(self.channel()?))
    }

    /// A client of a server.
    pub fn fleet(&self) -> Result<FleetServiceClient<Channel>> {
        Ok(FleetServiceClient::new(self.channel()?))
    }

    /// Kills it at once, as `kill -9`.
    pub fn kill_9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop, and gives its exit code.
    pub async fn stop(&mut self) -> Result<Option<i32>> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        self.exited(Duration::from_secs(20)).await
    }

    /// Waits until it has ended by itself, and gives its exit code.
    pub async fn exited(&mut self, patience: Duration) -> Result<Option<i32>> {
        let what = format!("the end of {}", self.name);
        let status = wait::until(&what, patience, || {
            let status = self.child.try_wait();
            async move { Ok(status?) }
        });
        Ok(status.await?.code())
    }

    /// Starts it again, with the same flags and state.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.command, self.user, self.state.path())?;
        self.wait_until_serving().await
    }

    fn end(&mut self) {
        // SIGTERM first: a server takes its Postgres with it.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn wait_until_serving(&mut self) -> Result<()> {
        let channel = self.channel()?;
        let what = format!("{} serving", self.name);
        let serving = wait::until(&what, Duration::from_mins(1), || {
            let ended = self.child.try_wait();
            let mut health = HealthClient::new(channel.clone());
            async move {
                if let Some(status) = ended? {
                    return Ok(Some(Err(status)));
                }
                let answer = health.check(HealthCheckRequest { service: String::new() }).await?;
                Ok((answer.into_inner().status == 1).then_some(Ok(())))
            }
        });
        match serving.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{} ended with {status}:\n{}", self.name, self.log()),
            Err(error) => Err(error.context(self.log())),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(self.bpffs_dir());
    }
}
