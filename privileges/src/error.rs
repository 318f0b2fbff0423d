//! Why a daemon cannot do without privilege: one line each, with how to mend it.

use std::{io, path::PathBuf};

/// Privileges that cannot be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// There is no such user.
    #[error("user {user:?} does not exist: make it, or set user to another unprivileged user of this host")]
    UserUnknown {
        /// Its name.
        user: String,
    },
    /// The user database cannot be read.
    #[error("look up user {user:?}: {source}")]
    UserLookup {
        /// Its name.
        user: String,
        /// Why it failed.
        source: nix::Error,
    },
    /// That user has privileges itself.
    #[error("a daemon does not run as root: set user to an unprivileged user instead of {user:?}")]
    UserIsRoot {
        /// Its name.
        user: String,
    },
    /// The directory cannot be made or given.
    #[error("{operation} state directory {}: {source}; state_dir must be a directory that the daemon may write to, \
         and no link to one", path.display())]
    Directory {
        /// What was being done.
        operation: &'static str,
        /// To which.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The directory is in use by somebody else.
    #[error(
        "state directory {path} belongs to the user with id {owner} and is not empty: choose another state_dir, or \
         give it to the daemon's user (chown -R {user} {path})",
        path = path.display()
    )]
    OthersDirectory {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
        /// The daemon's user.
        user: String,
    },
    /// The user cannot enter its directory.
    #[error(
        "user {user:?}, as whom the daemon is to run, cannot enter {}: allow it (chmod o+x), or configure a state \
         directory elsewhere",
        closed.display()
    )]
    Unreachable {
        /// The user.
        user: String,
        /// The directory that is closed to it.
        closed: PathBuf,
    },
    /// Other threads would keep theirs.
    #[error("this process has {threads} threads; only one of a single thread can give up its privileges")]
    Threads {
        /// How many there are.
        threads: u32,
    },
    /// The kernel does not allow it.
    #[error(
        "{operation}: {source}; start the daemon as an unprivileged user, or as root with CAP_SETUID, CAP_SETGID and \
         CAP_CHOWN"
    )]
    Refused {
        /// What was being done.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel allowed it and it is not so.
    #[error(
        "{held} is still there after all privileges were given up; start the daemon as an unprivileged user"
    )]
    StillHeld {
        /// What.
        held: &'static str,
    },
    /// The kernel does not tell.
    #[error("read /proc/self/status: {0}; mount procfs on /proc")]
    Status(io::Error),
}
