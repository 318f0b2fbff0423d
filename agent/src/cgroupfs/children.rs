//! A cgroup's children by its directory: which there are, and theirs.

use std::{
    ffi::CString,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, fstat, openat},
    io::Errno,
};

/// A cgroup in its parent's directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// Its id: kernfs shows it as the inode number.
    pub cgroup_id: u64,
    /// What the directory calls it.
    pub name: CString,
}

/// The children of the cgroup with this directory, in the order in which they were made, which is the
/// order of a walk too: ids only grow (fs/kernfs/dir.c, __kernfs_new_node). A cgroup that is gone has none.
pub fn children(directory: BorrowedFd<'_>) -> io::Result<Vec<Child>> {
    let mut children = Vec::new();
    // The directory's own descriptor is O_PATH, which cannot be read from.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = match openat(directory, c".", flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(children),
        readable => readable?,
    };
    for entry in Dir::new(readable)? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let name = entry.file_name();
        let is_child = entry.file_type() == FileType::Directory && name != c"." && name != c"..";
        if is_child {
            children.push(Child { cgroup_id: entry.ino(), name: name.to_owned() });
        }
    }
    children.sort();
    Ok(children)
}

/// The directory of a child; `None` if it is gone, or another has its name. By the parent's directory
/// and not by path: a path can be longer than the kernel takes.
pub fn open_child(parent: BorrowedFd<'_>, child: &Child) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(parent, &child.name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let is_it = fstat(&directory)?.st_ino == child.cgroup_id;
    Ok(is_it.then_some(directory))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd as _, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn children_are_directories_and_in_the_order_of_their_ids() {
        let root = tempfile::tempdir().unwrap();
        let names = ["b", "a", "c"];
        let made = names.map(|name| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            Child { cgroup_id: fs::metadata(&path).unwrap().ino(), name: CString::new(name).unwrap() }
        });
        fs::write(root.path().join("file"), "").unwrap();
        let directory = fs::File::open(root.path()).unwrap();
        let found = children(directory.as_fd()).unwrap();
        assert!(found.is_sorted_by_key(|child| child.cgroup_id));
        assert_eq!(found.len(), 3);
        assert!(made.iter().all(|child| found.contains(child)), "{found:?}");
    }

    #[test]
    fn a_child_that_is_gone_or_another_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        let directory = fs::File::open(root.path()).unwrap();
        let child = children(directory.as_fd()).unwrap().remove(0);
        assert!(open_child(directory.as_fd(), &child).unwrap().is_some());
        let another = Child { cgroup_id: child.cgroup_id + 1, ..child.clone() };
        assert!(open_child(directory.as_fd(), &another).unwrap().is_none());
        fs::remove_dir(root.path().join("a")).unwrap();
        assert!(open_child(directory.as_fd(), &child).unwrap().is_none());
    }
}
