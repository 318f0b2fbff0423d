//! Cgroups of our own, and work in them.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// A directory of cgroups, removed with everything in it on drop.
#[derive(Debug)]
pub struct TestTree {
    root: PathBuf,
    mount_point: PathBuf,
    children: Vec<Child>,
}

impl TestTree {
    /// Makes a directory on cgroup v2.
    pub fn v2() -> Result<Self> {
        Self::on(&mount_point("cgroup2", "")?)
    }

    /// Makes a directory on the v1 hierarchy of this controller; `None` if the host has none.
    pub fn v1(controller: &str) -> Result<Option<Self>> {
        mount_point("cgroup", controller).ok().map(|mount_point| Self::on(&mount_point)).transpose()
    }

    /// Makes a directory of the same path on the v1 hierarchy of this controller; `None` if the host has
    /// none, or has it in a hierarchy where such a directory is already.
    pub fn beside_on_v1(&self, controller: &str) -> Result<Option<Self>> {
        let Ok(mount_point) = mount_point("cgroup", controller) else { return Ok(None) };
        let root = mount_point.join(self.root.strip_prefix(&self.mount_point)?);
        if root.exists() {
            return Ok(None);
        }
        Self::at(root, &mount_point).map(Some)
    }

    /// Whether both are in one hierarchy, as of cpu and cpuacct, which are often mounted together.
    pub fn is_in_hierarchy_of(&self, other: &Self) -> bool {
        self.mount_point == other.mount_point
    }

    /// Makes a directory in this one, whose paths begin here.
    pub fn on(mount_point: &Path) -> Result<Self> {
        Self::at(mount_point.join(unique_name()), mount_point)
    }

    fn at(root: PathBuf, mount_point: &Path) -> Result<Self> {
        fs::create_dir(&root).with_context(|| format!("make cgroup {}", root.display()))?;
        Ok(Self { root, mount_point: mount_point.to_owned(), children: Vec::new() })
    }

    /// The directory of the tree's root, or of a cgroup below it.
    pub fn directory(&self, below: &str) -> PathBuf {
        if below.is_empty() { self.root.clone() } else { self.root.join(below) }
    }

    /// The cgroup path of the tree's root, or of a cgroup below it.
    pub fn path(&self, below: &str) -> String {
        let directory = self.directory(below);
        let below_mount = directory.strip_prefix(&self.mount_point).unwrap_or(&directory);
        format!("/{}", below_mount.display())
    }

    /// Makes a cgroup below the root, with those above it.
    pub fn make(&self, below: &str) -> Result<u64> {
        fs::create_dir_all(self.directory(below)).with_context(|| format!("make cgroup {below}"))?;
        self.id(below)
    }

    /// Lets the children of a cgroup have every controller that it has itself (cgroup v2 alone knows this).
    pub fn enable_controllers(&self, below: &str) -> Result<()> {
        let directory = self.directory(below);
        let Ok(controllers) = fs::read_to_string(directory.join("cgroup.controllers")) else { return Ok(()) };
        for controller in controllers.split_whitespace() {
            let enabled = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            enabled.with_context(|| format!("enable {controller} in {}", directory.display()))?;
        }
        Ok(())
    }

    /// The kernel's id of a cgroup.
    pub fn id(&self, below: &str) -> Result<u64> {
        Ok(fs::metadata(self.directory(below))?.ino())
    }

    /// Starts a process in the cgroup that uses about a tenth of a CPU until the tree is dropped.
    pub fn work_in(&mut self, below: &str) -> Result<()> {
        self.run_in(below, "while :; do i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done; sleep 0.09; done")
    }

    /// Starts a process in the cgroup that only is there until the tree is dropped.
    pub fn rest_in(&mut self, below: &str) -> Result<()> {
        self.run_in(below, "exec sleep 86400")
    }

