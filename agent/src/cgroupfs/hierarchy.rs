//! Mounted hierarchies, and cgroups in them by path.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

/// The inode of the namespace that the kernel starts with: PROC_CGROUP_INIT_INO (include/linux/proc_ns.h).
const INITIAL_CGROUP_NAMESPACE: u64 = 0xEFFF_FFFB;

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The id as in /proc/self/cgroup; 0 is cgroup v2.
    pub id: u32,
    /// Controllers or name as in /proc/self/cgroup; empty for cgroup v2.
    pub name: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The cgroup that the mount shows as its root; 0 if that is not known. A mount made in a cgroup
    /// namespace, or of a part of the tree, begins below the hierarchy's own root.
    pub root_id: u64,
}

impl Hierarchy {
    /// Whether this is the cgroup v2 hierarchy.
    pub fn is_v2(&self) -> bool {
        self.id == 0
    }

    /// Whether the v1 controller is bound to this hierarchy.
    pub fn has_controller(&self, controller: &str) -> bool {
        self.name.split(',').any(|name| name == controller)
    }

    /// The directory of the cgroup with this path; `None` if the mount does not show it, and its path
    /// therefore begins with `/..`.
    pub fn directory(&self, path: &[u8]) -> Option<PathBuf> {
        let below = path.strip_prefix(b"/").unwrap_or(path);
        if leaves_the_tree(below) {
            None
        } else if below.is_empty() {
            Some(self.mount_point.clone())
        } else {
            Some(self.mount_point.join(OsStr::from_bytes(below)))
        }
    }
}

/// Every hierarchy that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    mounted: Vec<Hierarchy>,
    /// As the v2 root's cgroup.controllers names them.
    v2_controllers: Vec<String>,
    has_namespace: bool,
}

/// A cgroup that was found by path.
#[derive(Debug)]
pub struct Located {
    /// Its hierarchy's id.
    pub hierarchy_id: u32,
    /// Its path in the hierarchy, without anything superfluous.
    pub path: Vec<u8>,
    /// Its directory, opened with O_PATH.
    pub directory: File,
    /// Its id: kernfs shows it as the inode number.
    pub cgroup_id: u64,
}

