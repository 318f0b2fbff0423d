//! What runs in cgroups: what their paths say, and the names of pods and containers by the kubelet's log directory.
//!
//! A service of its own, for whoever has a path. Must not know walks or messages.

mod kubelet_logs;
mod lister;
mod names;

use std::{
    borrow::Cow,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use cgfleet_model::{Workload, WorkloadPath};

use kubelet_logs::KubeletLogs;
use lister::Lister;
use names::Names;

/// Says what runs in cgroups.
#[derive(Debug, Clone)]
pub struct Workloads(Arc<Kubelet>);

#[derive(Debug)]
struct Kubelet {
    names: Arc<Mutex<Names>>,
    lister: Lister,
}

impl Workloads {
    /// Names by the kubelet's log directory, which need not be there. Opens what is there of it: then
    /// nothing but that takes the privilege of who calls this. Lists it, and waits for that, so that the pods
    /// that are there have their names from the start. Starts no thread: that is done when one is needed.
    pub fn new(kubelet_log_dir: &Path) -> Self {
        let names = Arc::default();
        let lister = Lister::new(KubeletLogs::open(kubelet_log_dir), Arc::clone(&names));
        lister.list();
        Self(Arc::new(Kubelet { names, lister }))
    }

    /// What runs in the cgroup of this path, as text with `\xHH`; `None` if nothing is known. Waits for no directory:
    /// the names of a pod that was met just now are missing, and are there a moment later.
    pub fn of(&self, path: &str) -> Option<Workload> {
        self.named(WorkloadPath::of(path).into_workload())
    }

    /// The same for many paths, cheaper the more often one has the parent of the one before.
    pub fn of_many(&self) -> Many<'_> {
        Many { workloads: self, above: String::new(), read: WorkloadPath::default(), workload: None }
    }

    fn named(&self, mut workload: Workload) -> Option<Workload> {
        // Only names of pods' are looked up.
        if workload.pod_uid.is_some() {
            let Kubelet { names, lister } = &*self.0;
            let is_listing_due = lock(names).add_to(&mut workload, Instant::now());
            if is_listing_due {
                lister.ask();
            }
        }
        (!workload.is_empty()).then_some(workload)
    }
}

/// Held for as long as maps are read or added to, and never while a directory is.
fn lock(names: &Mutex<Names>) -> MutexGuard<'_, Names> {
    // What is behind the lock is whole even where its holder panicked: maps that only grow.
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What runs in many cgroups, whose paths come in any order.
#[derive(Debug)]
pub struct Many<'a> {
    workloads: &'a Workloads,
    /// The parent of the last path.
    above: String,
    read: WorkloadPath,
    /// What runs in the parent.
    workload: Option<Workload>,
}

impl Many<'_> {
    /// What runs in the cgroup of this path; as [`Workloads::of`].
    pub fn of(&mut self, path: &str) -> Option<Cow<'_, Workload>> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        if above != self.above {
            above.clone_into(&mut self.above);
            self.read = WorkloadPath::of(above);
            self.workload = self.workloads.named(self.read.workload().clone());
        }
        match self.read.below(name) {
            Some(workload) => self.workloads.named(workload).map(Cow::Owned),
            None => self.workload.as_ref().map(Cow::Borrowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";
    const ID: &str = "8d7c5b0a5a7c4a1c9c6b0e6f2b1d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d";

    #[test]
    fn paths_get_the_names_of_the_log_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(format!("pods/shop_web-0_{UID}"))).unwrap();
        fs::create_dir(dir.path().join("containers")).unwrap();
        fs::write(dir.path().join(format!("containers/web-0_shop_nginx-{ID}.log")), "").unwrap();
        let workloads = Workloads::new(dir.path());
        let paths = [
            "/".to_owned(),
            "/kubepods".to_owned(),
            format!("/kubepods/pod{UID}"),
            format!("/kubepods/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}/{ID}/below"),
            format!("/kubepods/pod{UID}/other"),
            "/system.slice/ssh.service".to_owned(),
            "/a".to_owned(),
            "a".to_owned(),
            String::new(),
        ];
        let mut many = workloads.of_many();
        let found: Vec<_> = paths
            .iter()
            .map(|path| {
                let workload = workloads.of(path);
                assert_eq!(many.of(path).map(Cow::into_owned), workload, "{path}");
                let names = workload.map(|workload| (workload.pod_name, workload.container_name));
                names.map(|(pod, container)| (pod.unwrap_or_default(), container.unwrap_or_default()))
            })
            .collect();
        let named = |pod: &str, container: &str| Some((pod.to_owned(), container.to_owned()));
        let (pod, container) = (named("web-0", ""), named("web-0", "nginx"));
        let expect =
            [None, None, pod.clone(), container.clone(), container, pod, named("", ""), None, None, None];
        assert_eq!(found, expect);
    }

    #[test]
    fn without_a_log_directory_a_path_says_what_it_says() {
        let workloads = Workloads::new(Path::new("/nonexistent"));
        let workload = workloads.of(&format!("/kubepods/pod{UID}/{ID}")).unwrap();
        assert_eq!((workload.pod_uid.as_deref(), workload.pod_name), (Some(UID), None));
    }
}
