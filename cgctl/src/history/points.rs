//! Ticks of cgroups, printed.

use std::io::Write;

use cgfleet_model::Metric;
use cgfleet_proto::v1::{HistoryGap, HistoryPoint, query_history_response::Event};
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Taker, csv::write_csv, table};
use crate::{
    args::{Columns, HistoryFormat},
    error::Error,
    output::{
        check_collected,
        json::{groups, rfc3339, write_line},
    },
    words,
};

/// A part of cgroups' history, in time order for each host.
pub(super) enum Part {
    Point { hostname: String, point: Box<HistoryPoint> },
    Gap(HistoryGap),
}

/// Prints a history: ndjson and csv as it comes, the others when it is over.
pub(super) struct Report<W> {
    out: W,
    format: HistoryFormat,
    columns: Columns,
    /// Whether hosts have to be told apart.
    is_of_many: bool,
    collected: Vec<Part>,
    points: usize,
    gaps: usize,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W, format: HistoryFormat, columns: Columns, is_of_many: bool) -> Self {
        Self { out, format, columns, is_of_many, collected: Vec::new(), points: 0, gaps: 0 }
    }

    pub(super) fn add(&mut self, parts: impl IntoIterator<Item = Part>) -> Result<(), Error> {
        for part in parts {
            match self.format {
                HistoryFormat::Ndjson => {
                    write_line(&mut self.out, &Line::of(&part, self.is_of_many))?;
                }
                HistoryFormat::Csv => self.write_csv(&part)?,
                HistoryFormat::Table | HistoryFormat::Json => {}
            }
            match &part {
                Part::Point { .. } => self.points += 1,
                Part::Gap(_) => self.gaps += 1,
            }
            if !super::is_streamed(self.format) {
                self.collected.push(part);
                check_collected(self.collected.len())?;
            }
        }
        Ok(self.out.flush()?)
    }

    fn write_csv(&mut self, part: &Part) -> Result<(), Error> {
        if self.points == 0 && self.gaps == 0 {
            let titles = ["tick_at", "hostname", "cgroup_id", "path"].into_iter();
            let titles = titles.chain(self.columns.all().into_iter().map(Metric::name));
            write_csv(&mut self.out, titles.map(Some))?;
        }
        // A gap has no line of its own: it shows by the moments around it, and is counted on stderr.
        let Part::Point { hostname, point } = part else { return Ok(()) };
        let sample = point.sample.as_ref();
        let mut cells = vec![
            rfc3339(point.tick_at.as_ref()),
            Some(hostname.clone()),
            sample.map(|sample| sample.cgroup_id.to_string()),
            sample.map(|sample| sample.path.clone()),
        ];
        let value = |metric| sample.and_then(|sample| sample.metric(metric)).map(|value| value.to_string());
        cells.extend(self.columns.all().into_iter().map(value));
        Ok(write_csv(&mut self.out, cells)?)
    }
}

impl<W: Write> Taker for Report<W> {
    fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Points(points) => {
                let hostname = points.hostname;
                let part = |point| Part::Point { hostname: hostname.clone(), point: Box::new(point) };
                self.add(points.points.into_iter().map(part))
            }
            Event::Gap(gap) => self.add([Part::Gap(gap)]),
            Event::Series(_) | Event::Values(_) | Event::Summary(_) => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        match self.format {
            HistoryFormat::Table => {
                let zone = TimeZone::system();
                table::of(&self.collected, self.columns, self.is_of_many, &zone).write(&mut self.out)?;
            }
            HistoryFormat::Json => {
                write_line(&mut self.out, &Document::of(&self.collected, self.is_of_many))?;
            }
            HistoryFormat::Ndjson | HistoryFormat::Csv => {}
        }
        Ok(self.out.flush()?)
    }

    fn counts(&self) -> String {
        format!("points {}, gaps {}", self.points, self.gaps)
    }

    fn is_empty(&self) -> bool {
        self.points + self.gaps == 0
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Point(Point<'a>),
    Gap { gap: Gap },
}

impl<'a> Line<'a> {
    fn of(part: &'a Part, with_host: bool) -> Self {
        match part {
            Part::Point { hostname, point } => Self::Point(Point::of(hostname, point, with_host)),
            Part::Gap(gap) => Self::Gap { gap: Gap::of(gap, with_host) },
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    points: Vec<Point<'a>>,
    gaps: Vec<Gap>,
}

impl<'a> Document<'a> {
    fn of(parts: &'a [Part], with_host: bool) -> Self {
        let (mut points, mut gaps) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Point { hostname, point } => points.push(Point::of(hostname, point, with_host)),
                Part::Gap(gap) => gaps.push(Gap::of(gap, with_host)),
            }
        }
        Self { points, gaps }
    }
}

#[derive(Serialize)]
struct Point<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tick_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    path: &'a str,
    cgroup_id: u64,
    #[serde(flatten)]
    groups: Map<String, Value>,
}

impl<'a> Point<'a> {
    fn of(hostname: &'a str, point: &'a HistoryPoint, with_host: bool) -> Self {
        let sample = point.sample.as_ref();
        Self {
            tick_at: rfc3339(point.tick_at.as_ref()),
            hostname: with_host.then_some(hostname),
            path: sample.map_or("", |sample| &sample.path),
            cgroup_id: sample.map_or(0, |sample| sample.cgroup_id),
            groups: sample.map(groups).unwrap_or_default(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Gap {
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    after: Option<String>,
    before: Option<String>,
    reason: Option<String>,
}

impl Gap {
    pub(super) fn of(gap: &HistoryGap, with_host: bool) -> Self {
        Self {
            hostname: with_host.then(|| gap.hostname.clone()),
            after: rfc3339(gap.after.as_ref()),
            before: rfc3339(gap.before.as_ref()),
            reason: words::gap_reason(gap.reason),
        }
    }
}
