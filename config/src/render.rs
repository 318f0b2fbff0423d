//! Texts about the configuration: what is in force (`--print-config`), and the reference in docs/configuration.md.

use std::fmt::Write;

use confique::Config;

use crate::Daemon;
use crate::field::{Field, fields};
use crate::file::ConfigFile;
use crate::secret;
use crate::settings::{Chosen, Setting};

/// The configuration in force as TOML. Given back as `--config` it is the same configuration, but for passwords.
pub(crate) fn effective(daemon: &Daemon, chosen: &Chosen<'_>, file: Option<&ConfigFile>) -> String {
    let mut text = format!(
        "# The configuration in force of {} {}; read from: {}\n",
        daemon.name,
        daemon.version,
        file_words(file)
    );
    for (field, setting) in chosen.iter() {
        text.push('\n');
        for line in &field.doc {
            text += format!("# {line}").trim_end();
            text.push('\n');
        }
        text += &assignment(field, setting);
    }
    text
}

fn assignment(field: &Field, setting: Option<&Setting>) -> String {
    let Field { name, flag, env, .. } = field;
    let Some(Setting { value, origin }) = setting else {
        return format!("# {flag}, {env}; unset\n# {name} =\n");
    };
    match secret::redact(name, value) {
        Some(hidden) => format!(
            "# {flag}, {env}; from {origin}\n# The password is hidden: put it back in place of {}.\n{name} = {hidden}\n",
            secret::HIDDEN
        ),
        None => format!("# {flag}, {env}; from {origin}\n{name} = {value}\n"),
    }
}

/// The one line of `--check-config`.
pub(crate) fn checked(file: Option<&ConfigFile>) -> String {
    format!("configuration ok: {}\n", file_words(file))
}

fn file_words(file: Option<&ConfigFile>) -> String {
    file.map_or_else(|| "no file".to_owned(), |file| file.path.display().to_string())
}

/// The reference of a daemon's configuration as a Markdown section, derived from `C` alone.
pub fn markdown<C: Config>(daemon: &Daemon) -> String {
    let mut text = format!(
        "## {}\n\n{}\n\nFile: `--config FILE`, else `{}`, else `{}`, which may be absent.\n\n\
         | Key | Default | Flag | Environment | Meaning |\n|---|---|---|---|---|\n",
        daemon.name,
        daemon.about,
        daemon.config_env(),
        daemon.default_file
    );
    for field in fields::<C>(daemon) {
        let default = match &field.default {
            Some(value) => format!("`{value}`"),
            None if field.optional => "unset".to_owned(),
            None => "none: must be set".to_owned(),
        };
        let cells = [
            format!("`{}`", field.name),
            default,
            format!("`{}`", field.flag),
            format!("`{}`", field.env),
            field.doc.join(" ").trim().to_owned(),
        ];
        let row = cells.map(|cell| cell.replace('|', "\\|")).join(" | ");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {row} |");
    }
    text
}
