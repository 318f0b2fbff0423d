//! The thread that lists the kubelet's log directories: they may be slow, or hang, and nobody who has a path waits
//! for that. Knows no paths, and not when to list.

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{self, SyncSender},
    },
    thread,
    time::Instant,
};

use super::{
    kubelet_logs::{KubeletLogs, Listing},
    lock,
    names::Names,
};

/// Lists for these names. Its thread ends with it.
#[derive(Debug)]
pub(super) struct Lister {
    logs: Arc<KubeletLogs>,
    names: Arc<Mutex<Names>>,
    /// The thread's, once there is a name to be found: this is made before privilege is given up, and that is every
    /// thread's own.
    asks: OnceLock<SyncSender<()>>,
}

impl Lister {
    pub(super) fn new(logs: KubeletLogs, names: Arc<Mutex<Names>>) -> Self {
        Self { logs: Arc::new(logs), names, asks: OnceLock::new() }
    }

    /// Lists here and now.
    pub(super) fn list(&self) {
        let began_at = Instant::now();
        let listing = self.logs.list();
        lock(&self.names).take(listing, began_at);
    }

    /// Has it listed by the thread. Called when the names say so, and they do not again before they have the listing:
    /// two callers never start a thread each, and there is always room for what is asked.
    pub(super) fn ask(&self) {
        if self.asks.get().is_none() {
            let logs = Arc::clone(&self.logs);
            match start(move || logs.list(), Arc::clone(&self.names)) {
                Ok(asks) => drop(self.asks.set(asks)),
                Err(error) => {
                    tracing::warn!(%error, "names of pods or containers are missing: no thread to list them");
                    // So that it is tried again.
                    lock(&self.names).take(Listing::default(), Instant::now());
                }
            }
        }
        if let Some(asks) = self.asks.get() {
            let _ = asks.try_send(());
        }
    }
}

fn start(
    list: impl Fn() -> Listing + Send + 'static,
    names: Arc<Mutex<Names>>,
) -> io::Result<SyncSender<()>> {
    let (asks, queue) = mpsc::sync_channel(1);
    thread::Builder::new().name("kubelet-logs".to_owned()).spawn(move || {
        while queue.recv().is_ok() {
            let began_at = Instant::now();
            let listing = list();
            lock(&names).take(listing, began_at);
        }
    })?;
    Ok(asks)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use cgfleet_model::Workload;

    use super::*;
    use crate::workloads::{Kubelet, Workloads, kubelet_logs::Pod};

    const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";

    #[test]
    fn nobody_waits_for_a_directory_that_hangs() {
        let names: Arc<Mutex<Names>> = Arc::default();
        let (began, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let hangs = move || {
            began.send(()).unwrap();
            released.recv().unwrap();
            let pod = Pod { namespace: "shop".to_owned(), name: "web-0".to_owned() };
            Listing { pods: vec![(UID.to_owned(), pod)], containers: Vec::new() }
        };
        let lister = Lister {
            logs: Arc::new(KubeletLogs::open(Path::new("/nonexistent"))),
            names: Arc::clone(&names),
            asks: OnceLock::from(start(hangs, Arc::clone(&names)).unwrap()),
        };
        let workloads = Workloads(Arc::new(Kubelet { names: Arc::clone(&names), lister }));

        let name = || workloads.of(&format!("/kubepods/pod{UID}")).unwrap().pod_name;
        assert_eq!(name(), None);
        let patience = Duration::from_secs(20);
        begun.recv_timeout(patience).unwrap();
        assert_eq!([name(), name()], [None, None], "it hangs");
        release.send(()).unwrap();
        drop(workloads);
        // The thread ends with the last handle, and all that it was asked for was done.
        assert_eq!(begun.recv_timeout(patience), Err(mpsc::RecvTimeoutError::Disconnected));
        let mut workload = Workload { pod_uid: Some(UID.to_owned()), ..Workload::default() };
        assert!(!lock(&names).add_to(&mut workload, Instant::now()));
        assert_eq!(workload.pod_name.as_deref(), Some("web-0"));
    }
}
