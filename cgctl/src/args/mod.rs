//! The command line as clap reads it: commands and their flags, and one-line usage errors.

mod collectors;
mod fields;
mod freshness;
mod history;
mod hosts;
mod values;
mod view;
mod watch;
mod workload;

use std::time::Duration;

use cgfleet_model::Condition;
use cgfleet_proto::v1::CgroupTarget;
use clap::{Args, Parser, Subcommand, error::ErrorKind};

pub(crate) use self::values::parse_staleness;
use self::values::{parse_levels, parse_limit, parse_timeout};
pub(crate) use self::{
    collectors::{BothWays, CollectorsArgs, Switch},
    fields::{Columns, FieldsArgs},
    freshness::FreshnessArgs,
    history::{ExportArgs, ExportFormat, HistoryArgs, HistoryCommand, HistoryFormat, QuestionArgs},
    hosts::{Answerer, HostArgs, HostTimeoutArgs},
    view::{CreateViewArgs, DeleteViewArgs, ListViewsArgs, ViewArgs, ViewCommand},
    watch::WatchArgs,
    workload::WorkloadArgs,
};
use crate::{
    exit::EXIT_CODES,
    flush::FlushOptions,
    output::Format,
    target::parse_target,
    words::{Engine, Join, Order},
};

/// The variable that names the server where `--server` does not.
pub(crate) const SERVER_VARIABLE: &str = "CGFLEET_SERVER";
/// The server where nothing names one.
pub(crate) const SERVER_DEFAULT: &str = "http://127.0.0.1:7400";

/// What every cgroup of the fleet is doing now, and what it did before.
#[derive(Debug, Parser)]
#[command(name = "cgctl", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The server [env: CGFLEET_SERVER] [default: http://127.0.0.1:7400]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) server: Option<String>,
    /// How long the whole command may take [default: 30s; of watch: as long as it likes]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_timeout, help_heading = "Global options")]
    pub(crate) timeout: Option<Duration>,
    /// Print the trace id, under which the server and the agents log this command, to stderr
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) trace: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read cgroups now, on one host, many or all
    #[command(after_help = EXIT_CODES)]
    Query(QueryArgs),
    /// Print what changes in cgroups as it changes, on one host, many or all
    #[command(after_help = EXIT_CODES)]
    Watch(WatchArgs),
    /// Flush the kernel's cgroup statistics, so that what is read next is current
    #[command(after_help = EXIT_CODES)]
    Flush(FlushArgs),
    /// Read what was stored of cgroups: ticks, or series made of them
    #[command(after_help = EXIT_CODES)]
    History(Box<HistoryArgs>),
    /// List the collectors of hosts, or switch them on and off
    #[command(after_help = EXIT_CODES)]
    Collectors(CollectorsArgs),
    /// Make, list or remove text views: files on a host that show its cgroups
    View(ViewArgs),
    /// List the hosts that ever registered
    #[command(after_help = EXIT_CODES)]
    Hosts(FormatArgs),
    /// List the metrics that exist
    #[command(after_help = EXIT_CODES)]
    Metrics(FormatArgs),
    /// Show what one host can do, from where each metric comes, and why
    #[command(after_help = EXIT_CODES)]
    Doctor(DoctorArgs),
}

impl Command {
    /// The subcommand's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Query(_) => "query",
            Self::Watch(_) => "watch",
            Self::Flush(_) => "flush",
            Self::History(_) => "history",
            Self::Collectors(_) => "collectors",
            Self::View(_) => "view",
            Self::Hosts(_) => "hosts",
            Self::Metrics(_) => "metrics",
            Self::Doctor(_) => "doctor",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// How to print the answer
    #[arg(short = 'o', long = "output", value_enum, default_value = "table")]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    /// Where the walk starts: /path, HIERARCHY:/path or a cgroup id [default: the cgroup v2 root]
    #[arg(value_parser = parse_target)]
    pub(crate) target: Option<CgroupTarget>,
    /// Which way the walk goes
    #[arg(long, value_enum, default_value = "pre")]
    pub(crate) order: Order,
    #[command(flatten)]
    pub(crate) fields: FieldsArgs,
    /// End each host's walk after this many cgroups
    #[arg(long, value_name = "N", value_parser = parse_limit, allow_negative_numbers = true)]
    pub(crate) limit: Option<u32>,

    /// Visit so many levels below TARGET; 0 is TARGET alone
    #[arg(long, value_name = "LEVELS", value_parser = parse_levels, allow_negative_numbers = true)]
    pub(crate) max_depth: Option<u32>,

    /// How the walk is done; the agent chooses if this is not given
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<Engine>,
    /// End each host's walk after this cgroup
    #[arg(long, value_name = "TARGET", value_parser = parse_target)]
    pub(crate) stop_at: Option<CgroupTarget>,
    /// End each host's walk after the first cgroup of which this is true, such as
    /// memory.max_bytes<max (is limited) or pids.current>=100
    #[arg(long, value_name = "METRIC<VALUE")]
    pub(crate) stop_when: Option<Condition>,
    /// Put other hierarchies' values beside those of TARGET, by path
    #[arg(long, value_name = "BY")]
    pub(crate) join: Option<Join>,
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    #[command(flatten)]
    pub(crate) freshness: FreshnessArgs,
    #[command(flatten)]
    pub(crate) host_timeout: HostTimeoutArgs,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FlushArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    /// The cgroup [default: the cgroup v2 root]
    #[arg(value_parser = parse_target)]
    pub(crate) target: Option<CgroupTarget>,
    #[command(flatten)]
    pub(crate) options: FlushOptions,
    #[command(flatten)]
    pub(crate) host_timeout: HostTimeoutArgs,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The host's agent (host:port)
    #[arg(long, value_name = "ADDR", conflicts_with = "server")]
    pub(crate) agent: String,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}

/// What clap has to say, as one line; `None` if it is help or the version, which are asked for.
pub(crate) fn usage_line(error: &clap::Error) -> Option<String> {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return None;
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let said: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("Usage:")).collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    let said = said.replace(" tip:", "; tip:").replace(" For more information, try", "; see");
    Some(said.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests;
