//! The cgroups that the demo asks about: a leaf, what is above it, and what their own files say.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::verify::Usage;

/// The most cgroups that are looked at for the deepest.
const CGROUPS_MAX: usize = 10_000;

/// How cgctl writes and reads a backslash, which systemd puts into names.
const BACKSLASH: &str = "\\x5c";

/// A cgroup of the v2 hierarchy with those above it, by paths as cgctl has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subject {
    mount: PathBuf,
    /// The topmost cgroup that is asked about as a whole, by its path from the hierarchy's root.
    pub(super) top: String,
    /// At or below it, the cgroup whose ancestors and history are asked for.
    pub(super) leaf: String,
}

impl Subject {
    pub(super) fn new(mount: &Path, top: String, leaf: String) -> Self {
        Self { mount: mount.to_owned(), top, leaf }
    }

    /// Cgroups that are there without us: this process's own, which stays as long as the demo, or, if that
    /// is the root, the deepest.
    pub(super) fn found(mount: &Path) -> Result<Self> {
        let text = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        let own = own_cgroup(&text).filter(|own| *own != "/" && mount.join(&own[1..]).is_dir());
        let leaf = own.map_or_else(|| deepest(mount), |own| Ok(own.to_owned()))?.replace('\\', BACKSLASH);
        Ok(Self::new(mount, leaf.clone(), leaf))
    }

    /// The leaf and its ancestors, each with its cpu.stat's usage_usec now; the root only if there is
    /// nothing else.
    pub(super) fn usage_of_ancestors(&self) -> Result<Usage> {
        let cgroups = Path::new(&self.leaf).ancestors();
        let cgroups = cgroups.filter(|path| path.parent().is_some() || self.leaf == "/");
        let read = cgroups.map(|path| {
            let text = path.display().to_string();
            let below = text.trim_start_matches('/').replace(BACKSLASH, "\\");
            let file = self.mount.join(below).join("cpu.stat");
            let stat = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
            let usage = usage.with_context(|| format!("no usage_usec in {}", file.display()))?;
            Ok((text, usage))
        });
        read.collect()
    }
}

/// The v2 cgroup of a /proc/PID/cgroup (cgroups(7)).
fn own_cgroup(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'))
}

/// The path of the cgroup that is furthest from the root; of several the first that is found. Names that
/// are no text are passed over: they would have to be escaped.
fn deepest(mount: &Path) -> Result<String> {
    let mut deepest = (0, "/".to_owned());
    let mut waiting = vec![(0, String::new())];
    let mut looked_at = 0;
    while let Some((level, path)) = waiting.pop().filter(|_| looked_at < CGROUPS_MAX) {
        looked_at += 1;
        let directory = mount.join(path.trim_start_matches('/'));
        if level == 0 && !directory.is_dir() {
            anyhow::bail!("{} is no directory", directory.display());
        }
        // One that was removed meanwhile, or is closed to us, has nothing for us.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if let (true, Some(name)) = (is_directory, entry.file_name().to_str()) {
                waiting.push((level + 1, format!("{path}/{name}")));
            }
        }
        if level > deepest.0 {
            deepest = (level, path);
        }
    }
    Ok(deepest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_line_names_our_own_cgroup() {
        let check = |text: &str, expect| assert_eq!(own_cgroup(text), expect, "{text}");
        check("9:name=systemd:/x\n4:memory:/y\n0::/user.slice/a b\n", Some("/user.slice/a b"));
        check("0::/\n", Some("/"));
        check("4:memory:/y\n", None);
    }

    #[test]
    fn the_deepest_cgroup_is_found_and_without_any_it_is_the_root() {
        let mount = tempfile::tempdir().unwrap();
        assert_eq!(deepest(mount.path()).unwrap(), "/");
        fs::write(mount.path().join("cpu.stat"), "usage_usec 99\n").unwrap();
        let root = Subject::new(mount.path(), "/".to_owned(), "/".to_owned());
        assert_eq!(root.usage_of_ancestors().unwrap(), [("/".to_owned(), 99)].into());
        for path in ["a", "b/c/d", "b/e"] {
            fs::create_dir_all(mount.path().join(path)).unwrap();
        }
        fs::write(mount.path().join("b/c/d/cpu.stat"), "usage_usec 5\nuser_usec 3\n").unwrap();
        for (below, usage) in [("b", 70), ("b/c", 6)] {
            fs::write(mount.path().join(below).join("cpu.stat"), format!("usage_usec {usage}\n")).unwrap();
        }
        let leaf = deepest(mount.path()).unwrap();
        assert_eq!(leaf, "/b/c/d");
        fs::rename(mount.path().join("b/c"), mount.path().join("b/c\\x2d")).unwrap();
        let leaf = r"/b/c\x5cx2d/d".to_owned();
        let usage = Subject::new(mount.path(), leaf.clone(), leaf).usage_of_ancestors().unwrap();
        let expect = [("/b", 70), (r"/b/c\x5cx2d", 6), (r"/b/c\x5cx2d/d", 5)]
            .map(|(path, usage)| (path.to_owned(), usage));
        assert_eq!(usage, expect.into());
        assert!(deepest(&mount.path().join("nowhere")).is_err());
    }
}
