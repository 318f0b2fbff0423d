//! A cgroup's history as a table: values, and the rates between neighbouring points.

use std::collections::HashMap;

use cgfleet_model::{CounterReading, Metric, MetricKind, rate_per_second};
use cgfleet_proto::v1::{HistoryGap, HistoryPoint};
use jiff::tz::TimeZone;
use prost_types::Timestamp;

use super::points::Part;
use crate::{
    args::Columns,
    output::table::{ABSENT, Column, Table, metric_cell, metric_title, moment_cell, rate_cell, rate_title},
    words,
};

pub(super) fn of(parts: &[Part], columns: Columns, with_host: bool, zone: &TimeZone) -> Table {
    let samples = parts.iter().filter_map(|part| match part {
        Part::Point { point, .. } => point.sample.as_ref(),
        Part::Gap(_) => None,
    });
    let shown = columns.shown(samples);
    let mut titles = vec![Column::text("TICK_AT"), Column::number("CGROUP_ID")];
    if with_host {
        titles.insert(1, Column::text("HOST"));
    }
    for metric in &shown {
        titles.push(Column::Number(metric_title(metric.info())));
        if metric.info().kind == MetricKind::Counter {
            titles.push(Column::Number(rate_title(metric.info())));
        }
    }
    titles.push(Column::text("PATH"));
    let mut table = Table::new(titles);
    // Of each cgroup, the point before.
    let mut before: HashMap<(&str, u64), &HistoryPoint> = HashMap::new();
    for part in parts {
        match part {
            Part::Point { hostname, point } => {
                let cgroup_id = point.sample.as_ref().map_or(0, |sample| sample.cgroup_id);
                let before = before.insert((hostname, cgroup_id), point);
                let mut cells = point_cells(before, point, &shown, zone);
                if with_host {
                    cells.insert(1, Some(hostname.clone()));
                }
                table.row(cells);
            }
            Part::Gap(gap) => {
                let values: usize = shown.iter().map(|metric| cells_of(*metric)).sum();
                // Neither tick nor cgroup nor value.
                let mut cells = vec![None; 2 + values];
                if with_host {
                    cells.insert(1, Some(gap.hostname.clone()));
                }
                cells.push(Some(gap_text(gap, zone)));
                table.row(cells);
                // The host may have booted anew in it, with the same ids: no rate across a gap.
                before.clear();
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

/// The rate between two points of one cgroup.
fn rate_between(before: &HistoryPoint, point: &HistoryPoint, metric: Metric) -> Option<f64> {
    let reading = |point: &HistoryPoint| {
        let value = point.sample.as_ref()?.metric(metric)?;
        Some(CounterReading { at: point.tick_at?.try_into().ok()?, value })
    };
    rate_per_second(reading(before)?, reading(point)?)
}
