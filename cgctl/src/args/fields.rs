//! What is read, and the columns that it makes.

use cgfleet_model::{Metric, MetricSet, UnknownMetric};
use cgfleet_proto::v1::CgroupSample;
use clap::Args;
use prost_types::FieldMask;

use crate::output::Format;

#[derive(Debug, Args)]
pub(crate) struct FieldsArgs {
    /// What to read: groups (cpu) or metrics (cpu.usage_usec), as `cgctl metrics` lists them
    /// [default: all for json and ndjson, a few that are there for a table]
    #[arg(long, alias = "metric", value_name = "FIELD,…", value_delimiter = ',', value_parser = parse_field)]
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

    /// Those of a table whose rows are not known yet.
    pub(crate) fn all(self) -> Vec<Metric> {
        self.metrics.iter().collect()
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

    /// The columns that the fields make where none is left out for people's sake.
    pub(crate) fn columns_of_all(&self) -> Columns {
        let metrics = MetricSet::from_paths(self.fields.iter().map(String::as_str)).unwrap_or_default();
        Columns { metrics, all: true }
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

fn parse_field(text: &str) -> Result<String, UnknownMetric> {
    MetricSet::from_paths([text]).map(|_| text.to_owned())
}
