//! A daemon's configuration to test with, and one call of `load` with all its sources.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use cgfleet_config::{Checked, Daemon, DaemonCommand, HumanDuration, InvalidValue, Outcome, load};
use expect_test::Expect;
use tempfile::TempDir;

/// What the tests configure: one key of each kind.
#[derive(Debug, PartialEq, confique::Config)]
pub(crate) struct ExampleConfig {
    /// The address to serve on.
    /// It is a loopback address unless insecure.
    #[config(default = "127.0.0.1:7401")]
    pub(crate) listen_address: SocketAddr,
    /// Serve other hosts without TLS.
    #[config(default = false)]
    pub(crate) insecure: bool,
    /// Log each walk.
    pub(crate) verbose: Option<bool>,
    /// The host's name.
    #[config(default = "localhost")]
    pub(crate) hostname: String,
    /// The most hosts.
    #[config(default = 8)]
    pub(crate) hosts_max: u16,
    /// The time between two samples.
    #[config(default = "10s")]
    pub(crate) sample_interval: HumanDuration,
    /// Cgroups to leave out.
    #[config(default = ["init.scope"])]
    pub(crate) excludes: Vec<String>,
    /// Where state is kept.
    pub(crate) state_dir: Option<PathBuf>,
    /// The database; without it a private one | in the state directory.
    #[config(env = "DATABASE_URL")]
    pub(crate) database_url: Option<String>,
}

impl Checked for ExampleConfig {
    fn check(&self) -> Result<(), InvalidValue> {
        if !self.insecure && !self.listen_address.ip().is_loopback() {
            return Err(InvalidValue::new("listen_address", "a loopback address, or any with --insecure"));
        }
        if self.hosts_max == 0 {
            return Err(InvalidValue::new("hosts_max", "1 or more"));
        }
        if self.verbose == Some(true) && self.state_dir.is_none() {
            return Err(InvalidValue::new("state_dir", "a directory when verbose is set"));
        }
        if self.database_url.as_deref().is_some_and(|url| !url.starts_with("postgres")) {
            return Err(InvalidValue::new("database_url", "a URL that begins with postgres://"));
        }
        Ok(())
    }
}

/// The sources of one call of `load`. Its directory holds the file, and stands as `DIR` in what is expected.
pub(crate) struct Case {
    pub(crate) dir: TempDir,
    pub(crate) args: Vec<String>,
    pub(crate) env: HashMap<String, OsString>,
}

impl Case {
    pub(crate) fn new(args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { dir: tempfile::tempdir().unwrap(), args, env: HashMap::new() }
    }

    pub(crate) fn file(self, text: &str) -> Self {
        std::fs::write(self.dir.path().join("example.toml"), text).unwrap();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn daemon(&self) -> Daemon {
        Daemon {
            name: "cgfleet-example",
            about: "An example.",
            version: "1.2.3",
            env_prefix: "CGFLEET_EXAMPLE_",
            default_file: self.dir.path().join("example.toml").to_str().unwrap().to_owned().leak(),
            commands: &[DaemonCommand { name: "pack", about: "Packs all state." }],
        }
    }

    /// The outcome, or the error's text.
    pub(crate) fn outcome(&self) -> Result<Outcome<ExampleConfig>, String> {
        let dir = self.dir.path().to_str().unwrap();
        let args = self.args.iter().map(|arg| arg.replace("DIR", dir));
        let args = std::iter::once("cgfleet-example".to_owned()).chain(args);
        let env = |name: &str| {
            let value = self.env.get(name)?.clone();
            Some(value.to_str().map_or(value.clone(), |text| text.replace("DIR", dir).into()))
        };
        load(&self.daemon(), args, env).map_err(|error| error.to_string())
    }

    pub(crate) fn config(&self) -> ExampleConfig {
        match self.outcome() {
            Ok(Outcome::Run(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn printed(&self) -> String {
        match self.outcome() {
            Ok(Outcome::Print(text)) => text.replace(self.dir.path().to_str().unwrap(), "DIR"),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn refused(&self, expect: &Expect) {
        let error = self.outcome().expect_err("this configuration is refused");
        let error = error.replace(self.dir.path().to_str().unwrap(), "DIR");
        assert!(!error.contains('\n'), "not one line: {error}");
        expect.assert_eq(&error);
    }
}
