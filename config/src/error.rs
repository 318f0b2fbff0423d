//! Every way a configuration can be refused, each in one line: what was given, where, what is allowed, how to mend it.

use std::io;
use std::path::PathBuf;

/// Why no configuration could be loaded. A daemon prints it in one line and exits with 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line has a flag that does not exist, lacks a value, or says something twice.
    #[error("{problem}; see {daemon} --help")]
    Usage {
        /// What is wrong.
        problem: String,
        /// The binary's name.
        daemon: &'static str,
    },
    /// The configuration file cannot be read.
    #[error("read configuration file {} ({named_by}): {source}; {mend}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What named it: a flag, an environment variable or the default.
        named_by: String,
        /// What the operating system said.
        source: io::Error,
        /// How to mend it.
        mend: String,
    },
    /// The configuration file is not TOML.
    #[error("{}:{line}: not valid TOML: {message}; write one key = value per line", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// The configuration file has a key that does not exist.
    #[error("{}:{line}: unknown key {key:?}; {hint}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The nearest key, or all of them.
        hint: String,
    },
    /// An environment variable is not UTF-8.
    #[error("{key} (environment variable {name}): the value is not UTF-8; allowed is UTF-8 text")]
    EnvNotUnicode {
        /// The variable.
        name: String,
        /// The key it sets.
        key: &'static str,
    },
    /// A value is not what its key allows.
    #[error("{key} = {value} ({origin}): {reason}; {mend}")]
    Refused {
        /// The key.
        key: &'static str,
        /// The value, without any password.
        value: String,
        /// Where the value came from.
        origin: String,
        /// What is allowed.
        reason: String,
        /// How to mend it.
        mend: String,
    },
    /// A key without a default is set nowhere.
    #[error("{key} is not set and has no default; {mend}")]
    Missing {
        /// The key.
        key: &'static str,
        /// How to set it.
        mend: String,
    },
    /// An optional key is unset where the daemon's rules need it.
    #[error("{key} is not set: allowed is {allowed}; {mend}")]
    Unset {
        /// The key.
        key: &'static str,
        /// What is allowed.
        allowed: String,
        /// How to set it.
        mend: String,
    },
    /// A rule of the daemon that is not about one of its keys.
    #[error("{key}: allowed is {allowed}")]
    Rule {
        /// What the rule is about.
        key: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// A `#[config(validate = …)]` on the struct refused the whole.
    #[error("configuration refused: {0}")]
    Struct(#[from] confique::Error),
}

/// A value that [`Checked::check`](crate::Checked::check) refuses.
///
/// It names the field alone: the loader knows the value and where it came from, and hides what is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    /// The struct's field.
    pub field: &'static str,
    /// What is allowed, to follow the words "allowed is".
    pub allowed: String,
}

impl InvalidValue {
    /// Refuses the value of `field`; `allowed` follows the words "allowed is".
    pub fn new(field: &'static str, allowed: impl Into<String>) -> Self {
        Self { field, allowed: allowed.into() }
    }
}

/// Joins lines, and whatever blanks surround their ends, with one blank.
pub(crate) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
