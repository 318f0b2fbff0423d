//! Agents, a server and its Postgres while any of them dies or is cut off, over and over; what is stored is compared
//! with what the agents noted before they told anybody.

pub mod link;
pub mod oracle;
pub mod postgres;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::time::sleep;

use self::{
    link::{Link, LinkState},
    oracle::{Journal, Stored, TickName, Verified},
    postgres::Postgres,
};
use crate::{
    cgroups::TestTree,
    daemon::{Daemon, Start, free_port},
    fleet, wait,
    walk::by_path,
};

const JOURNAL: &str = "tick-journal";

/// How long everything may take to be stored again after a round.
const PATIENCE: Duration = Duration::from_mins(1);

/// What happens in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    ServerKilled,
    PostgresKilled,
    /// Cut off from the server without a word: its processes stand still.
    PostgresSilent,
    AgentKilled,
    LinkCut,
    LinkSilent,
}

const FAULTS: [Fault; 6] = [
    Fault::ServerKilled,
    Fault::PostgresKilled,
    Fault::PostgresSilent,
    Fault::AgentKilled,
    Fault::LinkCut,
    Fault::LinkSilent,
];

/// An agent behind a link.
struct Site {
    name: String,
    agent: Daemon,
    link: Link,
    kills: usize,
}

impl Site {
    async fn start(server: &Daemon, number: usize) -> Result<Self> {
        let name = format!("site-{number}");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let link = Link::to(address).await?;
        let agent = Start::agent()?
            .registered(server, &name)
            .at(address)
            .flag("--advertise-address", &link.address().to_string())
            .flag("--tick-journal", JOURNAL)
            .flag("--history-bytes-max", "134217728");
        Ok(Self { name, agent: agent.start().await?, link, kills: 0 })
    }

    fn journal_path(&self) -> PathBuf {
        self.agent.state().join(JOURNAL)
    }

    fn journal(&self) -> Result<Journal> {
        Journal::read(&self.journal_path())
    }
}

/// All of it.
struct World {
    server: Daemon,
    postgres: Postgres,
    sites: Vec<Site>,
    rng: Rng,
}

