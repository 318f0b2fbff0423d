//! What a daemon does as root, and how it stops being root: it is given directories of its user's own,
//! then gives up every privilege for good.
//!
//! Owns users, capabilities and the check that they are gone. Must not know what the daemons are for.

mod directory;
mod error;
mod status;

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User, getegid, geteuid, setgroups, setresgid, setresuid, setuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

pub use self::error::PrivilegeError;
use self::status::Status;

/// What this process may do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its effective capabilities, as capabilities(7) names them.
    pub capabilities: Vec<String>,
    /// Whether it can gain no more.
    pub no_new_privs: bool,
}

impl Held {
    /// Asks the kernel.
    pub fn now() -> Result<Self, PrivilegeError> {
        let status = Status::read()?;
        let names = CapabilitySet::from_bits_retain(status.effective());
        Ok(Self {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            capabilities: names.iter_names().map(|(name, _)| format!("CAP_{name}")).collect(),
            no_new_privs: status.no_new_privs,
        })
    }
}

/// As whom a daemon runs once it has done what needs privilege.
#[derive(Debug)]
pub struct RunAs {
    /// `None` if this process is not root: then it stays who it is.
    user: Option<User>,
    /// The directories that it must be able to enter.
    directories: Vec<PathBuf>,
}

impl RunAs {
    /// `user`, if this process is root; otherwise whoever it is.
    pub fn resolve(user: &str) -> Result<Self, PrivilegeError> {
        let user = if geteuid().is_root() { Some(unprivileged(user)?) } else { None };
        Ok(Self { user, directories: Vec::new() })
    }

    /// Whom it will be: user and group; `None` if that is who it is already.
    pub fn ids(&self) -> Option<(u32, u32)> {
        self.user.as_ref().map(|user| (user.uid.as_raw(), user.gid.as_raw()))
    }

    /// Makes the state directory `path`, closed to others, and gives it to the user. One that is there
    /// already must be empty or the user's: a directory of somebody else is not taken over.
    ///
    /// What is in it must not be touched before [`drop_privileges`](Self::drop_privileges): a user could
    /// by links have root do so to other files.
    pub fn own_directory(&mut self, path: &Path) -> Result<(), PrivilegeError> {
        directory::make(path)?;
        let Some(user) = &self.user else { return Ok(()) };
        directory::give(path, user)?;
        self.directories.push(path.to_owned());
        Ok(())
    }

    /// Becomes the user, gives up all capabilities and the ways to new ones, and checks that it is so.
    ///
    /// The kernel keeps capabilities per thread, and threads inherit them, so there must be one thread.
    pub fn drop_privileges(self) -> Result<(), PrivilegeError> {
        let threads = Status::read()?.threads;
        if threads != 1 {
            return Err(PrivilegeError::Threads { threads });
        }
        let bounding_emptied = empty_bounding_set()?;
        if let Some(user) = &self.user {
            // The groups first: whoever is not root cannot change them.
            setgroups(&[]).map_err(refused("leave root's groups"))?;
            setresgid(user.gid, user.gid, user.gid).map_err(refused("become the user's group"))?;
            setresuid(user.uid, user.uid, user.uid).map_err(refused("become the user"))?;
        }
        clear_ambient_capability_set().map_err(refused("clear ambient capabilities"))?;
        let nothing = CapabilitySet::empty();
        let sets = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
        set_capabilities(None, sets).map_err(refused("clear capabilities"))?;
        set_no_new_privs(true).map_err(refused("set no_new_privs"))?;
        self.verify(bounding_emptied)?;
        for path in &self.directories {
            if let Some(closed) = directory::first_closed(path) {
                return Err(PrivilegeError::Unreachable { user: self.name(), closed });
            }
        }
        tracing::info!(user = self.name(), "gave up all privileges");
        Ok(())
    }

    /// Asks the kernel what is left.
    fn verify(&self, bounding_emptied: bool) -> Result<(), PrivilegeError> {
        let regained = setuid(Uid::from_raw(0)).is_ok();
        let status = Status::read()?;
        let found = [
            ("a way back to root", regained || status.uids.contains(&0)),
            ("capabilities", status.held() != 0),
            ("the capability bounding set", bounding_emptied && status.bounding != 0),
            ("a way to new privileges", !status.no_new_privs),
            ("another user or group", self.user.as_ref().is_some_and(|user| !status.is_only(user))),
        ];
        match found.into_iter().find(|(_, held)| *held) {
            Some((held, _)) => Err(PrivilegeError::StillHeld { held }),
            None => Ok(()),
        }
    }

    /// For people.
    fn name(&self) -> String {
        self.user.as_ref().map_or_else(|| format!("with id {}", geteuid()), |user| user.name.clone())
    }
}

fn unprivileged(name: &str) -> Result<User, PrivilegeError> {
    let user = User::from_name(name)
        .map_err(|source| PrivilegeError::UserLookup { user: name.to_owned(), source })?
        .ok_or_else(|| PrivilegeError::UserUnknown { user: name.to_owned() })?;
    if user.uid.is_root() {
        return Err(PrivilegeError::UserIsRoot { user: name.to_owned() });
    }
    Ok(user)
}

/// Empties the set that bounds what an executed program may gain. `false` if that is not ours to do: it
/// takes CAP_SETPCAP, without which no_new_privs alone keeps executed programs from gaining anything.
fn empty_bounding_set() -> Result<bool, PrivilegeError> {
    let operation = "empty the capability bounding set";
    if !capabilities(None).map_err(refused(operation))?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(false);
    }
    let bounding = Status::read()?.bounding;
    for bit in (0..u64::BITS).map(|position| 1 << position).filter(|bit| bounding & bit != 0) {
        remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit))
            .map_err(refused(operation))?;
    }
    Ok(true)
}

fn refused<E: Into<io::Error>>(operation: &'static str) -> impl Fn(E) -> PrivilegeError {
    move |source| PrivilegeError::Refused { operation, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_is_none_or_root_is_refused() {
        let refused = |user: &str| unprivileged(user).unwrap_err().to_string();
        assert!(refused("nobody-of-this-name").contains("\"nobody-of-this-name\" does not exist"));
        assert!(refused("root").contains("does not run as root"));
        assert_eq!(unprivileged("nobody").unwrap().name, "nobody");
    }

    #[test]
    fn a_process_of_several_threads_keeps_its_privileges_and_says_so() {
        let refused = RunAs::resolve("nobody").unwrap().drop_privileges().unwrap_err();
        assert!(matches!(refused, PrivilegeError::Threads { threads: 2.. }), "{refused}");
    }
}
