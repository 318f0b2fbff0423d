//! The kubelet's log directory, whose entries' names say which pods and containers there are. No file is read.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Dir, Mode, OFlags, open};

/// The most entries of a directory that are read: some 100 pods a node are usual.
const ENTRIES_MAX: usize = 16_384;

/// Where the kubelet logs: `/var/log`.
#[derive(Debug)]
pub(super) struct KubeletLogs {
    pods: Directory,
    containers: Directory,
}

/// What the names of a log directory's entries say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// By uid.
    pub(super) pods: Vec<(String, Pod)>,
    /// Names by id.
    pub(super) containers: Vec<(String, String)>,
}

/// What a pod is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl KubeletLogs {
    /// Opens what is there.
    pub(super) fn open(path: &Path) -> Self {
        Self {
            pods: Directory::open(path.join("pods")),
            containers: Directory::open(path.join("containers")),
        }
    }

    /// Lists the pods and containers; of what cannot be read there are none.
    pub(super) fn list(&self) -> Listing {
        Listing { pods: self.pods.list(pod_of), containers: self.containers.list(container_of) }
    }
}

/// A directory that may be made, or made anew, at any time.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Of the privileged start, for a directory that is closed to the agent's user.
    held: Option<OwnedFd>,
}

impl Directory {
    fn open(path: PathBuf) -> Self {
        let held = readable(&path).ok();
        Self { path, held }
    }

    fn list<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        self.try_list(parse).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(path = %self.path.display(), %error, "names of pods or containers are missing");
            }
            Vec::new()
        })
    }

    fn try_list<T>(&self, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
        let directory = match (readable(&self.path), &self.held) {
            (Err(error), Some(held)) if error.kind() == io::ErrorKind::PermissionDenied => {
                held.as_fd().try_clone_to_owned()?
            }
            (directory, _) => directory?,
        };
        let mut entries = Dir::new(directory)?;
        // The clone is where the last reader of the held one stopped.
        entries.rewind();
        let mut names = Vec::new();
        for entry in entries.take(ENTRIES_MAX) {
            names.extend(text(entry?.file_name()).and_then(&parse));
        }
        Ok(names)
    }
}

fn readable(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A name of which all is as Kubernetes writes names, hashes and uids.
fn text(name: &CStr) -> Option<&str> {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    name.to_str().ok().filter(|name| name.bytes().all(is_usual))
}

/// `<namespace>_<pod>_<uid>` (pkg/kubelet/kuberuntime/helpers.go, `BuildPodLogsDirectory`).
fn pod_of(entry: &str) -> Option<(String, Pod)> {
    let mut parts = entry.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none() && [namespace, name, uid].iter().all(|part| !part.is_empty());
    let pod = || Pod { namespace: namespace.to_owned(), name: name.to_owned() };
    is_whole.then(|| (uid.to_ascii_lowercase(), pod()))
}

/// `<pod>_<namespace>_<container>-<id>.log` (pkg/kubelet/kuberuntime/legacy.go, `logSymlink`). It cuts what is
/// longer than a file name, and then the end of the id is missing and there is no name by it.
fn container_of(entry: &str) -> Option<(String, String)> {
    let mut parts = entry.strip_suffix(".log")?.split('_').skip(2);
    let (last, None) = (parts.next()?, parts.next()) else { return None };
    let (name, id) = last.rsplit_once('-')?;
    (!name.is_empty() && id.len() == 64).then(|| (id.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "8d7c5b0a5a7c4a1c9c6b0e6f2b1d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d";

    #[test]
    fn a_pods_directory_names_it() {
        let check = |entry: &str, expect: Option<[&str; 3]>| {
            let found = pod_of(entry);
            let found = found.as_ref().map(|(uid, pod)| [uid, &pod.namespace, &pod.name].map(String::as_str));
            assert_eq!(found, expect, "{entry}");
        };
        let uid = "74c13223-5a00-11e9-b385-42010a80018d";
        check(&format!("shop_web-0.a_{uid}"), Some([uid, "shop", "web-0.a"]));
        let hash = "5a1b6cd0f5ea9e8d54b3b0a1d9a2c7e4";
        check(&format!("kube-system_etcd-node_{hash}"), Some([hash, "kube-system", "etcd-node"]));
        check("shop_web-0", None);
        check("shop_web-0_", None);
        check("shop_web_0_uid", None);
        check(".", None);
    }

    #[test]
    fn a_containers_link_names_it() {
        let check = |entry: &str, expect: Option<(&str, &str)>| {
            let found = container_of(entry);
            assert_eq!(found.as_ref().map(|(id, name)| (id.as_str(), name.as_str())), expect, "{entry}");
        };
        check(&format!("web-0_shop_nginx-{ID}.log"), Some((ID, "nginx")));
        check(&format!("web-0_shop_side-car-2-{ID}.log"), Some((ID, "side-car-2")));
        check(&format!("web-0_shop_nginx-{}.log", &ID[..40]), None);
        check(&format!("web-0_shop_nginx-{ID}"), None);
        check(&format!("web-0_nginx-{ID}.log"), None);
        check(&format!("web-0_shop_-{ID}.log"), None);
        check(&format!("a_b_c_d-{ID}.log"), None);
    }

    #[test]
    fn a_directory_is_listed_again_and_again_also_when_it_was_made_later() {
        let dir = tempfile::tempdir().unwrap();
        let logs = KubeletLogs::open(dir.path());
        assert_eq!(logs.list(), Listing::default());
        fs::create_dir_all(dir.path().join("pods/a_b_c")).unwrap();
        fs::create_dir_all(dir.path().join("pods/größe_b_c")).unwrap();
        fs::create_dir_all(dir.path().join("containers")).unwrap();
        fs::write(dir.path().join(format!("containers/b_a_d-{ID}.log")), "").unwrap();
        let pod = Pod { namespace: "a".to_owned(), name: "b".to_owned() };
        let expect =
            Listing { pods: vec![("c".to_owned(), pod)], containers: vec![(ID.to_owned(), "d".to_owned())] };
        assert_eq!([logs.list(), logs.list()], [expect.clone(), expect]);
    }

    #[test]
    fn a_held_directory_is_read_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a_b_c")).unwrap();
        let held = readable(dir.path()).unwrap();
        for _ in 0..2 {
            let mut entries = Dir::new(held.try_clone().unwrap()).unwrap();
            entries.rewind();
            let names = entries.filter(|entry| entry.as_ref().unwrap().file_name() == c"a_b_c");
            assert_eq!(names.count(), 1);
        }
    }
}
