//! The command line of `cgctl history`.

use std::{path::PathBuf, time::Duration};

use cgfleet_proto::v1::{
    CgroupTarget, HistoryAggregation, HistoryCgroups, HistoryGroupBy, HostSelector, QueryHistoryRequest,
};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use jiff::Timestamp;

use super::{
    FieldsArgs, WorkloadArgs,
    values::{parse_moment_now, parse_step, parse_top},
};
use crate::{moment::to_proto, output::Format, target::parse_target};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct HistoryArgs {
    #[command(subcommand)]
    pub(crate) command: Option<HistoryCommand>,
    #[command(flatten)]
    pub(crate) question: QuestionArgs,
    /// How to print the answer
    #[arg(short = 'o', long = "output", value_enum, default_value = "table")]
    pub(crate) format: HistoryFormat,
    /// Draw the series, a step a dot; without --step as many steps as there is room for
    #[arg(long, conflicts_with = "format")]
    pub(crate) plot: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    /// Write what was stored to a file
    #[command(after_help = crate::exit::EXIT_CODES)]
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) question: QuestionArgs,
    /// What the file is
    #[arg(long, value_enum, default_value = "parquet")]
    pub(crate) format: ExportFormat,
    /// The file; one that is there is replaced when the new one is whole
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// Which cgroups, which time, and what is made of it.
#[derive(Debug, Args)]
pub(crate) struct QuestionArgs {
    #[command(flatten)]
    hosts: HistoryHostArgs,
    /// The cgroup: /path or a cgroup id
    #[arg(value_parser = parse_target, conflicts_with_all = ["glob", "below", "pod", "container", "unit"])]
    target: Option<CgroupTarget>,
    /// Cgroups whose whole path matches: * is any characters but /, ** any at all, ? one but /
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new())]
    glob: Option<String>,
    /// The cgroup at PATH and all below it
    #[arg(long, value_name = "PATH", value_parser = NonEmptyStringValueParser::new())]
    below: Option<String>,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// From when on: "3h ago", "2026-11-23 08:00" or RFC 3339 [default: an hour before --until]
    #[arg(long, value_name = "TIME", value_parser = parse_moment_now)]
    pub(crate) since: Option<Timestamp>,
    /// Up to when [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_moment_now)]
    pub(crate) until: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) fields: FieldsArgs,
    /// A value for each so long a time, which begins at a whole multiple of it: 10s, 1m, 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_step)]
    pub(crate) step: Option<Duration>,
    /// What each value is; without --step of the whole time [default with --step: rate of counters,
    /// mean of gauges, last of limits]
    #[arg(long, value_enum, value_name = "AGGREGATION")]
    pub(crate) agg: Option<Agg>,
    /// What the cgroups of one series have in common [default: cgroup]
    #[arg(long, value_enum, value_name = "BY,…", value_delimiter = ',')]
    group_by: Vec<By>,
    /// Of each metric only the series with the greatest values over the whole time
    #[arg(long, value_name = "N", value_parser = parse_top, allow_negative_numbers = true)]
    top: Option<u32>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HistoryHostArgs {
    /// A host's name or id; may be repeated
    #[arg(long, value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    host: Vec<String>,
    /// Every registered host, lost ones too
    #[arg(long)]
    all: bool,
}

/// How a history is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HistoryFormat {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line, as they come
    Ndjson,
    /// Comma-separated values, as they come
    Csv,
}

/// What a file is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    /// Apache Parquet: a column for each field, compressed
    Parquet,
    /// Comma-separated values
    Csv,
    /// One JSON object a line
    Ndjson,
}

/// What is computed in each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Agg {
    /// The last value
    Last,
    /// The mean of a gauge; of a counter as rate
    Mean,
    /// The largest value; of a counter the highest rate
    Max,
    /// The smallest value; of a counter the lowest rate
    Min,
    /// The sum of a gauge's values; of a counter what it grew by
    Sum,
    /// What a counter grew by per second
    Rate,
    /// The median, of a counter's rates
    P50,
    /// What 95 % of the values, or rates, do not exceed
    P95,
    /// What 99 % of them do not exceed
    P99,
}

/// What the cgroups of a series have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// Nothing: one series of all
    None,
    /// The host
    Host,
    /// All: each cgroup is a series
    Cgroup,
    /// The path
    Path,
    /// The pod
    Pod,
    /// The pod's namespace
    Namespace,
    /// The container
    Container,
    /// The innermost systemd unit
    Unit,
    /// The innermost systemd slice
    Slice,
}

impl HistoryFormat {
    /// The format that decides on the fields.
    pub(crate) fn of_fields(self) -> Format {
        match self {
            Self::Table => Format::Table,
            Self::Json | Self::Csv => Format::Json,
            Self::Ndjson => Format::Ndjson,
        }
    }
}

impl QuestionArgs {
    /// Whether series are asked for, and not ticks.
    pub(crate) fn is_of_series(&self) -> bool {
        self.step.is_some() || self.agg.is_some()
    }

    /// Whether it says which cgroups it is about; ticks of all of them nobody wants.
    pub(crate) fn chooses_cgroups(&self) -> bool {
        self.target.is_some() || self.glob.is_some() || self.below.is_some() || !self.workload.is_empty()
    }

    /// Whether more than one host may answer.
    pub(crate) fn is_of_many(&self) -> bool {
        self.hosts.all || self.hosts.host.len() > 1
    }

    pub(crate) fn into_request(self, format: Format) -> QueryHistoryRequest {
        let read_mask = self.fields.read_mask(format);
        let cgroups = HistoryCgroups {
            path_glob: self.glob.unwrap_or_default(),
            subtree: self.below.unwrap_or_default(),
            workload: self.workload.into_filter(),
        };
        QueryHistoryRequest {
            hosts: Some(HostSelector { hosts: self.hosts.host, all: self.hosts.all }),
            cgroups: self.target.is_none().then_some(cgroups),
            target: self.target,
            read_mask,
            since: self.since.map(to_proto),
            until: self.until.map(to_proto),
            step: self.step.and_then(|step| step.try_into().ok()),
            aggregation: self.agg.map_or(HistoryAggregation::Unspecified, HistoryAggregation::from).into(),
            group_by: self.group_by.into_iter().map(|by| HistoryGroupBy::from(by).into()).collect(),
            top: self.top.unwrap_or_default(),
            ..QueryHistoryRequest::default()
        }
    }
}

impl From<Agg> for HistoryAggregation {
    fn from(agg: Agg) -> Self {
        match agg {
            Agg::Last => Self::Last,
            Agg::Mean => Self::Mean,
            Agg::Max => Self::Max,
            Agg::Min => Self::Min,
            Agg::Sum => Self::Sum,
            Agg::Rate => Self::Rate,
            Agg::P50 => Self::P50,
            Agg::P95 => Self::P95,
            Agg::P99 => Self::P99,
        }
    }
}

impl From<By> for HistoryGroupBy {
    fn from(by: By) -> Self {
        match by {
            By::None => Self::Nothing,
            By::Host => Self::Host,
            By::Cgroup => Self::Cgroup,
            By::Path => Self::Path,
            By::Pod => Self::Pod,
            By::Namespace => Self::Namespace,
            By::Container => Self::Container,
            By::Unit => Self::Unit,
            By::Slice => Self::Slice,
        }
    }
}
