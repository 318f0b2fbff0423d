//! The command line as clap reads it: flags, their values parsed, and one-line usage errors.

use std::time::Duration;

use cgfleet_model::{Condition, Metric, MetricSet, UnknownMetric};
use cgfleet_proto::v1::{CgroupSample, CgroupTarget, HostSelector};
use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser, error::ErrorKind};
use jiff::{Timestamp, Zoned};
use prost_types::FieldMask;

use crate::{
    exit::EXIT_CODES,
    flush::FlushOptions,
    moment::{InvalidMoment, parse_moment},
    output::Format,
    target::parse_target,
    words::{Engine, Join, Order},
};

/// The variable that names the server where `--server` does not.
pub(crate) const SERVER_VARIABLE: &str = "CGFLEET_SERVER";
/// The server where nothing names one.
pub(crate) const SERVER_DEFAULT: &str = "http://127.0.0.1:7400";
/// The longest `--timeout`: a call that may take longer is a mistake.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// What every cgroup of the fleet is doing now, and what it did before.
#[derive(Debug, Parser)]
#[command(name = "cgctl", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The server [env: CGFLEET_SERVER] [default: http://127.0.0.1:7400]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) server: Option<String>,
    /// How long the whole command may take
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout, help_heading = "Global options")]
    pub(crate) timeout: Duration,
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
    /// Flush the kernel's cgroup statistics, so that what is read next is current
    #[command(after_help = EXIT_CODES)]
    Flush(FlushArgs),
    /// Read what was stored of one cgroup
    #[command(after_help = EXIT_CODES)]
    History(HistoryArgs),
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
            Self::Flush(_) => "flush",
            Self::History(_) => "history",
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

/// Which hosts are asked, and through whom.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HostArgs {
    /// A host's name or id; may be repeated
    #[arg(long, value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    host: Vec<String>,
    /// Every registered host, lost ones too
    #[arg(long)]
    all: bool,
    /// One agent (host:port), asked straight, without the server
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["server", "host_timeout"])]
    agent: Option<String>,
}

/// Who answers: the server for some hosts, or one agent.
pub(crate) enum Answerer {
    Server(HostSelector),
    Agent(String),
}

impl From<HostArgs> for Answerer {
    fn from(args: HostArgs) -> Self {
        match args.agent {
            Some(address) => Self::Agent(address),
            None => Self::Server(HostSelector { hosts: args.host, all: args.all }),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct HostTimeoutArgs {
    /// How long one host may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout)]
    pub(crate) host_timeout: Duration,
}

impl HostTimeoutArgs {
    pub(crate) fn to_proto(&self) -> Option<prost_types::Duration> {
        self.host_timeout.try_into().ok()
    }
}

#[derive(Debug, Args)]
pub(crate) struct FieldsArgs {
    /// What to read: groups (cpu) or metrics (cpu.usage_usec), as `cgctl metrics` lists them
    /// [default: all for json and ndjson, a few that are there for a table]
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',', value_parser = parse_field)]
    fields: Vec<String>,
}

/// What a table shows unless it is told.
const TABLE_METRICS: [Metric; 9] = [
    Metric::CpuUsage,
    Metric::CpuUser,
    Metric::CpuSystem,
    Metric::CpuThrottled,
    Metric::MemoryCurrent,
    Metric::MemoryMax,
    Metric::IoRbytes,
    Metric::IoWbytes,
    Metric::PidsCurrent,
];

/// The columns of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    metrics: MetricSet,
    /// Whether those stay that nothing has.
    all: bool,
}

impl Columns {
    /// The metrics that have a column in a table of these rows.
    pub(crate) fn shown<'a>(self, mut rows: impl Iterator<Item = &'a CgroupSample>) -> Vec<Metric> {
        let mut there = MetricSet::default();
        while !self.all && there != self.metrics {
            let Some(sample) = rows.next() else { break };
            there.extend(self.metrics.iter().filter(|metric| sample.metric(*metric).is_some()));
        }
        self.metrics.iter().filter(|metric| self.all || there.contains(*metric)).collect()
    }

    /// These, whatever the rows have.
    #[cfg(test)]
    pub(crate) fn of(metrics: MetricSet) -> Self {
        Self { metrics, all: true }
    }
}

impl FieldsArgs {
    /// The fields as the wire has them; `None` means all.
    pub(crate) fn read_mask(&self, format: Format) -> Option<FieldMask> {
        let paths = match (self.fields.is_empty(), format) {
            (false, _) => self.fields.clone(),
            (true, Format::Table) => TABLE_METRICS.iter().map(|metric| metric.name().to_owned()).collect(),
            (true, Format::Json | Format::Ndjson) => return None,
        };
        Some(FieldMask { paths })
    }