/// Runs so many rounds and compares all that is stored; prints what it does. Every number comes from the seed.
pub async fn run(rounds: usize, agents: usize, seed: u64) -> Result<()> {
    println!("chaos: {rounds} rounds, {agents} agents, seed {seed}");
    let mut tree = TestTree::v2()?;
    tree.make("busy")?;
    tree.work_in("busy")?;
    let mut world = World::start(agents, seed).await?;
    world.stored_up_to_now().await.context("before the first round")?;
    let (begun, mut counts) = (Instant::now(), BTreeMap::<Fault, usize>::new());
    for round in 1..=rounds {
        // Each of them before any comes again; in another order each time.
        let nth = (round - 1) % FAULTS.len();
        let mut order = FAULTS;
        Rng::with_seed(seed.wrapping_add(((round - 1) / FAULTS.len()) as u64)).shuffle(&mut order);
        let fault = order[nth];
        *counts.entry(fault).or_default() += 1;
        let what = world.strike(fault).await.with_context(|| format!("round {round}: {fault:?}"))?;
        let struck = Instant::now();
        world.stored_up_to_now().await.with_context(|| format!("behind round {round}: {what}"))?;
        println!("round {round}: {what}; all stored {:.1} s later", struck.elapsed().as_secs_f64());
    }
    let verified = world.verify().await.with_context(|| format!("seed {seed}"))?;
    let Verified { ticks, compared, lost_with_agents, gaps } = verified;
    println!(
        "chaos: {counts:?} in {:.0} s; {ticks} ticks stored, each once, {compared} of them compared by value; \
         {lost_with_agents} lost with {gaps} killed agents, {gaps} gaps",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

impl World {
    async fn start(agents: usize, seed: u64) -> Result<Self> {
        let server = Start::server()?
            .flag("--heartbeat-interval", "300ms")
            .flag("--spool-after", "500ms")
            .flag("--log", "info")
            .start()
            .await?;
        let postgres = Postgres::of(&server.state());
        let mut sites = Vec::new();
        for number in 1..=agents {
            sites.push(Site::start(&server, number).await?);
        }
        Ok(Self { server, postgres, sites, rng: Rng::with_seed(seed) })
    }

    /// Something fails, for a while, while ticks are taken.
    async fn strike(&mut self, fault: Fault) -> Result<String> {
        let outage = Duration::from_millis(self.rng.u64(300..3_000));
        let at = self.rng.usize(..self.sites.len());
        let site = &mut self.sites[at];
        match fault {
            Fault::ServerKilled => {
                self.server.kill_9()?;
                sleep(outage).await;
                self.server.start_again().await?;
            }
            Fault::PostgresKilled => {
                self.postgres.kill_9()?;
                sleep(outage).await;
            }
            Fault::PostgresSilent => {
                let _standing_still = self.postgres.stand_still()?;
                sleep(outage).await;
            }
            Fault::AgentKilled => {
                site.agent.kill_9()?;
                site.kills += 1;
                sleep(outage).await;
                site.agent.start_again().await?;
            }
            Fault::LinkCut | Fault::LinkSilent => {
                let is_cut = fault == Fault::LinkCut;
                site.link.set(if is_cut { LinkState::Cut } else { LinkState::Silent });
                sleep(outage).await;
                site.link.set(LinkState::Open);
            }
        }
        let whose = match fault {
            Fault::AgentKilled | Fault::LinkCut | Fault::LinkSilent => format!(" ({})", site.name),
            _ => String::new(),
        };
        Ok(format!("{fault:?}{whose} for {:.1} s", outage.as_secs_f64()))
    }

    /// Waits until the newest tick of every agent is stored, and one behind it: of this process, if it was killed.
    async fn stored_up_to_now(&self) -> Result<()> {
        for site in &self.sites {
            let before = site.journal()?;
            let what = format!("a tick of {}", site.name);
            let newer = wait::until(&what, PATIENCE, || async {
                let newest = site.journal()?.last().cloned();
                Ok(newest.filter(|newest| Some(newest) != before.last()))
            });
            let newest = newer.await.with_context(|| self.server.log())?;
            is_stored(&self.postgres, &newest).await.with_context(|| self.server.log())?;
        }
        Ok(())
    }

    /// Compares what every agent noted with what is stored.
    async fn verify(&self) -> Result<Verified> {
        let mut all = Verified::default();
        for site in &self.sites {
            let journal = site.journal()?;
            is_stored(&self.postgres, journal.last().context("no tick")?).await?;
            let host_id =
                self.postgres.sql(&format!("select host_id from host where hostname = '{}'", site.name))?;
            let stored = Stored::read(&self.postgres, &host_id)?;
            let of_site = oracle::verify(&journal, &stored, &site.journal()?, site.kills)
                .with_context(|| site.name.clone())?;
            let gaps = oracle::verify_gaps(&self.postgres, &host_id, site.kills)
                .with_context(|| site.name.clone())?;
            let history = fleet::history(&self.server, &site.name, by_path("/")).await?;
            anyhow::ensure!(
                history.points.len() >= stored.len(),
                "{}: {} ticks are stored, and QueryHistory has {}",
                site.name,
                stored.len(),
                history.points.len()
            );
            all.ticks += of_site.ticks;
            all.compared += of_site.compared;
            all.lost_with_agents += of_site.lost_with_agents;
            all.gaps += gaps;
        }
        anyhow::ensure!(
            all.compared * 2 > all.ticks,
            "values of {} of {} ticks alone",
            all.compared,
            all.ticks
        );
        Ok(all)
    }
}

/// Waits until a tick is stored.
pub async fn is_stored(postgres: &Postgres, (epoch, sequence): &TickName) -> Result<()> {
    let statement =
        format!("select count(*) from ingest_cursor where epoch = '{epoch}' and next_seq > {sequence}");
    wait::until(&format!("tick {sequence} of {epoch} stored"), PATIENCE, || async {
        Ok((postgres.sql(&statement)? == "1").then_some(()))
    })
    .await
}
