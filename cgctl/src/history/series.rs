//! Series, printed: as a table with a row for each step of a group of cgroups and a column for each metric.

use std::{collections::HashMap, io::Write};

use cgfleet_model::Metric;
use cgfleet_proto::v1::{
    HistoryAggregation, HistoryGap, HistorySeries, HistoryValue, Workload, query_history_response::Event,
};
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Taker, csv::write_csv, points::Gap};
use crate::{
    args::HistoryFormat,
    error::Error,
    output::{
        check_collected,
        json::{rfc3339, workload, write_line},
        table::{Column, Table, metric_title, moment_cell, rate_cell, rate_title, value_cell},
    },
};

/// A series with its values, as they came.
pub(super) struct Held {
    pub(super) series: HistorySeries,
    pub(super) values: Vec<HistoryValue>,
}

/// Prints series: ndjson and csv as they come, the others when all are there.
pub(super) struct Report<W> {
    out: W,
    format: HistoryFormat,
    zone: TimeZone,
    held: Vec<Held>,
    gaps: Vec<HistoryGap>,
    series: usize,
    values: usize,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W, format: HistoryFormat, zone: TimeZone) -> Self {
        Self { out, format, zone, held: Vec::new(), gaps: Vec::new(), series: 0, values: 0 }
    }

    fn begin(&mut self, series: HistorySeries) -> Result<(), Error> {
        match self.format {
            HistoryFormat::Ndjson => write_line(&mut self.out, &Line::Series(Told::of(&series, None)))?,
            HistoryFormat::Csv if self.series == 0 => write_csv(&mut self.out, CSV_TITLES.map(Some))?,
            _ => {}
        }
        self.series += 1;
        if super::is_streamed(self.format) {
            // Its values follow at once.
            self.held.clear();
        }
        self.held.push(Held { series, values: Vec::new() });
        Ok(())
    }

    fn add(&mut self, values: Vec<HistoryValue>) -> Result<(), Error> {
        let Some(held) = self.held.last_mut() else { return Ok(()) };
        self.values += values.len();
        match self.format {
            HistoryFormat::Ndjson => {
                for value in &values {
                    let line = Line::Value { series: held.series.series, value: Step::of(value) };
                    write_line(&mut self.out, &line)?;
                }
            }
            HistoryFormat::Csv => {
                for value in &values {
                    write_csv(&mut self.out, csv_cells(&held.series, value))?;
                }
            }
            HistoryFormat::Table | HistoryFormat::Json => {
                check_collected(self.values)?;
                held.values.extend(values);
            }
        }
        Ok(())
    }
}

impl<W: Write> Taker for Report<W> {
    fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Series(series) => self.begin(series)?,
            Event::Values(values) => self.add(values.values)?,
            Event::Gap(gap) => {
                if self.format == HistoryFormat::Ndjson {
                    write_line(&mut self.out, &Line::Gap { gap: Gap::of(&gap, true) })?;
                }
                self.gaps.push(gap);
            }
            Event::Points(_) | Event::Summary(_) => {}
        }
        Ok(self.out.flush()?)
    }

    fn finish(&mut self) -> Result<(), Error> {
        match self.format {
            HistoryFormat::Table => table(&self.held, &self.zone).write(&mut self.out)?,
            HistoryFormat::Json => {
                let series = self.held.iter().map(|held| Told::of(&held.series, Some(&held.values)));
                let gaps = self.gaps.iter().map(|gap| Gap::of(gap, true));
                let document = Document { series: series.collect(), gaps: gaps.collect() };
                write_line(&mut self.out, &document)?;
            }
            HistoryFormat::Ndjson | HistoryFormat::Csv => {}
        }
        Ok(self.out.flush()?)
    }

    fn counts(&self) -> String {
        format!("values {}, gaps {}, series {}", self.values, self.gaps.len(), self.series)
    }

    fn is_empty(&self) -> bool {
        self.series == 0 && self.gaps.is_empty()
    }
}

