//! The log directory of a simulated node's kubelet: who is told of its pods by name. No log is written.

use std::{fs, io, path::PathBuf};

use super::tree::PodMade;

const NAMESPACE: &str = "shop";

/// The directory.
#[derive(Debug)]
pub(super) struct Kubelet {
    directory: PathBuf,
    pods_made: u64,
}

impl Kubelet {
    /// Makes it.
    pub(super) fn new(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(directory.join("pods"))?;
        fs::create_dir_all(directory.join("containers"))?;
        Ok(Self { directory, pods_made: 0 })
    }

    /// Has entries for these pods. Those of pods that ended stay, as a kubelet's do for a while.
    pub(super) fn add(&mut self, pods: Vec<PodMade>) -> io::Result<()> {
        for PodMade { uid, container_ids } in pods {
            let name = format!("web-{}", self.pods_made);
            self.pods_made += 1;
            fs::create_dir(self.directory.join(format!("pods/{NAMESPACE}_{name}_{uid}")))?;
            for (id, container) in container_ids.iter().zip(["pause", "nginx", "proxy"]) {
                let log = format!("containers/{name}_{NAMESPACE}_{container}-{id}.log");
                fs::write(self.directory.join(log), "")?;
            }
        }
        Ok(())
    }
}
