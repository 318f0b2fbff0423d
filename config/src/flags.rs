//! The command line: one flag per key, and the few flags that every daemon has.
//!
//! It must not know the keys' types: a flag's text gets its type when it becomes a setting.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::error::ConfigError;
use crate::field::Field;
use crate::{Daemon, DaemonCommand, Invocation};

const CONFIG: &str = "config";
const PRINT_CONFIG: &str = "print_config";
const CHECK_CONFIG: &str = "check_config";
const COMMAND: &str = "command";
const COMMAND_FILE: &str = "command_file";

/// What to do with the configuration once it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Run,
    PrintConfig,
    CheckConfig,
}

/// The command line, taken apart.
pub(crate) struct Flags<'a> {
    pub given: Vec<(&'a Field, String)>,
    pub config: Option<PathBuf>,
    pub action: Action,
    /// What to do instead of serving.
    pub invocation: Option<Invocation>,
}

/// What the command line was.
pub(crate) enum Parsed<'a> {
    Flags(Flags<'a>),
    /// `--help` or `--version`, which need no configuration.
    Text(String),
}

/// Takes the command line apart; the first argument is the program's name.
pub(crate) fn parse<'a>(
    daemon: &Daemon,
    fields: &'a [Field],
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Parsed<'a>, ConfigError> {
    let mut matches = match command(daemon, fields).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Parsed::Text(error.render().to_string()));
        }
        Err(error) => return Err(ConfigError::Usage { problem: problem(&error), daemon: daemon.name }),
    };
    let given =
        fields.iter().filter_map(|field| Some((field, matches.remove_one::<String>(field.name)?))).collect();
    let action = match (matches.get_flag(PRINT_CONFIG), matches.get_flag(CHECK_CONFIG)) {
        (true, _) => Action::PrintConfig,
        (_, true) => Action::CheckConfig,
        _ => Action::Run,
    };
    let config = matches.remove_one(CONFIG);
    let invocation = if daemon.commands.is_empty() { None } else { chosen_command(daemon, &mut matches) };
    Ok(Parsed::Flags(Flags { given, config, action, invocation }))
}

fn chosen_command(daemon: &Daemon, matches: &mut ArgMatches) -> Option<Invocation> {
    let name: String = matches.remove_one(COMMAND)?;
    let command = daemon.commands.iter().find(|command| command.name == name)?;
    Some(Invocation { command: command.name, file: matches.remove_one(COMMAND_FILE)? })
}

/// Both words of a daemon's command: which, and its file.
fn command_words(daemon: &Daemon) -> [Arg; 2] {
    let named = |command: &DaemonCommand| PossibleValue::new(command.name).help(command.about);
    let names = PossibleValuesParser::new(daemon.commands.iter().map(named));
    let command = Arg::new(COMMAND).value_name("COMMAND").value_parser(names).requires(COMMAND_FILE);
    let file = Arg::new(COMMAND_FILE).value_name("FILE").value_parser(value_parser!(PathBuf));
    [command.help("Do this with FILE, and exit"), file.help("The file of COMMAND").requires(COMMAND)]
}

fn command(daemon: &Daemon, fields: &[Field]) -> Command {
    let config_help = format!(
        "Read this TOML file; it must exist [default: {}, which may be absent] [env: {}]",
        daemon.default_file,
        daemon.config_env()
    );
    let config = Arg::new(CONFIG).long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
    let print = Arg::new(PRINT_CONFIG).long("print-config").action(ArgAction::SetTrue);
    let check = Arg::new(CHECK_CONFIG).long("check-config").action(ArgAction::SetTrue);
    let words = if daemon.commands.is_empty() { Vec::new() } else { command_words(daemon).into() };
    Command::new(daemon.name)
        .args(words)
        .about(daemon.about)
        .version(daemon.version)
        .after_help(
            "A flag wins over the environment, the environment over the file, the file over a default.",
        )
        .next_line_help(true)
        .args(fields.iter().map(arg))
        .arg(config.help(config_help))
        .arg(
            print.help("Print the configuration in force as TOML, with where each value came from, and exit"),
        )
        .arg(check.help("Validate the configuration and exit").conflicts_with(PRINT_CONFIG))
}

fn arg(field: &Field) -> Arg {
    let default = field.bare_default().map_or_else(String::new, |bare| format!(" [default: {bare}]"));
    let help = format!("{}{default} [env: {}]", field.doc.join(" ").trim(), field.env);
    let arg = Arg::new(field.name).long(field.flag.trim_start_matches('-').to_owned()).help(help);
    if field.takes_bool {
        // Only `--insecure=false` takes a value: in `--insecure false` the second word would be ambiguous.
        arg.value_name("true|false").num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg.value_name("VALUE")
    }
}

/// clap's report in one line: what is wrong and the tips, without the usage that `--help` shows too.
fn problem(error: &clap::Error) -> String {
    let report = error.render().to_string();
    let lines = report.lines().map(str::trim).filter(|line| !line.is_empty());
    let help = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more information");
    let telling: Vec<_> = lines.take_while(|line| !help(line)).collect();
    telling.join("; ").trim_start_matches("error: ").to_owned()
}
