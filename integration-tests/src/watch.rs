//! A client of a stream of changes from many hosts, which takes a tick when its bookmark has come.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_proto::v1::{
    Bookmark, CgroupOrder, CgroupSample, ChangeEvent, ErrorReason, FleetServiceSubscribeRequest,
    FleetServiceSubscribeResponse, HostChange, HostChangeKind, HostPosition, HostSelector, SubscribeSpec,
    WalkSpec, change_event, fleet_service_client::FleetServiceClient,
    fleet_service_subscribe_response::Event,
};
use cgfleet_rpc::channel::Channel;
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::{
    daemon::Daemon,
    walk::{by_path, spec, walk},
};

/// How long something may take to come: longer than a connection that is dead is taken for alive.
const PATIENCE: Duration = Duration::from_mins(1);

/// Every host.
pub fn everywhere() -> HostSelector {
    HostSelector { all: true, ..HostSelector::default() }
}

/// What this subtree looks like, without what changes by itself.
pub fn structure_of(path: &str) -> SubscribeSpec {
    let fields = ["structure.populated", "structure.frozen", "structure.nr_descendants"];
    let read_mask = Some(prost_types::FieldMask { paths: fields.map(str::to_owned).to_vec() });
    SubscribeSpec { target: Some(by_path(path)), read_mask, ..SubscribeSpec::default() }
}

/// A stream that is read, and what is known from it.
#[derive(Debug)]
pub struct Watching {
    stream: Streaming<FleetServiceSubscribeResponse>,
    /// By name.
    pub hosts: BTreeMap<String, Watched>,
}

/// What is known of a host.
#[derive(Debug, Default)]
pub struct Watched {
    /// Its id.
    pub host_id: String,
    /// What became of its stream, and why.
    pub changes: Vec<(HostChangeKind, Option<ErrorReason>)>,
    /// The rows as of the last bookmark, by cgroup id.
    pub rows: BTreeMap<u64, CgroupSample>,
    /// Paths of what was removed.
    pub removed: Vec<String>,
    /// Every bookmark.
    pub bookmarks: Vec<Bookmark>,
    /// Whole snapshots that came. One may be without rows, if it is from before the subtree was made.
    pub snapshots: usize,
    /// What came behind the last bookmark.
    waiting: Vec<change_event::Event>,
}

impl Watching {
    /// Opens a stream.
    pub async fn open(server: &Daemon, request: FleetServiceSubscribeRequest) -> Result<Self> {
        Self::open_through(server.fleet()?, request).await
    }

    /// Opens a stream of this client.
    pub async fn open_through(
        mut client: FleetServiceClient<Channel>,
        request: FleetServiceSubscribeRequest,
    ) -> Result<Self> {
        Ok(Self { stream: client.subscribe(request).await?.into_inner(), hosts: BTreeMap::new() })
    }

    /// Reads until this is true of what is known.
    pub async fn until(&mut self, what: &str, check: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !check(self) {
            let Ok(part) = timeout_at(deadline, self.stream.message()).await else {
                bail!("{what} did not come within {PATIENCE:?}: {:#?}", self.hosts)
            };
            self.take(part?.context("the stream ended")?)?;
        }
        Ok(())
    }

    /// What is known of this host; nothing, if nothing came.
    pub fn host(&self, name: &str) -> &Watched {
        static NOTHING: Watched = Watched::new();
        self.hosts.get(name).unwrap_or(&NOTHING)
    }

    /// Where a client would go on.
    pub fn positions(&self) -> Vec<HostPosition> {
        let position = |host: &Watched| {
            let resume_token = host.bookmarks.last()?.resume_token.clone();
            Some(HostPosition { host_id: host.host_id.clone(), resume_token })
        };
        self.hosts.values().filter_map(position).collect()
    }

    fn take(&mut self, part: FleetServiceSubscribeResponse) -> Result<()> {
        let host = self.hosts.entry(part.hostname).or_default();
        host.host_id = part.host_id;
        match part.event.context("an empty part")? {
            Event::Host(change) => host.change(change),
            Event::Change(ChangeEvent { event }) => host.event(event.context("an empty change")?)?,
        }
        Ok(())
    }
}

impl Watched {
    const fn new() -> Self {
        Self {
            host_id: String::new(),
            changes: Vec::new(),
            rows: BTreeMap::new(),
            removed: Vec::new(),
            bookmarks: Vec::new(),
            snapshots: 0,
            waiting: Vec::new(),
        }
    }

    /// What became of its stream last.
    pub fn last_change(&self) -> Option<HostChangeKind> {
        self.changes.last().map(|(kind, _)| *kind)
    }

    /// Paths of the rows.
    pub fn paths(&self) -> BTreeSet<String> {
        self.rows.values().map(|sample| sample.path.clone()).collect()
    }

    fn change(&mut self, change: HostChange) {
        let kind = change.kind();
        match kind {
            HostChangeKind::Lost => self.waiting.clear(),
            HostChangeKind::Relist => {
                self.waiting.clear();
                self.rows.clear();
            }
            _ => {}
        }
        self.changes.push((kind, change.error.map(|error| error.reason())));
    }

    fn event(&mut self, event: change_event::Event) -> Result<()> {
        let bookmark = match &event {
            change_event::Event::Synced(synced) => {
                self.snapshots += 1;
                synced.bookmark.clone().context("synced without bookmark")?
            }
            change_event::Event::Bookmark(bookmark) => bookmark.clone(),
            _ => {
                self.waiting.push(event);
                return Ok(());
            }
        };
        if let Some(last) = self.bookmarks.last().filter(|last| last.agent_epoch == bookmark.agent_epoch) {
            ensure!(last.sequence < bookmark.sequence, "a tick twice: {last:?}, {bookmark:?}");
        }
        for event in std::mem::take(&mut self.waiting) {
            self.apply(event);
        }
        self.bookmarks.push(bookmark);
        Ok(())
    }

    fn apply(&mut self, event: change_event::Event) {
        match event {
            change_event::Event::Snapshot(batch) | change_event::Event::Update(batch) => {
                self.rows.extend(batch.samples.into_iter().map(|sample| (sample.cgroup_id, sample)));
            }
            change_event::Event::Removed(batch) => {
                for sample in batch.cgroups.into_iter().filter_map(|removed| removed.sample) {
                    self.rows.remove(&sample.cgroup_id);
                    self.removed.push(sample.path);
                }
            }
            _ => {}
        }
    }
}

/// A subtree now, by cgroup id, as rows of [`structure_of`] it have it.
pub async fn structure_now(agent: &Daemon, path: &str) -> Result<BTreeMap<u64, CgroupSample>> {
    let read_mask = structure_of(path).read_mask;
    let spec = WalkSpec { read_mask, ..spec(by_path(path), CgroupOrder::DescendantsPre) };
    let samples = walk(agent, spec).await?.samples;
    Ok(samples.into_iter().map(|sample| (sample.cgroup_id, sample)).collect())
}
