//! A client of a stream of changes: it has the state that it was told, and holds the stream to its contract.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    Bookmark, CgroupSample, ChangeEvent, RemovedCgroup, SubscribeRequest, SubscribeResponse, SubscribeSpec,
    agent_service_client::AgentServiceClient, change_event, subscribe_response,
};
use cgfleet_rpc::channel::Channel;
use tonic::{Status, Streaming};

use crate::daemon::Daemon;

/// The longest that a tick is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The state as of the last bookmark. What came behind it counts when its own has come.
#[derive(Debug, Default)]
pub struct Mirror {
    /// By cgroup id.
    pub rows: BTreeMap<u64, CgroupSample>,
    /// All that were ever removed, in the order in which that was told.
    pub removed: Vec<RemovedCgroup>,
    /// Removals that were lost.
    pub lost: u64,
    /// Ticks that came merged with a later one.
    pub merged: u64,
    /// The last one.
    pub bookmark: Option<Bookmark>,
    told_of: BTreeSet<u64>,
    staged: Staged,
}

/// A tick that is not whole yet.
#[derive(Debug, Default)]
struct Staged {
    snapshot: Vec<CgroupSample>,
    rows: Vec<CgroupSample>,
    removed: Vec<RemovedCgroup>,
    lost: u64,
}

impl Mirror {
    /// Takes in a part of the stream; true if it was the last of a tick.
    pub fn apply(&mut self, event: ChangeEvent) -> Result<bool> {
        let event = event.event.context("an empty change")?;
        let staged = &mut self.staged;
        let bookmark = match event {
            change_event::Event::Snapshot(batch) => {
                ensure!(staged.rows.is_empty() && staged.removed.is_empty(), "a snapshot within a tick");
                staged.snapshot.extend(batch.samples);
                return Ok(false);
            }
            change_event::Event::Update(batch) => {
                ensure!(self.bookmark.is_some(), "an update before there is a snapshot");
                ensure!(staged.removed.is_empty(), "an update behind removals");
                staged.rows.extend(batch.samples);
                return Ok(false);
            }
            change_event::Event::Removed(batch) => {
                ensure!(self.bookmark.is_some(), "a removal before there is a snapshot");
                staged.removed.extend(batch.cgroups);
                return Ok(false);
            }
            change_event::Event::Lost(lost) => {
                ensure!(staged.rows.is_empty() && staged.removed.is_empty(), "losses behind changes");
                ensure!(lost.removed_cgroups > 0, "nothing is lost");
                staged.lost += lost.removed_cgroups;
                return Ok(false);
            }
            change_event::Event::Synced(synced) => {
                ensure!(
                    staged.rows.is_empty() && staged.removed.is_empty(),
                    "changes before a snapshot is whole"
                );
                self.begin();
                synced.bookmark.context("a snapshot without its bookmark")?
            }
            change_event::Event::Bookmark(bookmark) => {
                ensure!(staged.snapshot.is_empty(), "a snapshot that is not synced");
                ensure!(self.bookmark.is_some(), "a bookmark before there is a snapshot");
                bookmark
            }
        };
        self.commit(bookmark)?;
        Ok(true)
    }

    /// A snapshot is whole: nothing of before counts.
    fn begin(&mut self) {
        self.rows.clear();
        self.bookmark = None;
        self.staged.rows = std::mem::take(&mut self.staged.snapshot);
    }

    fn commit(&mut self, bookmark: Bookmark) -> Result<()> {
        let Staged { rows, removed, lost, .. } = std::mem::take(&mut self.staged);
        if let Some(last) = &self.bookmark {
            ensure!(bookmark.sequence > last.sequence, "tick {} behind {}", bookmark.sequence, last.sequence);
            ensure!(bookmark.boottime_ns > last.boottime_ns, "time goes backward");
        }
        let mut of_tick = BTreeSet::new();
        for sample in rows {
            ensure!(of_tick.insert(sample.cgroup_id), "{} is in a tick twice", sample.path);
            self.rows.insert(sample.cgroup_id, sample);
        }
        for removed in removed {
            let sample = removed.sample.as_ref().context("a removal without its cgroup")?;
            ensure!(self.told_of.insert(sample.cgroup_id), "{} is removed twice", sample.path);
            self.rows.remove(&sample.cgroup_id);
            self.removed.push(removed);
        }
        self.lost += lost;
        self.merged += bookmark.merged_ticks;
        self.bookmark = Some(bookmark);
        Ok(())
    }

