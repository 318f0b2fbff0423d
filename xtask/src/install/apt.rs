//! Debian packages: which of the alternatives apt knows, and how they get installed.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::needs::AptAlternatives;
use crate::command;

/// Installs one alternative of each. Without root and sudo it fails with the command to run.
pub(super) fn install(needs: &[AptAlternatives]) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    let Some(root) = Root::gain() else {
        let preferred: Vec<_> = needs.iter().flat_map(|alternatives| alternatives[0]).copied().collect();
        bail!(
            "packages are missing, and neither root nor sudo without a password is at hand. Run:\n  \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
            preferred.join(" ")
        );
    };
    if !command::succeeds(Command::new("apt-get").arg("--version")) {
        bail!("this machine has no apt-get: install what is missing by its own means and run again");
    }
    command::run(root.command("apt-get").args(["update", "-qq"]))?;
    let packages =
        needs.iter().map(|alternatives| choose(alternatives)).collect::<Result<Vec<_>>>()?.concat();
    if packages.contains(&"postgresql") {
        keep_debian_from_starting_a_cluster(root)?;
    }
    let mut install = root.command("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]);
    // A machine that just booted may be upgrading itself.
    install.args(["-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Options::=--force-confold"]);
    command::run(install.args(packages))
}

fn choose(alternatives: AptAlternatives) -> Result<&'static [&'static str]> {
    let known = |set: &&&[&str]| command::succeeds(Command::new("apt-cache").arg("show").args(**set));
    let first = alternatives.iter().find(known).copied();
    first.with_context(|| format!("apt knows none of {alternatives:?}"))
}

/// Debian's postgresql package makes a cluster and starts it on port 5432 unless this file forbids
/// it. Nobody who runs the demo asked for that.
fn keep_debian_from_starting_a_cluster(root: Root) -> Result<()> {
    let file = Path::new("/etc/postgresql-common/createcluster.conf");
    if file.exists() {
        return Ok(());
    }
    println!("{}: written with create_main_cluster = false, so that no cluster is started", file.display());
    let staged = tempfile::NamedTempFile::new().context("stage createcluster.conf")?;
    fs::write(
        staged.path(),
        "# No cluster on installation: cgfleet runs its own.\ncreate_main_cluster = false\n",
    )?;
    command::run(root.command("install").args(["-D", "-m", "0644"]).arg(staged.path()).arg(file))
}

/// How commands become root's.
#[derive(Clone, Copy)]
enum Root {
    Already,
    Sudo,
}

impl Root {
    fn gain() -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self::Already);
        }
        command::succeeds(Command::new("sudo").args(["-n", "true"])).then_some(Self::Sudo)
    }

    /// No package may ask a question, and a configuration file that is there stays as it is.
    fn command(self, program: &str) -> Command {
        let mut command = match self {
            Self::Already => Command::new("env"),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "env"]);
                sudo
            }
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", "UCF_FORCE_CONFFOLD=1", program]);
        command
    }
}
