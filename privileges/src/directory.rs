//! A directory of a user's own: made and given by root, without touching what is in it.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{fd::AsFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::User;
use rustix::fs::{Access, Dir, Gid, Mode, OFlags, Uid, access, fchown, fstat, open};

use super::PrivilegeError;

/// For the owner alone.
const PRIVATE: u32 = 0o700;

/// Makes `path`, unless it is there, and what is missing above it.
pub(super) fn make(path: &Path) -> Result<(), PrivilegeError> {
    let above = path.parent().map_or(Ok(()), fs::create_dir_all);
    match above.and_then(|()| DirBuilder::new().mode(PRIVATE).create(path)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", path)(error)),
        _ => Ok(()),
    }
}

/// Gives the directory to `user`, unless it is somebody else's.
pub(super) fn give(path: &Path, user: &User) -> Result<(), PrivilegeError> {
    // By a descriptor, so that what was looked at is what is given; and a link is not followed, as it
    // might be another's who wants root to give him a directory.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = open(path, flags, Mode::empty()).map_err(failed("open", path))?;
    let owner = fstat(&directory).map_err(failed("look at", path))?.st_uid;
    if owner == user.uid.as_raw() {
        return Ok(());
    }
    if owner != Uid::ROOT.as_raw() || !is_empty(&directory).map_err(failed("read", path))? {
        return Err(PrivilegeError::OthersDirectory {
            path: path.to_owned(),
            owner,
            user: user.name.clone(),
        });
    }
    let (uid, gid) = (Uid::from_raw(user.uid.as_raw()), Gid::from_raw(user.gid.as_raw()));
    fchown(&directory, Some(uid), Some(gid)).map_err(failed("give away", path))
}

fn is_empty(directory: impl AsFd) -> rustix::io::Result<bool> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The topmost directory on the way to `path` that this process may not enter.
pub(super) fn first_closed(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find(|path| access(*path, Access::EXEC_OK).is_err()).map(Path::to_owned)
}

fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl Fn(E) -> PrivilegeError {
    move |source| PrivilegeError::Directory { operation, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, chown, symlink};

    use super::*;

    fn nobody() -> User {
        User::from_name("nobody").unwrap().unwrap()
    }

    fn owner(path: &Path) -> u32 {
        fs::metadata(path).unwrap().uid()
    }

    /// As a daemon does it.
    fn own(path: &Path) -> Result<(), PrivilegeError> {
        make(path)?;
        give(path, &nobody())
    }

    #[test]
    fn a_new_or_empty_directory_is_given_and_stays_given() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b/new");
        own(&new).unwrap();
        assert_eq!(owner(&new), nobody().uid.as_raw());
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, PRIVATE);
        assert_eq!(owner(new.parent().unwrap()), 0, "what is above it stays root's");
        fs::write(new.join("file"), "").unwrap();
        own(&new).unwrap();
        assert_eq!(owner(&new.join("file")), 0, "what is in it is not touched");

        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        own(&empty).unwrap();
        assert_eq!(owner(&empty), nobody().uid.as_raw());
    }

    #[test]
    fn what_is_anothers_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, expect: &str| {
            let path = dir.path().join(name);
            let before = fs::metadata(&path).unwrap().uid();
            let refused = own(&path).unwrap_err().to_string();
            assert!(refused.contains(expect) && !refused.contains('\n'), "{refused}");
            assert_eq!(owner(&path), before);
        };
        fs::create_dir_all(dir.path().join("roots/etc")).unwrap();
        check("roots", "/roots belongs to the user with id 0 and is not empty: choose another state_dir");
        fs::create_dir(dir.path().join("others")).unwrap();
        chown(dir.path().join("others"), Some(4321), None).unwrap();
        check("others", "belongs to the user with id 4321");
        fs::create_dir(dir.path().join("linked")).unwrap();
        symlink(dir.path().join("linked"), dir.path().join("link")).unwrap();
        check("link", "state_dir must be a directory");
        fs::write(dir.path().join("file"), "").unwrap();
        check("file", "state_dir must be a directory");
        assert!(own(&dir.path().join("file/below")).is_err());
    }
}
