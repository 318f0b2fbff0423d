//! The configuration file: which one it is, reading it, and the line of each key in it.
//!
//! It must not know what the values are for; a value's type is checked when it becomes a setting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::{Spanned, Value};

use crate::Daemon;
use crate::error::{ConfigError, one_line};
use crate::field::Field;

/// No daemon has keys for more; a device or a log named by mistake must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration file that was read.
pub(crate) struct ConfigFile {
    pub path: PathBuf,
    text: String,
}

/// Reads the file that the flag, else the environment, else the daemon names. Only the daemon's own may be absent.
pub(crate) fn read(
    daemon: &Daemon,
    flag: Option<PathBuf>,
    env: Option<OsString>,
) -> Result<Option<ConfigFile>, ConfigError> {
    let (path, named_by) = match (flag, env) {
        (Some(path), _) => (path, Some("flag --config".to_owned())),
        (None, Some(path)) => (path.into(), Some(format!("environment variable {}", daemon.config_env()))),
        (None, None) => (daemon.default_file.into(), None),
    };
    match read_text(&path) {
        Ok(text) => Ok(Some(ConfigFile { path, text })),
        Err(error) if error.kind() == io::ErrorKind::NotFound && named_by.is_none() => Ok(None),
        Err(source) => Err(ConfigError::ReadFile {
            path,
            named_by: named_by.unwrap_or_else(|| "the default".to_owned()),
            source,
            mend: format!("name a readable TOML file with --config or {}", daemon.config_env()),
        }),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than the {FILE_BYTES_MAX} bytes allowed"),
        ));
    }
    Ok(text)
}

impl ConfigFile {
    /// The keys of the file with their lines, in the order of the file.
    pub(crate) fn entries<'a>(
        &self,
        fields: &'a [Field],
    ) -> Result<Vec<(&'a Field, usize, Value)>, ConfigError> {
        let table: BTreeMap<Spanned<String>, Value> =
            toml::from_str(&self.text).map_err(|error| ConfigError::Syntax {
                path: self.path.clone(),
                line: self.line_at(error.span().map_or(0, |span| span.start)),
                message: one_line(error.message()),
            })?;
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let line = self.line_at(key.span().start);
            let Some(field) = fields.iter().find(|field| field.name == key.get_ref()) else {
                let hint = nearest(fields, key.get_ref());
                let (path, key) = (self.path.clone(), key.into_inner());
                return Err(ConfigError::UnknownKey { path, line, key, hint });
            };
            entries.push((field, line, value));
        }
        entries.sort_by_key(|(_, line, _)| *line);
        Ok(entries)
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

fn nearest(fields: &[Field], key: &str) -> String {
    const SIMILAR_ENOUGH: f64 = 0.8; // as clap asks of a flag
    fields
        .iter()
        .map(|field| (strsim::jaro_winkler(field.name, key), field.name))
        .filter(|(similarity, _)| *similarity > SIMILAR_ENOUGH)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or_else(
            || {
                let names: Vec<_> = fields.iter().map(|field| field.name).collect();
                format!("allowed are {}", names.join(", "))
            },
            |(_, name)| format!("did you mean {name}?"),
        )
}
