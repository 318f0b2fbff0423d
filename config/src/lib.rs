//! The one configuration system of all daemons: defaults < TOML file < environment < flags.
//!
//! A daemon writes a flat struct, derives [`confique::Config`] for it and calls [`load`]. Every flag, environment
//! variable, line of `--help`, `--print-config` and the reference ([`markdown`]) is derived from that struct: its
//! field names, doc comments and defaults. This crate owns the sources, their precedence and the words of every
//! error about them; it must not know what any key means.
//!
//! ```
//! use cgfleet_config::{Checked, Daemon, HumanDuration, InvalidValue, Outcome};
//!
//! #[derive(confique::Config)]
//! struct AgentConfig {
//!     /// The address to serve gRPC on.
//!     #[config(default = "127.0.0.1:7401")]
//!     listen_address: std::net::SocketAddr,
//!     /// Serve other hosts without TLS.
//!     #[config(default = false)]
//!     insecure: bool,
//!     /// The time between two samples.
//!     #[config(default = "10s")]
//!     sample_interval: HumanDuration,
//! }
//!
//! impl Checked for AgentConfig {
//!     fn check(&self) -> Result<(), InvalidValue> {
//!         if self.insecure || self.listen_address.ip().is_loopback() {
//!             return Ok(());
//!         }
//!         Err(InvalidValue::new("listen_address", "a loopback address, or any with --insecure"))
//!     }
//! }
//!
//! const DAEMON: Daemon = Daemon {
//!     name: "cgfleet-agent",
//!     about: "Answers for the cgroups of this host.",
//!     version: "0.1.0",
//!     env_prefix: "CGFLEET_AGENT_",
//!     default_file: "/etc/cgfleet/agent.toml",
//!     commands: &[],
//! };
//!
//! # fn main() -> Result<(), cgfleet_config::ConfigError> {
//! let args = ["cgfleet-agent", "--sample-interval", "5s"];
//! let outcome = cgfleet_config::load::<AgentConfig>(&DAEMON, args, |_variable| None)?;
//! let Outcome::Run(config) = outcome else { panic!("nothing was asked to be printed") };
//! assert_eq!(config.sample_interval.get().as_secs(), 5);
//! # Ok(())
//! # }
//! ```

mod duration;
mod error;
mod field;
mod file;
mod flags;
mod render;
mod secret;
mod settings;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use confique::Config;

pub use duration::{HumanDuration, InvalidDuration};
pub use error::{ConfigError, InvalidValue};
pub use render::markdown;

use flags::{Action, Parsed};
use settings::{Given, Origin, Settings};

/// What a daemon is called, and where its configuration may come from.
#[derive(Debug, Clone, Copy)]
pub struct Daemon {
    /// The name of the binary, such as `cgfleet-agent`.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// The version for `--version`.
    pub version: &'static str,
    /// The environment variable of key `x` is this prefix and `X`, unless the struct says `#[config(env = "…")]`.
    pub env_prefix: &'static str,
    /// The file read when neither `--config` nor `{env_prefix}CONFIG` names one. It may be absent.
    pub default_file: &'static str,
    /// What it can do with a file instead of serving; mostly nothing.
    pub commands: &'static [DaemonCommand],
}

/// Something that a daemon does once, with its configuration and a file: `cgfleet-server backup FILE`.
#[derive(Debug, Clone, Copy)]
pub struct DaemonCommand {
    /// The word on the command line.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
}

/// A [`DaemonCommand`] as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Which one.
    pub command: &'static str,
    /// Its file.
    pub file: PathBuf,
}

impl Daemon {
    /// The environment variable that names the configuration file.
    pub(crate) fn config_env(&self) -> String {
        format!("{}CONFIG", self.env_prefix)
    }
}

/// Rules that a single value's type cannot express: ranges, and keys that depend on each other.
pub trait Checked {
    /// Refuses a configuration that is well formed but must not run.
    fn check(&self) -> Result<(), InvalidValue> {
        Ok(())
    }
}

/// What the command line asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<C> {
    /// Run with this configuration.
    Run(C),
    /// Do a command with this configuration.
    Command(C, Invocation),
    /// Print this text to standard output and exit with 0: help, version, `--print-config` or `--check-config`.
    Print(String),
}

/// Loads the configuration of a daemon.
///
/// `args` begins with the program's name; `env` looks up one environment variable. A variable that is empty counts
/// as unset. Every value given is validated, also one that a later source overrides.
///
/// `C` must be flat: a `#[config(nested)]` field does not compile here, because flags and environment variables are
/// flat too and one key shall have one name. A field must not be called `config`, `print_config`, `check_config`,
/// `help` or `version`.
pub fn load<C: Config + Checked>(
    daemon: &Daemon,
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Outcome<C>, ConfigError> {
    let fields = field::fields::<C>(daemon);
    let flags = match flags::parse(daemon, &fields, args)? {
        Parsed::Text(text) => return Ok(Outcome::Print(text)),
        Parsed::Flags(flags) => flags,
    };
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let file = file::read(daemon, flags.config, env(&daemon.config_env()))?;

    let mut settings = Settings::<C>::defaults(&fields)?;
    if let Some(file) = &file {
        for (field, line, value) in file.entries(&fields)? {
            let origin = Origin::File { path: file.path.clone(), line };
            settings.set(field, Given::Typed(value), origin)?;
        }
    }
    for field in &fields {
        if let Some(value) = env(&field.env) {
            let text = value
                .into_string()
                .map_err(|_| ConfigError::EnvNotUnicode { name: field.env.clone(), key: field.name })?;
            settings.set(field, Given::Text(text), Origin::Env(field.env.clone()))?;
        }
    }
    for (field, text) in flags.given {
        settings.set(field, Given::Text(text), Origin::Flag(field.flag.clone()))?;
    }

    let (config, chosen) = settings.finish()?;
    config.check().map_err(|invalid| chosen.refuse(&invalid))?;
    Ok(match flags.action {
        Action::Run => match flags.invocation {
            Some(invocation) => Outcome::Command(config, invocation),
            None => Outcome::Run(config),
        },
        Action::PrintConfig => Outcome::Print(render::effective(daemon, &chosen, file.as_ref())),
        Action::CheckConfig => Outcome::Print(render::checked(file.as_ref())),
    })
}

/// [`load`] for `main`: reads the arguments and environment of this process, and prints what is to be printed.
///
/// An error is the code to exit with: 0 after text that was asked for, 1 when that text could not be written, 2 after
/// a configuration error. What went wrong is printed to standard error in one line. With the configuration comes the
/// command that was asked for, if the daemon has any.
pub fn load_process<C: Config + Checked>(daemon: &Daemon) -> Result<(C, Option<Invocation>), ExitCode> {
    let (problem, code) = match load(daemon, std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(Outcome::Run(config)) => return Ok((config, None)),
        Ok(Outcome::Command(config, invocation)) => return Ok((config, Some(invocation))),
        Ok(Outcome::Print(text)) => match print(&text) {
            Ok(()) => return Err(ExitCode::SUCCESS),
            Err(error) => (format!("write to standard output: {error}"), ExitCode::FAILURE),
        },
        Err(error) => (error.to_string(), ExitCode::from(2)),
    };
    // Unlike eprintln, this does not panic where standard error is closed; the exit code still tells.
    let _ = writeln!(io::stderr(), "{}: {problem}", daemon.name);
    Err(code)
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `--help | head` has read all it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
