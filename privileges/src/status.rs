//! What the kernel says that this process is and may do: /proc/self/status (proc_pid_status(5)).

use std::{fs, io};

use nix::unistd::User;

use super::PrivilegeError;

/// The lines of it that are about privilege.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) threads: u32,
    /// Real, effective, saved set, and of the filesystem.
    pub(super) uids: Vec<u32>,
    gids: Vec<u32>,
    groups: Vec<u32>,
    inheritable: u64,
    permitted: u64,
    effective: u64,
    ambient: u64,
    pub(super) bounding: u64,
    pub(super) no_new_privs: bool,
}

impl Status {
    pub(super) fn read() -> Result<Self, PrivilegeError> {
        let text = fs::read_to_string("/proc/self/status").map_err(PrivilegeError::Status)?;
        let incomplete = || io::Error::other("it lacks what proc_pid_status(5) promises");
        Self::parse(&text).ok_or_else(incomplete).map_err(PrivilegeError::Status)
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
            pairs.find(|(name, _)| *name == key).map(|(_, value)| value.trim())
        };
        let ids =
            |key| value(key)?.split_whitespace().map(|id| id.parse().ok()).collect::<Option<Vec<u32>>>();
        let capabilities = |key| u64::from_str_radix(value(key)?, 16).ok();
        Some(Self {
            threads: value("Threads")?.parse().ok()?,
            uids: ids("Uid")?,
            gids: ids("Gid")?,
            groups: ids("Groups")?,
            inheritable: capabilities("CapInh")?,
            permitted: capabilities("CapPrm")?,
            effective: capabilities("CapEff")?,
            ambient: capabilities("CapAmb")?,
            bounding: capabilities("CapBnd")?,
            no_new_privs: value("NoNewPrivs")? == "1",
        })
    }

    /// The capabilities in any set but the bounding one.
    pub(super) fn held(&self) -> u64 {
        self.inheritable | self.permitted | self.effective | self.ambient
    }

    /// The capabilities that count for what is allowed.
    pub(super) fn effective(&self) -> u64 {
        self.effective
    }

    /// Whether every id is the user's, with no group beside its own.
    pub(super) fn is_only(&self, user: &User) -> bool {
        let only = |ids: &[u32], id: u32| ids.iter().all(|found| *found == id);
        only(&self.uids, user.uid.as_raw()) && only(&self.gids, user.gid.as_raw()) && self.groups.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tagent\nUid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t5\nGroups:\t7 8 \nThreads:\t1\n\
         CapInh:\t0000000000000001\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000000\n\
         CapBnd:\t0000000000000002\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";

    #[test]
    fn a_status_is_read_whole_or_not_at_all() {
        let expect = Status {
            threads: 1,
            uids: vec![1, 2, 3, 4],
            gids: vec![5; 4],
            groups: vec![7, 8],
            inheritable: 1,
            permitted: 0x1ff_feff_ffff,
            effective: 0,
            ambient: 0,
            bounding: 2,
            no_new_privs: true,
        };
        assert_eq!(Status::parse(TEXT), Some(expect));
        for line in TEXT.lines().skip(1) {
            assert_eq!(Status::parse(&TEXT.replace(line, "Other:\t0")), None, "without {line}");
        }
    }
}
