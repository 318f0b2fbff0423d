//! Where this checkout and its build products are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The packages whose programs a user starts.
pub(crate) const DAEMONS_AND_CLIENT: [&str; 3] = ["cgfleet-server", "cgfleet-agent", "cgctl"];

/// The directories that the tasks work in.
pub(crate) struct Checkout {
    /// The workspace's root.
    pub(crate) root: PathBuf,
    /// Cargo's target directory. Tools of ours (`venv`, `buf`) live there too: `cargo clean` removes them.
    pub(crate) target: PathBuf,
    /// This program.
    pub(crate) xtask: PathBuf,
}

impl Checkout {
    pub(crate) fn locate() -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask/ has no parent directory")?;
        let xtask = env::current_exe().context("find the program that runs")?;
        let target = xtask.ancestors().nth(2).context("xtask does not run from target/<profile>/")?;
        Ok(Self { root: root.to_path_buf(), target: target.to_path_buf(), xtask: xtask.clone() })
    }

    /// A program of the profile that xtask itself was built in.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.xtask.with_file_name(name)
    }

    /// A program of the Python environment that `install` makes.
    pub(crate) fn venv_program(&self, name: &str) -> PathBuf {
        self.target.join("venv/bin").join(name)
    }

    /// Where `install` puts buf.
    pub(crate) fn buf(&self) -> PathBuf {
        self.target.join("buf/node_modules/.bin/buf")
    }
}
