//! A cgroup's history as a table: values, and the rates between neighbouring points.

use cgfleet_model::{CounterReading, Metric, MetricKind, rate_per_second};
use cgfleet_proto::v1::{HistoryGap, HistoryPoint};
use jiff::tz::TimeZone;
use prost_types::Timestamp;

use super::Part;
use crate::{
    args::Columns,
    output::table::{ABSENT, Column, Table, metric_cell, metric_title, moment_cell, rate_cell, rate_title},
    words,
};

pub(super) fn of(parts: &[Part], columns: Columns, zone: &TimeZone) -> Table {
    let samples = parts.iter().filter_map(|part| match part {
        Part::Point(point) => point.sample.as_ref(),
        Part::Gap(_) => None,
    });
    let shown = columns.shown(samples);
    let mut titles = vec![Column::text("TICK_AT"), Column::number("CGROUP_ID")];
    for metric in &shown {
        titles.push(Column::Number(metric_title(metric.info())));
        if metric.info().kind == MetricKind::Counter {
            titles.push(Column::Number(rate_title(metric.info())));
        }
    }
    titles.push(Column::text("PATH"));
    let mut table = Table::new(titles);
    let mut before: Option<&HistoryPoint> = None;
    for part in parts {
        match part {
            Part::Point(point) => {
                table.row(point_cells(before, point, &shown, zone));
                before = Some(point);
            }
            Part::Gap(gap) => {
                let values: usize = shown.iter().map(|metric| cells_of(*metric)).sum();
                // Neither tick nor cgroup nor value.
                let mut cells = vec![None; 2 + values];
                cells.push(Some(gap_text(gap, zone)));
                table.row(cells);
                // The host may have booted anew in it, with the same ids: no rate across a gap.
                before = None;
            }
        }
    }
    table
}

/// A counter has a cell for its rate too.
fn cells_of(metric: Metric) -> usize {
    match metric.info().kind {
        MetricKind::Counter => 2,
        MetricKind::Gauge | MetricKind::Limit => 1,
    }
}

fn gap_text(gap: &HistoryGap, zone: &TimeZone) -> String {
    let or_absent = |text: Option<String>| text.unwrap_or_else(|| ABSENT.to_owned());
    let end =
        |moment: &Option<Timestamp>| or_absent(moment.as_ref().and_then(|moment| moment_cell(moment, zone)));
    let reason = or_absent(words::gap_reason(gap.reason).map(|reason| reason.replace('_', " ")));
    format!("(no ticks between {} and {}: {reason})", end(&gap.after), end(&gap.before))
}

fn point_cells(
    before: Option<&HistoryPoint>,
    point: &HistoryPoint,
    shown: &[Metric],
    zone: &TimeZone,
) -> Vec<Option<String>> {
    let sample = point.sample.as_ref();
    let mut cells = vec![
        point.tick_at.as_ref().and_then(|moment| moment_cell(moment, zone)),
        sample.map(|sample| sample.cgroup_id.to_string()),
    ];
    for metric in shown {
        let value = sample.and_then(|sample| sample.metric(*metric));
        cells.push(value.map(|value| metric_cell(*metric, value)));
        if metric.info().kind == MetricKind::Counter {
            let rate = before.and_then(|before| rate_between(before, point, *metric));
            cells.push(rate.map(|rate| rate_cell(*metric, rate)));
        }
    }
    cells.push(sample.map(|sample| sample.path.clone()));
    cells
}

/// The rate between two points; `None` if they are not of one cgroup.
fn rate_between(before: &HistoryPoint, point: &HistoryPoint, metric: Metric) -> Option<f64> {
    let id = |point: &HistoryPoint| point.sample.as_ref().map(|sample| sample.cgroup_id);
    if id(before) != id(point) {
        return None;
    }
    let reading = |point: &HistoryPoint| {
        let value = point.sample.as_ref()?.metric(metric)?;
        Some(CounterReading { at: point.tick_at?.try_into().ok()?, value })
    };
    rate_per_second(reading(before)?, reading(point)?)
}
