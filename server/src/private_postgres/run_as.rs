//! As whom Postgres runs: never as root, whoever the server is.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::unistd::{User, geteuid};
use tokio::process::Command;

use super::PrivatePostgresError;

/// The identity of Postgres's processes and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunAs {
    /// The server's own user, which is not root and cannot become another.
    SameUser,
    /// An unprivileged user, because the server is root.
    User { name: String, uid: u32, gid: u32 },
}

impl RunAs {
    /// `user`, if the server is root.
    pub(super) fn resolve(user: &str) -> Result<Self, PrivatePostgresError> {
        if !geteuid().is_root() {
            return Ok(Self::SameUser);
        }
        let found = User::from_name(user)
            .map_err(|source| PrivatePostgresError::UserLookup { user: user.to_owned(), source })?
            .ok_or_else(|| PrivatePostgresError::UserUnknown { user: user.to_owned() })?;
        if found.uid.is_root() {
            return Err(PrivatePostgresError::UserIsRoot { user: user.to_owned() });
        }
        Ok(Self::User { name: user.to_owned(), uid: found.uid.as_raw(), gid: found.gid.as_raw() })
    }

    /// A command of that user, in `dir`, with no input and none of the server's environment: PGPORT,
    /// PGDATA or a locale of it would reach into Postgres.
    pub(super) fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(dir)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if let Self::User { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Makes a directory that only this user can enter, or takes the one that is there.
    pub(super) fn make_private_dir(&self, path: &Path) -> Result<(), PrivatePostgresError> {
        let failed =
            |source| PrivatePostgresError::StateDir { operation: "make", path: path.to_owned(), source };
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        if let Self::User { uid, gid, .. } = self {
            chown(path, Some(*uid), Some(*gid)).map_err(failed)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
    }

    /// Checks that this user can enter `dir`, by having it run `program` there.
    pub(super) async fn check_can_enter(
        &self,
        dir: &Path,
        program: &Path,
    ) -> Result<(), PrivatePostgresError> {
        let Self::User { name, uid, gid } = self else { return Ok(()) };
        let run = self.command(program, dir).arg("--version").stdout(Stdio::null()).status().await;
        match run {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let closed = first_closed(dir, *uid, *gid).unwrap_or_else(|| dir.to_owned());
                Err(PrivatePostgresError::Unreachable { user: name.clone(), closed })
            }
            Err(source) => Err(PrivatePostgresError::Run { program: program.to_owned(), source }),
            Ok(_) => Ok(()),
        }
    }
}

/// The topmost directory on the way to `dir` whose mode keeps the user out.
fn first_closed(dir: &Path, uid: u32, gid: u32) -> Option<PathBuf> {
    let ancestors: Vec<&Path> = dir.ancestors().collect();
    let closed = |path: &&Path| {
        fs::metadata(path).is_ok_and(|found| {
            let bit = match (found.uid() == uid, found.gid() == gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            found.mode() & bit == 0
        })
    };
    ancestors.into_iter().rev().find(closed).map(Path::to_owned)
}
