//! The demo: Postgres, server and agent on this host's real cgroups, queried and checked.
//!
//! Everything it starts, writes or creates is gone when it ends, however it ends.

pub(crate) mod burn;
mod client;
mod daemon;
mod state_dir;
mod stop;
mod subject;
mod tree;
mod verify;

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    checkout::{Checkout, DAEMONS_AND_CLIENT},
    command::{self, cargo},
    install::{Job, install},
    phases::Phases,
};
use client::Client;
use daemon::Daemon;
use state_dir::StateDir;
use stop::Stop;
use subject::Subject;
use tree::DemoTree;
use verify::Reader;

/// For server, Postgres and agent to be up, the host registered and its first tick stored.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// For five ticks of one second each to be stored.
const HISTORY_WITHIN: Duration = Duration::from_secs(30);
const HISTORY_POINTS_MIN: usize = 5;
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Runs the demo; with `once` it ends after the queries.
pub(crate) fn demo(checkout: &Checkout, once: bool) -> Result<()> {
    let mut phases = Phases::start("demo");
    phases.run("install", || install(checkout, &[Job::Build, Job::Demo]))?;
    // The dev profile: a person waits for the cold build, the tests share these artifacts, and a
    // walk's time is the kernel's.
    let mut build = cargo();
    build
        .args(["build", "--bins"])
        .args(DAEMONS_AND_CLIENT.iter().flat_map(|package| ["--package", package]));
    phases.run("build", || command::run(&mut build))?;
    let stop = Stop::on_signals()?;
    let mut stage = phases.run("start", || Stage::start(checkout, &stop))?;
    let shown = phases
        .run("query", || stage.query(&stop))
        .and_then(|()| phases.run("history", || stage.history(&stop)));
    let shown = shown.and_then(|()| if once { Ok(()) } else { stage.stay_up(&stop) });
    let stopped = phases.run("stop", || stage.stop());
    shown.and(stopped)
}

/// What the demo has running. Dropped from top to bottom: nothing outlives what it needs.
struct Stage {
    /// Cgroups of our own, where we may make some.
    tree: Option<DemoTree>,
    subject: Subject,
    agent: Daemon,
    server: Daemon,
    client: Client,
    hostname: String,
    dir: StateDir,
}

impl Stage {
    fn start(checkout: &Checkout, stop: &Stop) -> Result<Self> {
        let dir = StateDir::create()?;
        let mount = tree::cgroup2_mount()?;
        let tree = DemoTree::create(checkout, &mount)?;
        let subject = match &tree {
            Some(tree) => tree.subject(),
            None => Subject::found(&mount)?,
        };
        let whose = if tree.is_some() { "of our own" } else { "found, for we may make none" };
        println!("demo cgroups ({whose}): {} below {}", subject.top, mount.display());
        let [server_address, agent_address] = free_addresses()?;
        let server_url = format!("http://{server_address}");

        let mut server = daemon::program(checkout, "cgfleet-server");
        server.args(["--listen-address", &server_address]).arg("--state-dir").arg(dir.path().join("server"));
        // The demo is about the private Postgres, whatever the caller's environment says.
        server.env_remove("DATABASE_URL");
        let server = Daemon::spawn("cgfleet-server", server, dir.path(), Duration::from_secs(30))?;

        let mut agent = daemon::program(checkout, "cgfleet-agent");
        agent.args([
            "--listen-address",
            &agent_address,
            "--server-url",
            &server_url,
            "--sample-interval",
            "1s",
        ]);
        agent.arg("--state-dir").arg(dir.path().join("agent"));
        let agent = Daemon::spawn("cgfleet-agent", agent, dir.path(), Duration::from_secs(10))?;

        let hostname = fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
        let client = Client::new(checkout, server_url, agent_address, dir.path());
        let mut stage =
            Self { tree, subject, agent, server, client, hostname: hostname.trim().to_owned(), dir };
        stage.await_ready(stop)?;
        Ok(stage)
    }

