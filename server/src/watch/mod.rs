//! What changes on many hosts, as one stream: a subscription to each host's agent, opened again whenever it
//! breaks.
//!
//! `progress` decides what is told of a host, and is pure; `host_stream` reads it from the agent. Nothing is
//! kept here: the client has its positions, the agents their history. Must not know how hosts are chosen, nor
//! what it is that changes.

mod host_stream;
mod progress;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use cgfleet_proto::v1::{FleetServiceSubscribeResponse, SubscribeSpec};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::Instrument as _;
use uuid::Uuid;

use self::host_stream::HostStream;
use crate::hosts::{Host, Hosts};

/// Parts that wait for a slow reader; the hosts' streams are not read meanwhile, and their agents merge what they
/// have to say.
pub(crate) const WAITING_PARTS_MAX: usize = 16;

/// Whose changes are wanted.
#[derive(Debug)]
pub(crate) enum Chosen {
    Some(Vec<Arc<Host>>),
    /// Those too that register later.
    All(Arc<Hosts>),
}

/// What is wanted of each host.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) spec: SubscribeSpec,
    /// Where to go on, by host.
    pub(crate) positions: HashMap<Uuid, String>,
    /// How long a host may take to open its stream.
    pub(crate) host_timeout: Duration,
}

/// Tells of every host until nobody takes the parts any more.
pub(crate) async fn watch_all(
    chosen: Chosen,
    wanted: Wanted,
    parts: mpsc::Sender<FleetServiceSubscribeResponse>,
) {
    let Wanted { spec, mut positions, host_timeout } = wanted;
    // Dropped with this, and the hosts' calls with it.
    let mut streams = JoinSet::new();
    let mut start = |host: Arc<Host>| {
        let position = positions.remove(&host.host_id());
        let stream = HostStream::new(host, spec.clone(), position, host_timeout, parts.clone());
        streams.spawn(stream.keep_reading().in_current_span());
    };
    match chosen {
        Chosen::Some(hosts) => {
            hosts.into_iter().for_each(&mut start);
            parts.closed().await;
        }
        Chosen::All(hosts) => {
            let (mut count, mut known) = (hosts.count(), HashSet::new());
            loop {
                count.borrow_and_update();
                for host in hosts.besides(&known) {
                    known.insert(host.host_id());
                    start(host);
                }
                tokio::select! {
                    Ok(()) = count.changed() => {}
                    () = parts.closed() => return,
                }
            }
        }
    }
}