    /// What a stream that goes on begins with: only the state as of the last bookmark counts.
    fn resume(&mut self) -> String {
        self.staged = Staged::default();
        self.bookmark.as_ref().map(|bookmark| bookmark.resume_token.clone()).unwrap_or_default()
    }

    /// The number of the last tick.
    pub fn sequence(&self) -> u64 {
        self.bookmark.as_ref().map_or(0, |bookmark| bookmark.sequence)
    }

    /// The row of the cgroup with this path.
    pub fn at(&self, path: &str) -> Option<&CgroupSample> {
        self.rows.values().find(|sample| sample.path == path)
    }

    /// What was told of the removal of the cgroup with this path.
    pub fn removal_of(&self, path: &str) -> Option<&RemovedCgroup> {
        self.removed.iter().find(|removed| removed.sample.as_ref().is_some_and(|sample| sample.path == path))
    }
}

/// A mirror, and the stream that it is of.
#[derive(Debug)]
pub struct Watching {
    /// What was told so far.
    pub mirror: Mirror,
    spec: SubscribeSpec,
    stream: Streaming<SubscribeResponse>,
}

/// Subscribes to what changes on an agent's host.
pub async fn watch(agent: &Daemon, spec: SubscribeSpec) -> Result<Watching> {
    let stream = subscribe(&mut agent.agent()?, spec.clone()).await?;
    Ok(Watching::over(stream, spec))
}

async fn subscribe(
    client: &mut AgentServiceClient<Channel>,
    spec: SubscribeSpec,
) -> Result<Streaming<SubscribeResponse>, Status> {
    let request = SubscribeRequest { interval: None, changes: Some(spec) };
    Ok(client.subscribe(request).await?.into_inner())
}

impl Watching {
    /// A mirror of a stream that was opened for this.
    pub fn over(stream: Streaming<SubscribeResponse>, spec: SubscribeSpec) -> Self {
        Self { mirror: Mirror::default(), spec, stream }
    }

    /// A mirror that goes on where it was, by a stream of its own.
    pub async fn resumed(agent: &Daemon, mut mirror: Mirror, spec: SubscribeSpec) -> Result<Self> {
        let resume_token = mirror.resume();
        let stream = subscribe(&mut agent.agent()?, SubscribeSpec { resume_token, ..spec.clone() }).await?;
        Ok(Self { mirror, spec, stream })
    }

    /// Takes in one part; true if it was the last of a tick.
    pub async fn part(&mut self) -> Result<bool> {
        let message = tokio::time::timeout(PATIENCE, self.stream.message()).await.context("no tick")??;
        match message.context("the stream ended")?.event.context("an empty part")? {
            subscribe_response::Event::Change(change) => self.mirror.apply(change),
            other => anyhow::bail!("part of a whole tick in a stream of changes: {other:?}"),
        }
    }

    /// Takes in what there is up to the end of a tick.
    pub async fn tick(&mut self) -> Result<&Mirror> {
        while !self.part().await? {}
        Ok(&self.mirror)
    }

    /// Takes ticks until this one, or a later one.
    pub async fn until_sequence(&mut self, sequence: u64) -> Result<&Mirror> {
        while self.mirror.sequence() < sequence {
            self.tick().await?;
        }
        Ok(&self.mirror)
    }

    /// Takes ticks until this is true.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Mirror) -> bool) -> Result<&Mirror> {
        let ticks = async {
            while self.mirror.bookmark.is_none() || !is_so(&self.mirror) {
                self.tick().await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::time::timeout(PATIENCE, ticks).await.with_context(|| format!("{what} was not told"))??;
        Ok(&self.mirror)
    }

    /// Gives the stream up, and goes on by another one where the last tick ended.
    pub async fn reconnect(&mut self, agent: &Daemon) -> Result<(), Status> {
        let resume_token = self.mirror.resume();
        let mut client = agent.agent().map_err(|error| Status::internal(error.to_string()))?;
        self.stream = subscribe(&mut client, SubscribeSpec { resume_token, ..self.spec.clone() }).await?;
        Ok(())
    }
}