    /// The columns that the fields make.
    pub(crate) fn columns(&self) -> Columns {
        if self.fields.is_empty() {
            return Columns { metrics: TABLE_METRICS.into_iter().collect(), all: false };
        }
        // Every field was parsed, so the set cannot be refused.
        let metrics = MetricSet::from_paths(self.fields.iter().map(String::as_str)).unwrap_or_default();
        Columns { metrics, all: true }
    }
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
pub(crate) struct HistoryArgs {
    /// The host's name or id
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) host: String,
    /// The cgroup: /path, HIERARCHY:/path or a cgroup id
    #[arg(value_parser = parse_target)]
    pub(crate) target: CgroupTarget,
    /// From when on: "3h ago", "2026-11-23 08:00" or RFC 3339 [default: an hour before --until]
    #[arg(long, value_name = "TIME", value_parser = parse_moment_now)]
    pub(crate) since: Option<Timestamp>,
    /// Up to when [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_moment_now)]
    pub(crate) until: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) fields: FieldsArgs,
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

fn parse_field(text: &str) -> Result<String, UnknownMetric> {
    MetricSet::from_paths([text]).map(|_| text.to_owned())
}

fn parse_moment_now(text: &str) -> Result<Timestamp, InvalidMoment> {
    parse_moment(text, &Zoned::now())
}

fn parse_limit(text: &str) -> Result<u32, InvalidLimit> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or(InvalidLimit)
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a number of cgroups, 1 to {}", u32::MAX)]
struct InvalidLimit;

fn parse_levels(text: &str) -> Result<u32, InvalidLevels> {
    text.parse().map_err(|_| InvalidLevels)
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a number of levels, 0 to {}", u32::MAX)]
struct InvalidLevels;

fn parse_timeout(text: &str) -> Result<Duration, InvalidTimeout> {
    let timeout = humantime::parse_duration(text).map_err(|_| InvalidTimeout)?;
    if timeout.is_zero() || timeout > TIMEOUT_MAX { Err(InvalidTimeout) } else { Ok(timeout) }
}

#[derive(Debug, thiserror::Error)]
#[error("allowed: a time with its unit (500ms, 5s, 2m), more than 0 and at most 24h")]
struct InvalidTimeout;

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
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        let words = std::iter::once("cgctl").chain(line.split_whitespace());
        Cli::try_parse_from(words).map_err(|error| usage_line(&error).unwrap_or_default())
    }

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_asked_of_whom_is_read() {
        for line in [
            "query --all",
            "query --host a --host b /x --order self --limit 1 --stop-at 12 --host-timeout 500ms -o ndjson",
            "query --agent 127.0.0.1:7401 memory:/a --order ancestors --fields cpu,cpu.usage_usec",
            "query --all /a --order ancestors --stop-when memory.max_bytes<max --join path --engine files",
            "flush --all /a --server http://s:1 --timeout 2m",
            "flush --agent h:1",
            "history --host a /x --since now",
            "hosts -o json --trace",
            "metrics",
            "doctor --agent h:1 --output json",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn bad_usage_is_one_line_that_says_what_is_allowed() {
        let check = |line: &str, expect: &[&str]| {
            let said = parse(line).expect_err(line);
            assert!(!said.contains('\n'), "{said}");
            for part in expect {
                assert!(said.contains(part), "{line}: {said}");
            }
        };
        check("query", &["--host <HOST>|--all|--agent <ADDR>"]);
        check("query --host a --all", &["cannot be used with"]);
        check("query --agent h:1 --server http://s:1", &["--agent", "--server", "cannot be used with"]);
        check("query --agent h:1 --host-timeout 1s", &["--host-timeout", "cannot be used with"]);
        check("query --agent h:1 --all", &["cannot be used with"]);
        check("query --all a/b", &["'a/b'", "a cgroup id (1234)"]);
        check("query --all --order up", &["'up'", "self, pre, post, ancestors, children"]);
        check("query --all --fields disk", &["\"disk\"", "memory_stat", "cpu.usage_usec"]);
        check("query --all --stop-when memory<1", &["'memory<1'", "unknown field"]);
        check("query --all --stop-when cpu.usage_usec", &["METRIC<VALUE"]);
        check("query --all --join id", &["'id'", "path"]);
        check("query --all --limit 0", &["'0'", "1 to 4294967295"]);
        check("query --all -o xml", &["'xml'", "table, json, ndjson"]);
        check("query --all --timeout 0s", &["'0s'", "500ms"]);
        check("query --all --timeout 25h", &["24h"]);
        check("query --all --host-timeout 5", &["'5'", "a time with its unit"]);
        check("query --hots a", &["'--hots' found; tip:", "--host"]);
        check("history --host a", &["<TARGET>"]);
        check("history --host a /x --since yesterday", &["'yesterday'", "3h ago"]);
        check("frobnicate", &["'frobnicate'; see '--help'"]);
    }
}
