//! Debian's packages, unpacked and never installed, through lists of our own: no root is needed and
//! the machine's apt stays as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::sources;
use crate::command;

/// apt with its own lists and cache.
pub(super) struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Knows what the machine's sources offer.
    pub(super) fn with_sources_of_machine(directory: PathBuf) -> Result<Self> {
        Self::new(directory, Vec::new())
    }

    /// Knows this suite alone, from where the machine has its own release.
    pub(super) fn with_suite(directory: PathBuf, suite: &str) -> Result<Self> {
        let stanza = sources::stanza_of(suite)?;
        let parts = directory.join("sources.list.d");
        fs::create_dir_all(&parts).with_context(|| format!("make {}", parts.display()))?;
        fs::write(parts.join("suite.sources"), stanza)?;
        let only = vec![
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={}", parts.display()),
        ];
        Self::new(directory, only)
    }

    fn new(directory: PathBuf, mut options: Vec<String>) -> Result<Self> {
        for below in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(below);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        options.push(format!("Dir::State::lists={}/lists", directory.display()));
        options.push(format!("Dir::Cache={}/cache", directory.display()));
        options.push("Acquire::Languages=none".to_owned());
        // The user _apt, to which root's apt switches, may not reach this directory.
        options.push("APT::Sandbox::User=root".to_owned());
        Ok(Self { directory, options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    /// Fetches the lists.
    pub(super) fn update(&self) -> Result<()> {
        command::run(self.command("apt-get").args(["update", "-qq"]))
    }

    /// The packages whose names start so, one a line.
    pub(super) fn names(&self, prefix: &str) -> Result<String> {
        command::capture(self.command("apt-cache").args(["pkgnames", prefix]))
    }

    /// Whether the package can be had.
    pub(super) fn knows(&self, package: &str) -> bool {
        command::succeeds(self.command("apt-cache").args(["show", package]))
    }

    /// What the package depends on, as its control file has it.
    pub(super) fn depends(&self, package: &str) -> Result<String> {
        let shown = command::capture(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "));
        Ok(depends.unwrap_or_default().to_owned())
    }

    /// Downloads the package and unpacks its files.
    pub(super) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let downloads = tempfile::tempdir_in(&self.directory).context("make a directory for a package")?;
        let mut download = self.command("apt-get");
        command::run(download.args(["download", "-qq", package]).current_dir(downloads.path()))?;
        let file = fs::read_dir(downloads.path())?.next();
        let file = file.with_context(|| format!("apt-get download {package} left no file"))??.path();
        command::run(Command::new("dpkg").arg("-x").arg(file).arg(into))
    }
}