impl Hierarchies {
    /// Reads what is mounted from /proc/self.
    pub fn read() -> Result<Self, HierarchyError> {
        let read = |path: &'static str| fs::read(path).map_err(|source| HierarchyError { path, source });
        let mut found = Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        for hierarchy in &mut found.mounted {
            hierarchy.root_id = fs::metadata(&hierarchy.mount_point).map_or(0, |root| root.ino());
        }
        if let Some(v2) = found.by_id(0) {
            let controllers = fs::read_to_string(v2.mount_point.join("cgroup.controllers"));
            let controllers = controllers.unwrap_or_default();
            found.v2_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        found.has_namespace = fs::metadata("/proc/self/ns/cgroup")
            .is_ok_and(|namespace| namespace.ino() != INITIAL_CGROUP_NAMESPACE);
        Ok(found)
    }

    /// Joins mountinfo (proc_pid_mountinfo(5)) with the ids in /proc/self/cgroup (cgroups(7)).
    fn parse(mountinfo: &[u8], self_cgroup: &[u8]) -> Self {
        let self_cgroup = String::from_utf8_lossy(self_cgroup);
        let ids: Vec<(u32, &str)> = self_cgroup
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':');
                Some((fields.next()?.parse().ok()?, fields.next()?))
            })
            .collect();
        let mut found: Vec<Hierarchy> = Vec::new();
        let mut mounts: Vec<Mount> =
            mountinfo.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect();
        // A hierarchy may be mounted again elsewhere, or a part of it: a container with the host's mount
        // beside its own shall see the host. Of those that show as much, the first is the usual one.
        mounts.sort_by_key(|mount| mount.root_level);
        for mount in mounts {
            let known = if mount.is_v2 {
                Some((0, ""))
            } else {
                // A v1 mount's super options name its controllers, in any order, among other words.
                ids.iter().copied().find(|(_, name)| {
                    !name.is_empty()
                        && name.split(',').all(|part| mount.options.iter().any(|option| option == part))
                })
            };
            let Some((id, name)) = known else { continue };
            if found.iter().all(|hierarchy| hierarchy.id != id) {
                found.push(Hierarchy { id, name: name.to_owned(), mount_point: mount.point, root_id: 0 });
            }
        }
        found.sort_by_key(|hierarchy| hierarchy.id);
        Self { mounted: found, v2_controllers: Vec::new(), has_namespace: false }
    }

    /// Whether this controller is on cgroup v2.
    pub fn has_on_v2(&self, controller: &str) -> bool {
        self.v2_controllers.iter().any(|found| found == controller)
    }

    /// Whether this process is in a cgroup namespace of its own.
    pub fn has_namespace(&self) -> bool {
        self.has_namespace
    }

    /// All of them, cgroup v2 first.
    pub fn iter(&self) -> impl Iterator<Item = &Hierarchy> {
        self.mounted.iter()
    }

    /// The hierarchy with this id.
    pub fn by_id(&self, id: u32) -> Option<&Hierarchy> {
        self.mounted.iter().find(|hierarchy| hierarchy.id == id)
    }

    /// The hierarchy with this name or controller; empty for cgroup v2.
    pub fn by_name(&self, name: &str) -> Option<&Hierarchy> {
        let is_named = |hierarchy: &&Hierarchy| {
            if name.is_empty() {
                hierarchy.is_v2()
            } else {
                hierarchy.name == name || hierarchy.has_controller(name)
            }
        };
        self.mounted.iter().find(is_named)
    }

    /// Finds a cgroup by its path in a hierarchy. An absolute path of a directory below a cgroup
    /// mount names its hierarchy itself, if `hierarchy` is empty.
    pub fn locate(&self, hierarchy: &str, path: &[u8]) -> Result<Located, LocateError> {
        if !path.starts_with(b"/") || path.contains(&0) || leaves_the_tree(path) {
            return Err(LocateError::MalformedPath);
        }
        let mounted_above =
            |hierarchy: &&Hierarchy| Path::new(OsStr::from_bytes(path)).starts_with(&hierarchy.mount_point);
        let by_mount = self.mounted.iter().filter(|_| hierarchy.is_empty()).find(mounted_above);
        let (hierarchy, path) = if let Some(hierarchy) = by_mount {
            let mount_point = hierarchy.mount_point.as_os_str().as_bytes();
            (hierarchy, path.strip_prefix(mount_point).unwrap_or(path))
        } else {
            let hierarchy = self.by_name(hierarchy).ok_or_else(|| LocateError::NoSuchHierarchy {
                hierarchy: hierarchy.to_owned(),
                mounted: self.names(),
            })?;
            (hierarchy, path)
        };
        open(hierarchy, path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => LocateError::Closed(error),
            _ => LocateError::NoSuchCgroup(error),
        })
    }

    /// Opens a cgroup by its path in a hierarchy.
    pub fn locate_in(&self, hierarchy_id: u32, path: &[u8]) -> io::Result<Located> {
        let hierarchy = self.by_id(hierarchy_id).ok_or(io::ErrorKind::NotFound)?;
        open(hierarchy, path)
    }

    /// What `hierarchy` of a target may be, for people.
    fn names(&self) -> String {
        let named = self
            .mounted
            .iter()
            .filter(|hierarchy| !hierarchy.is_v2())
            .map(|hierarchy| hierarchy.name.as_str());
        let v2 = self.mounted.iter().any(Hierarchy::is_v2).then_some("empty (cgroup v2)");
        v2.into_iter().chain(named).collect::<Vec<_>>().join(", ")
    }
}

fn leaves_the_tree(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name == b"..")
}

fn open(hierarchy: &Hierarchy, path: &[u8]) -> io::Result<Located> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let path: Vec<u8> = names.flat_map(|name| [b"/", name].concat()).collect();
    let path = if path.is_empty() { b"/".to_vec() } else { path };
    let directory = hierarchy.directory(&path).ok_or(io::ErrorKind::NotFound)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
    let cgroup_id = directory.metadata()?.ino();
    Ok(Located { hierarchy_id: hierarchy.id, path, directory, cgroup_id })
}

/// What a line of mountinfo says of a cgroup mount.
struct Mount {
    is_v2: bool,
    /// Levels from the root of our cgroup namespace down to the cgroup that is mounted; negative if that
    /// is above it.
    root_level: isize,
    point: PathBuf,
    options: Vec<String>,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        let is_v2 = match *fields.get(separator + 1)? {
            b"cgroup2" => true,
            b"cgroup" => false,
            _ => return None,
        };
        let root = fields.get(3)?.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let root_level = root.map(|name| if name == b".." { -1 } else { 1 }).sum();
        let options = String::from_utf8_lossy(fields.get(separator + 3)?);
        let options = options.split(',').map(str::to_owned).collect();
        Some(Self { is_v2, root_level, point: PathBuf::from(unescape_octal(fields.get(4)?)), options })
    }
}