    /// Ready means: the server knows this host as up and has stored a tick of it.
    fn await_ready(&mut self, stop: &Stop) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.server.check_running()?;
            self.agent.check_running()?;
            let hosts = self.client.read_quietly(&["hosts", "-o", "json"], stop)?;
            if hosts.is_some_and(|hosts| verify::host_is_ready(&hosts, &self.hostname)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let (server, agent) = (self.server.log_tail(), self.agent.log_tail());
                let seconds = READY_WITHIN.as_secs();
                bail!("host {} did not become ready within {seconds} s\n{server}\n{agent}", self.hostname);
            }
            stop.sleep(POLL_EVERY)?;
        }
    }

    fn query(&self, stop: &Stop) -> Result<()> {
        let Subject { top, leaf, .. } = &self.subject;
        let host = self.hostname.as_str();
        let reader = Reader::of_doctor(&self.client.read_agent("doctor", &["-o", "json"], stop)?)?;
        match &reader {
            Reader::Bpf => println!("the agent reads cgroups by BPF"),
            Reader::Files(reason) => println!("the agent reads cgroup files, for {reason}"),
        }
        self.client.show(&["hosts"], stop)?;
        self.client.show(&["query", "--host", host, leaf, "--order", "ancestors"], stop)?;
        self.client.show(&["query", "--all", top, "--order", "pre"], stop)?;

        let before = self.subject.usage_of_ancestors()?;
        let rows = self
            .client
            .read(&["query", "--host", host, leaf, "--order", "ancestors", "-o", "ndjson"], stop)?;
        let after = self.subject.usage_of_ancestors()?;
        for verified in verify::ancestors(&rows, &reader, &before, &after)? {
            println!("verified: {verified}");
        }
        Ok(())
    }

    fn history(&mut self, stop: &Stop) -> Result<()> {
        let leaf = self.subject.leaf.as_str();
        let history = ["history", "--host", &self.hostname, leaf];
        let deadline = Instant::now() + HISTORY_WITHIN;
        loop {
            let points = self.client.read_quietly(&[&history[..], &["-o", "ndjson"]].concat(), stop)?;
            let points = points.map_or(Ok(0), |points| verify::history_points(&points))?;
            if points >= HISTORY_POINTS_MIN {
                self.client.show(&history, stop)?;
                println!("verified: at least {HISTORY_POINTS_MIN} points of {leaf} came back from Postgres");
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = HISTORY_WITHIN.as_secs();
                bail!("{points} history points of {leaf} after {seconds} s, not {HISTORY_POINTS_MIN}");
            }
            self.server.check_running()?;
            self.agent.check_running()?;
            stop.sleep(POLL_EVERY)?;
        }
    }

    /// Prints what to try and waits for a signal. A daemon that dies meanwhile ends the demo.
    fn stay_up(&mut self, stop: &Stop) -> Result<()> {
        let (host, leaf) = (self.hostname.as_str(), self.subject.leaf.as_str());
        println!(
            "\nUp until Ctrl-C. Logs are in {}. To try in another terminal:\n",
            self.dir.path().display()
        );
        for args in [
            &["query", "--all", "--order", "pre"][..],
            &["query", "--host", host, leaf, "--order", "ancestors", "-o", "json"],
            &["history", "--host", host, leaf, "--since", "5m ago"],
            &["flush", "--all"],
        ] {
            println!("  {}", self.client.line(args));
        }
        println!("  {}", self.client.agent_line("query", &["--order", "pre", "--limit", "10"]));
        loop {
            if stop.sleep(POLL_EVERY).is_err() {
                return Ok(());
            }
            self.server.check_running()?;
            self.agent.check_running()?;
        }
    }

    /// Stops all in order and says what did not go well; the first failure counts.
    fn stop(self) -> Result<()> {
        let Self { tree, mut agent, mut server, dir, .. } = self;
        let tree = tree.map_or(Ok(()), DemoTree::remove);
        let agent = agent.stop();
        let server = server.stop();
        let dir = dir.remove();
        tree.and(agent).and(server).and(dir)?;
        println!("stopped and removed");
        Ok(())
    }
}

/// Two different free loopback ports. Another program could take one before the daemon does; then
/// the daemon says so and the demo fails with its words.
fn free_addresses() -> Result<[String; 2]> {
    let bind = || TcpListener::bind("127.0.0.1:0").context("find a free port");
    let (first, second) = (bind()?, bind()?);
    Ok([first.local_addr()?.to_string(), second.local_addr()?.to_string()])
}