/// A column's title, and what it says of a series.
type Label = (&'static str, fn(&HistorySeries) -> Option<String>);

/// What tells series apart, but for their metric: each of these is a column where any series has it.
pub(super) const LABELS: [Label; 8] = [
    ("HOST", |series| given(&series.hostname)),
    ("CGROUP_ID", |series| Some(series.cgroup_id.to_string()).filter(|_| series.cgroup_id != 0)),
    ("NAMESPACE", |series| given(&series.workload.as_ref()?.pod_namespace)),
    ("POD", |series| {
        let workload = series.workload.as_ref()?;
        given(&workload.pod_name).or_else(|| given(&workload.pod_uid))
    }),
    ("CONTAINER", |series| {
        let workload = series.workload.as_ref()?;
        given(&workload.container_name).or_else(|| given(&workload.container_id))
    }),
    ("UNIT", |series| given(&series.workload.as_ref()?.systemd_unit)),
    ("SLICE", |series| given(&series.workload.as_ref()?.systemd_slice)),
    ("PATH", |series| given(&series.path)),
];

fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The labels that are shown: a cgroup is told by its path, and what runs in it is not repeated.
pub(super) fn labels_of(series: &HistorySeries) -> Vec<Option<String>> {
    let is_of_cgroup = series.cgroup_id != 0;
    let label = |(title, label): &Label| {
        let is_shown = !is_of_cgroup || matches!(*title, "HOST" | "PATH");
        label(series).filter(|_| is_shown)
    };
    LABELS.iter().map(label).collect()
}

/// One row a step of a group; a metric's column is behind it. Of one step, the whole time, its beginning is not said.
fn table(held: &[Held], zone: &TimeZone) -> Table {
    let labels: Vec<Vec<Option<String>>> = held.iter().map(|held| labels_of(&held.series)).collect();
    let shown: Vec<usize> =
        (0..LABELS.len()).filter(|at| labels.iter().any(|label| label[*at].is_some())).collect();
    let mut metrics: Vec<(String, i32, String)> = Vec::new();
    // By group and step, in the order in which they came.
    let mut rows: Vec<Row> = Vec::new();
    let mut places = HashMap::new();
    for (held, label) in held.iter().zip(&labels) {
        let (series, known) = (&held.series, metrics.len());
        let metric = (series.metric.clone(), series.aggregation, series.unit.clone());
        let column = metrics.iter().position(|known| *known == metric).unwrap_or_else(|| {
            metrics.push(metric);
            known
        });
        for value in &held.values {
            let from = value.from.map(|from| (from.seconds, from.nanos));
            let place = *places.entry((label.as_slice(), from)).or_insert_with(|| {
                rows.push(Row { label, value: *value, cells: Vec::new() });
                rows.len() - 1
            });
            let row = &mut rows[place];
            row.cells.resize(row.cells.len().max(column + 1), None);
            row.cells[column] = Some(cell(series, value.value));
            row.value.reset |= value.reset;
            row.value.gap |= value.gap;
        }
    }
    let has_steps = held.iter().any(|held| held.values.len() > 1) || rows_differ(&rows);
    let has_notes = rows.iter().any(|row| row.value.reset || row.value.gap);
    let mut titles: Vec<Column> = Vec::new();
    titles.extend(has_steps.then(|| Column::text("FROM")));
    let is_last = |at: &&usize| LABELS[**at].0 == "PATH";
    titles.extend(shown.iter().filter(|at| !is_last(at)).map(|at| Column::text(LABELS[*at].0)));
    titles.extend(
        metrics.iter().map(|(metric, aggregation, unit)| Column::Number(title(metric, *aggregation, unit))),
    );
    titles.extend(has_notes.then(|| Column::text("NOTE")));
    titles.extend(shown.iter().filter(is_last).map(|at| Column::text(LABELS[*at].0)));
    let mut table = Table::new(titles);
    for Row { label, value, mut cells } in rows {
        cells.resize(metrics.len(), None);
        let mut row = Vec::new();
        if has_steps {
            row.push(value.from.as_ref().and_then(|from| moment_cell(from, zone)));
        }
        row.extend(shown.iter().filter(|at| !is_last(at)).map(|at| label[*at].clone()));
        row.extend(cells);
        row.extend(has_notes.then(|| note(value)));
        row.extend(shown.iter().filter(is_last).map(|at| label[*at].clone()));
        table.row(row);
    }
    table
}

struct Row<'a> {
    label: &'a [Option<String>],
    value: HistoryValue,
    cells: Vec<Option<String>>,
}