/// mountinfo writes space, tab, newline and backslash as \ooo.
fn unescape_octal(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes)
}

/// What is mounted cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read {path}: {source}")]
pub struct HierarchyError {
    path: &'static str,
    source: io::Error,
}

/// A path that leads to no cgroup.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// It cannot be a cgroup's path.
    #[error("a cgroup path begins with / and has no .. in it")]
    MalformedPath,
    /// The hierarchy is not mounted here.
    #[error("no such hierarchy {hierarchy}; mounted: {mounted}")]
    NoSuchHierarchy {
        /// The one that was named.
        hierarchy: String,
        /// What is.
        mounted: String,
    },
    /// The directory is closed to the agent's user.
    #[error("the agent may not open it: {0}; ask by id")]
    Closed(io::Error),
    /// There is no such directory.
    #[error("no such cgroup: {0}")]
    NoSuchCgroup(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTINFO: &[u8] = b"\
25 20 0:22 / /proc rw,relatime - proc proc rw
30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 24 0:29 / /mnt/a\\040b rw - cgroup cgroup rw,memory
34 24 0:29 / /mnt/again rw - cgroup cgroup rw,memory
";
    const HYBRID_CGROUP: &[u8] = b"9:name=systemd:/\n4:memory:/x\n2:cpuacct,cpu:/\n0::/init.scope\n";

    #[test]
    fn mounts_are_joined_with_their_ids() {
        let hierarchies = Hierarchies::parse(HYBRID_MOUNTINFO, HYBRID_CGROUP);
        let found: Vec<_> =
            hierarchies.iter().map(|h| (h.id, h.name.as_str(), h.mount_point.to_str().unwrap())).collect();
        let expect = [
            (0, "", "/sys/fs/cgroup/unified"),
            (2, "cpuacct,cpu", "/sys/fs/cgroup/cpu,cpuacct"),
            (4, "memory", "/mnt/a b"),
            (9, "name=systemd", "/sys/fs/cgroup/systemd"),
        ];
        assert_eq!(found, expect);
    }

    #[test]
    fn the_mount_that_shows_most_is_taken() {
        let check = |roots: [&str; 2], expect: &str| {
            let [own, other] = roots.map(|root| format!("{root} /sys/fs/cgroup"));
            let mountinfo = format!(
                "30 24 0:26 {own} rw - cgroup2 cgroup2 rw\n31 24 0:26 {other}-of-host rw - cgroup2 cgroup2 rw\n"
            );
            let hierarchies = Hierarchies::parse(mountinfo.as_bytes(), b"0::/\n");
            assert_eq!(hierarchies.by_id(0).unwrap().mount_point.to_str(), Some(expect), "{roots:?}");
        };
        check(["/", "/"], "/sys/fs/cgroup");
        check(["/", "/.."], "/sys/fs/cgroup-of-host");
        check(["/..", "/../.."], "/sys/fs/cgroup-of-host");
        check(["/", "/a"], "/sys/fs/cgroup");
        check(["/a/b", "/a"], "/sys/fs/cgroup-of-host");
    }

    #[test]
    fn a_hierarchy_has_several_names() {
        let hierarchies = Hierarchies::parse(HYBRID_MOUNTINFO, HYBRID_CGROUP);
        let check =
            |name: &str, id: Option<u32>| assert_eq!(hierarchies.by_name(name).map(|h| h.id), id, "{name}");
        check("", Some(0));
        check("cpu", Some(2));
        check("cpuacct,cpu", Some(2));
        check("name=systemd", Some(9));
        check("pids", None);
    }

    #[test]
    fn a_path_that_could_leave_the_mount_is_refused() {
        let hierarchies = Hierarchies::parse(HYBRID_MOUNTINFO, HYBRID_CGROUP);
        for path in [&b"a"[..], b"", b"/..", b"/a/../../etc", b"/a\0b"] {
            assert!(matches!(hierarchies.locate("", path), Err(LocateError::MalformedPath)), "{path:?}");
        }
    }
}