    /// Starts a process that goes through these cgroups, one after the other, and waits until it has.
    pub fn visit(&mut self, cgroups: impl IntoIterator<Item = String>) -> Result<()> {
        let directories = cgroups.into_iter().map(|below| self.directory(&below));
        let script = "for cgroup do echo $$ > \"$cgroup/cgroup.procs\" || exit 1; done";
        let visited = Command::new("sh").args(["-c", script, "sh"]).args(directories).status()?;
        ensure!(visited.success(), "the visitor did not come through: {visited}");
        Ok(())
    }

    /// Starts a shell that goes into the cgroup and then does this.
    fn run_in(&mut self, below: &str, script: &str) -> Result<()> {
        let child = Command::new("sh")
            .args(["-c", &format!("echo $$ > \"$0/cgroup.procs\"; {script}")])
            .arg(self.directory(below))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id().to_string();
        self.children.push(child);
        let procs = self.directory(below).join("cgroup.procs");
        let patience = Instant::now() + Duration::from_secs(5);
        while !fs::read_to_string(&procs)?.lines().any(|line| line == pid) {
            if Instant::now() > patience {
                bail!("the worker never came to {}", procs.display());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Ends the processes that were started here. As long as nobody waited for one, it keeps its cgroup.
    pub fn end_workers(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
    }

    /// `usage_usec` of cpu.stat.
    pub fn cpu_stat_usage_usec(&self, below: &str) -> Result<u64> {
        let text = fs::read_to_string(self.directory(below).join("cpu.stat"))?;
        let value = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(value.context("cpu.stat has no usage_usec")?.parse()?)
    }
}

impl Drop for TestTree {
    fn drop(&mut self) {
        self.end_workers();
        if let Err(error) = remove(&self.root) {
            eprintln!("test cgroups stay behind in {}: {error}", self.root.display());
        }
    }
}

/// A controller of each cgroup v1 hierarchy that has controllers and is mounted.
pub fn v1_controllers() -> Result<Vec<String>> {
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let names = cgroups.lines().filter_map(|line| line.split(':').nth(1)?.split(',').next());
    let bound = names.filter(|name| !name.is_empty() && !name.starts_with("name="));
    Ok(bound.filter(|name| mount_point("cgroup", name).is_ok()).map(str::to_owned).collect())
}

/// A cgroup v1 hierarchy of our own: named, without controllers, and so to be had on every kernel.
#[derive(Debug)]
pub struct NamedV1 {
    tree: TestTree,
    // Behind the tree, which has to be removed first.
    mount: Mount,
}

#[derive(Debug)]
struct Mount {
    name: String,
    point: tempfile::TempDir,
}

impl NamedV1 {
    /// Mounts it. Daemons read what is mounted when they start, so this comes before them.
    pub fn mount() -> Result<Self> {
        let point = crate::daemon::state_dir()?;
        let name = unique_name();
        let options = format!("none,name={name}");
        let mounted =
            Command::new("mount").args(["-t", "cgroup", "-o", &options, "none"]).arg(point.path()).status();
        if !mounted.context("run mount")?.success() {
            bail!("mount -t cgroup -o {options} {}", point.path().display());
        }
        let mount = Mount { name, point };
        Ok(Self { tree: TestTree::on(mount.point.path())?, mount })
    }

    /// What requests call the hierarchy.
    pub fn hierarchy(&self) -> String {
        format!("name={}", self.mount.name)
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        self.mount.point.path()
    }

    /// A tree in it.
    pub fn tree(&self) -> &TestTree {
        &self.tree
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !Command::new("umount").arg(self.point.path()).status().is_ok_and(|status| status.success()) {
            eprintln!("the hierarchy {} stays mounted on {}", self.name, self.point.path().display());
        }
    }
}

/// What no other test calls anything.
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("cgfleet-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes a cgroup and those below it. A process that was just killed may need a moment to leave.
fn remove(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < patience => {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}

/// Where this kind of cgroup filesystem is mounted; of v1, with this controller.
fn mount_point(kind: &str, controller: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, fs_kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let bound = controller.is_empty() || options.split(',').any(|option| option == controller);
        (fs_kind == kind && bound).then(|| PathBuf::from(point))
    });
    found.next().with_context(|| format!("no {kind} {controller} is mounted"))
}