fn rows_differ(rows: &[Row<'_>]) -> bool {
    rows.windows(2).any(|pair| pair[0].value.from != pair[1].value.from)
}

fn note(value: HistoryValue) -> Option<String> {
    match (value.reset, value.gap) {
        (true, true) => Some("reset, gap".to_owned()),
        (true, false) => Some("reset".to_owned()),
        (false, true) => Some("gap".to_owned()),
        (false, false) => None,
    }
}

/// `CPU_USAGE(cores)`, `max MEMORY_CURRENT(MiB)`: the aggregation where it is not the one that is expected.
pub(super) fn title(metric: &str, aggregation: i32, unit: &str) -> String {
    let Some(metric) = Metric::from_name(metric) else { return format!("{metric}({unit})") };
    let title = if unit.ends_with("/s") { rate_title(metric.info()) } else { metric_title(metric.info()) };
    match word(aggregation) {
        word if word.is_empty() || matches!(word.as_str(), "rate" | "last") => title,
        word => format!("{word} {title}"),
    }
}

/// The word for an aggregation.
pub(super) fn word(aggregation: i32) -> String {
    let name = HistoryAggregation::try_from(aggregation).unwrap_or_default().as_str_name();
    name.trim_start_matches("HISTORY_AGGREGATION_").replace("UNSPECIFIED", "").to_ascii_lowercase()
}

/// A value in the unit of its title.
pub(super) fn cell(series: &HistorySeries, value: f64) -> String {
    match Metric::from_name(&series.metric) {
        Some(metric) if series.unit.ends_with("/s") => rate_cell(metric, value),
        Some(metric) => value_cell(metric, value),
        None => value.to_string(),
    }
}

const CSV_TITLES: [&str; 17] = [
    "from",
    "host_id",
    "hostname",
    "cgroup_id",
    "path",
    "pod_namespace",
    "pod_name",
    "pod_uid",
    "container_name",
    "container_id",
    "systemd_unit",
    "systemd_slice",
    "metric",
    "aggregation",
    "unit",
    "value",
    "note",
];

fn csv_cells(series: &HistorySeries, value: &HistoryValue) -> [Option<String>; 17] {
    let names = series.workload.clone().unwrap_or_default();
    let Workload { pod_namespace, pod_name, pod_uid, container_name, container_id, .. } = &names;
    let Workload { systemd_unit, systemd_slice, .. } = &names;
    let text = |text: &String| given(text);
    [
        rfc3339(value.from.as_ref()),
        text(&series.host_id),
        text(&series.hostname),
        Some(series.cgroup_id.to_string()).filter(|_| series.cgroup_id != 0),
        text(&series.path),
        text(pod_namespace),
        text(pod_name),
        text(pod_uid),
        text(container_name),
        text(container_id),
        text(systemd_unit),
        text(systemd_slice),
        text(&series.metric),
        Some(word(series.aggregation)),
        text(&series.unit),
        Some(if value.value.is_infinite() { "max".to_owned() } else { value.value.to_string() }),
        note(*value),
    ]
}

#[derive(Serialize)]
struct Document<'a> {
    series: Vec<Told<'a>>,
    gaps: Vec<Gap>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Series(Told<'a>),
    Value {
        series: u32,
        #[serde(flatten)]
        value: Step,
    },
    Gap {
        gap: Gap,
    },
}

#[derive(Serialize)]
struct Told<'a> {
    series: u32,
    metric: &'a str,
    aggregation: String,
    unit: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_id: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<Map<String, Value>>,
    cgroups: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<Step>>,
}

impl<'a> Told<'a> {
    fn of(series: &'a HistorySeries, values: Option<&[HistoryValue]>) -> Self {
        Self {
            series: series.series,
            metric: &series.metric,
            aggregation: word(series.aggregation),
            unit: &series.unit,
            host_id: &series.host_id,
            hostname: &series.hostname,
            cgroup_id: Some(series.cgroup_id).filter(|id| *id != 0),
            path: &series.path,
            workload: series.workload.as_ref().map(workload),
            cgroups: series.cgroups,
            total: series.total.map(number),
            values: values.map(|values| values.iter().map(Step::of).collect()),
        }
    }
}

#[derive(Serialize)]
struct Step {
    from: Option<String>,
    value: Value,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reset: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    gap: bool,
}

impl Step {
    fn of(value: &HistoryValue) -> Self {
        let from = rfc3339(value.from.as_ref());
        Self { from, value: number(value.value), reset: value.reset, gap: value.gap }
    }
}

/// JSON has no infinity: that is a limit that is not set.
fn number(value: f64) -> Value {
    if value.is_infinite() { "max".into() } else { value.into() }
}
