//! The hosts that ever registered: who they are, how to reach them, whether their heartbeats arrive.
//!
//! Changes are written to the store; heartbeats live in memory. Must not know gRPC services or SQL.

mod backoff;
mod error;
mod host;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use cgfleet_rpc::channel::InvalidTarget;
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use backoff::Backoff;
pub(crate) use error::CallError;
pub use host::Host;

use crate::store::{HostRecord, Store, StoreError};

/// Hosts read from the store in one statement, when the server starts.
const LOAD_PAGE_HOSTS: u32 = 1000;

/// Every known host.
#[derive(Debug)]
pub struct Hosts {
    store: Store,
    by_id: RwLock<HashMap<Uuid, Arc<Host>>>,
    /// How many there are.
    count: watch::Sender<usize>,
    hosts_max: u32,
    heartbeat_interval: Duration,
}

impl Hosts {
    /// The hosts that the store knows.
    pub async fn load(
        store: Store,
        hosts_max: u32,
        heartbeat_interval: Duration,
    ) -> Result<Self, StoreError> {
        let mut by_id = HashMap::new();
        let mut after: Option<(String, Uuid)> = None;
        loop {
            let page = store
                .list_hosts(after.as_ref().map(|(name, id)| (name.as_str(), *id)), LOAD_PAGE_HOSTS)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some((last.record.hostname.clone(), last.record.host_id));
            for stored in page {
                let host_id = stored.record.host_id;
                match Host::stored(stored) {
                    Ok(host) => drop(by_id.insert(host_id, Arc::new(host))),
                    // It will register again, with an address that works.
                    Err(error) => tracing::warn!(%host_id, %error, "a stored host cannot be reached"),
                }
            }
        }
        let count = watch::Sender::new(by_id.len());
        Ok(Self { store, by_id: RwLock::new(by_id), count, hosts_max, heartbeat_interval })
    }

    /// Takes a registration, or a heartbeat, which looks the same.
    pub async fn register(&self, record: HostRecord) -> Result<Arc<Host>, RegisterError> {
        let host = self.heard_from(&record)?;
        if !host.is_written() {
            self.store.register_host(&record).await?;
            host.written(&record);
            tracing::info!(host_id = %record.host_id, hostname = record.hostname, address = record.address, "registered");
        }
        Ok(host)
    }

    /// One lock for the look and the insertion: a host that registers twice at once is one host.
    fn heard_from(&self, record: &HostRecord) -> Result<Arc<Host>, RegisterError> {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = by_id.get(&record.host_id) {
            host.heard_from(record)?;
            return Ok(Arc::clone(host));
        }
        if by_id.len() >= self.hosts_max as usize {
            return Err(RegisterError::TooMany { hosts_max: self.hosts_max });
        }
        let host = Arc::new(Host::registered(record.clone())?);
        by_id.insert(record.host_id, Arc::clone(&host));
        self.count.send_replace(by_id.len());
        Ok(host)
    }

    /// How many hosts there are; changes when one registers for the first time.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Every host, by name and then by id.
    pub fn all(&self) -> Vec<Arc<Host>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let mut hosts: Vec<Arc<Host>> = by_id.values().cloned().collect();
        hosts.sort_by_cached_key(|host| (host.record().hostname, host.host_id()));
        hosts
    }

    /// Every host but these.
    pub(crate) fn besides(&self, known: &HashSet<Uuid>) -> Vec<Arc<Host>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.values().filter(|host| !known.contains(&host.host_id())).cloned().collect()
    }

    /// The host with this id or, unless several have it, this name.
    pub fn find(&self, name_or_id: &str) -> Result<Arc<Host>, FindError> {
        let named: Vec<Arc<Host>> = match Uuid::parse_str(name_or_id) {
            Ok(host_id) => {
                let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
                by_id.get(&host_id).cloned().into_iter().collect()
            }
            Err(_) => self.all().into_iter().filter(|host| host.record().hostname == name_or_id).collect(),
        };
        match named.as_slice() {
            [] => Err(FindError::Unknown { host: name_or_id.to_owned() }),
            [host] => Ok(Arc::clone(host)),
            several => Err(FindError::Ambiguous {
                host: name_or_id.to_owned(),
                host_ids: several.iter().map(|host| host.host_id()).collect(),
            }),
        }
    }

    /// How often agents are to call.
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval
    }
}

/// A registration that was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The address leads nowhere.
    #[error(transparent)]
    Address(#[from] InvalidTarget),
    /// There is no room.
    #[error("{hosts_max} hosts are registered already (hosts_max)")]
    TooMany {
        /// The limit.
        hosts_max: u32,
    },
    /// It cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A host that cannot be told from its name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FindError {
    /// No host has it.
    #[error("no host has the name or id {host:?}; `cgctl hosts` lists those that registered")]
    Unknown {
        /// The name or id as given.
        host: String,
    },
    /// Several have it.
    #[error("{} hosts are called {host:?}; name one by its id: {}", host_ids.len(), list(host_ids))]
    Ambiguous {
        /// The name as given.
        host: String,
        /// Their ids.
        host_ids: Vec<Uuid>,
    },
}

fn list(host_ids: &[Uuid]) -> String {
    host_ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(", ")
}
