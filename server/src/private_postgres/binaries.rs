//! Where Postgres is installed, and which version.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::PrivatePostgresError;

/// Debian keeps one directory per major version here.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

const PROGRAMS: [&str; 2] = ["initdb", "postgres"];

/// An installed Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    /// The major version as PG_VERSION would say it, for example `15`.
    pub(super) major: String,
}

impl Binaries {
    /// The Postgres in `bin_dir`; or else the one whose version is `preferred`; or else the newest of
    /// Debian's; or else the first in PATH.
    pub(super) async fn find(
        bin_dir: Option<&Path>,
        preferred: Option<&str>,
    ) -> Result<Self, PrivatePostgresError> {
        if let Some(dir) = bin_dir {
            return Self::choose(vec![dir.to_owned()], preferred, &dir.display().to_string()).await;
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = debian_dirs(Path::new(DEBIAN_ROOT)).into_iter().chain(env::split_paths(&path));
        Self::choose(dirs.collect(), preferred, &format!("{DEBIAN_ROOT}/*/bin and PATH")).await
    }

    async fn choose(
        dirs: Vec<PathBuf>,
        preferred: Option<&str>,
        searched: &str,
    ) -> Result<Self, PrivatePostgresError> {
        let mut first = None;
        for dir in dirs.into_iter().filter(|dir| PROGRAMS.iter().all(|program| dir.join(program).is_file())) {
            let major = major_of(&dir.join("postgres")).await?;
            let found = Self { dir, major };
            if preferred.is_none_or(|preferred| preferred == found.major) {
                return Ok(found);
            }
            first.get_or_insert(found);
        }
        first.ok_or_else(|| PrivatePostgresError::BinariesMissing { searched: searched.to_owned() })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Every `ROOT/<major>/bin`, the newest first.
fn debian_dirs(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    majors.sort_unstable_by(|one, other| other.cmp(one));
    majors.into_iter().map(|major| root.join(major.to_string()).join("bin")).collect()
}

async fn major_of(postgres: &Path) -> Result<String, PrivatePostgresError> {
    let output = Command::new(postgres)
        .arg("--version")
        .output()
        .await
        .map_err(|source| PrivatePostgresError::Run { program: postgres.to_owned(), source })?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    parse_major(&answer)
        .ok_or_else(|| PrivatePostgresError::VersionUnreadable { program: postgres.to_owned(), answer })
}

/// The major version in what `postgres --version` prints.
fn parse_major(answer: &str) -> Option<String> {
    let version = answer.strip_prefix("postgres (PostgreSQL) ")?;
    let major: String = version.chars().take_while(char::is_ascii_digit).collect();
    (!major.is_empty()).then_some(major)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_version_is_read_to_its_major() {
        let check =
            |answer, expect: Option<&str>| assert_eq!(parse_major(answer).as_deref(), expect, "{answer}");
        check("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some("15"));
        check("postgres (PostgreSQL) 18beta1", Some("18"));
        check("postgres (PostgreSQL) devel", None);
        check("", None);
    }

    /// A directory with an installation per major version, as Debian lays it out.
    fn installed(majors: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for major in majors {
            let dir = root.path().join(major).join("bin");
            fs::create_dir_all(&dir).unwrap();
            for program in PROGRAMS {
                let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {major}.1'\n");
                fs::write(dir.join(program), script).unwrap();
                fs::set_permissions(dir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        root
    }

    #[tokio::test]
    async fn the_version_of_the_data_goes_before_the_newest() {
        let root = installed(&["9", "15", "17"]);
        let choose = async |preferred| {
            Binaries::choose(debian_dirs(root.path()), preferred, "here").await.map(|found| found.major)
        };
        assert_eq!(choose(None).await.unwrap(), "17");
        assert_eq!(choose(Some("15")).await.unwrap(), "15");
        assert_eq!(choose(Some("16")).await.unwrap(), "17");
        let error = Binaries::choose(Vec::new(), None, "nowhere").await.unwrap_err().to_string();
        assert!(
            error.contains("not found in nowhere") && error.contains("install the package postgresql"),
            "{error}"
        );
    }
}
