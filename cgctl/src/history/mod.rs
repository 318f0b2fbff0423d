//! `cgctl history`: what was stored of one cgroup.

mod table;

use std::io::Write;

use cgfleet_model::TimeRange;
use cgfleet_proto::v1::{HistoryGap, HistoryPoint, QueryHistoryRequest, query_history_response::Event};
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    args::{Columns, HistoryArgs},
    error::Error,
    exit::Exit,
    moment::to_proto,
    output::{
        Format, check_collected,
        json::{groups, rfc3339, write_line},
        note, stdout,
    },
    remote::Server,
    words,
};

pub(crate) async fn run(args: HistoryArgs, server: &Server) -> Result<Exit, Error> {
    if let (Some(since), Some(until)) = (args.since, args.until) {
        TimeRange::new(since.into(), until.into()).map_err(|_| Error::TimeRange { since, until })?;
    }
    let format = args.output.format;
    let mut report = Report::new(stdout(format), format, args.fields.columns());
    let request = QueryHistoryRequest {
        host: args.host,
        target: Some(args.target),
        read_mask: args.fields.read_mask(format),
        since: args.since.map(to_proto),
        until: args.until.map(to_proto),
        ..QueryHistoryRequest::default()
    };
    match report.take(server, request).await {
        Ok(()) => {
            report.finish()?;
            Ok(Exit::Complete)
        }
        Err(error) if error.is_remote() && report.points + report.gaps > 0 => {
            report.finish()?;
            note(&format!("cgctl: {error}"));
            Ok(Exit::Partial)
        }
        Err(error) => Err(error),
    }
}

/// A part of a cgroup's history, in time order.
enum Part {
    Point(Box<HistoryPoint>),
    Gap(HistoryGap),
}

/// Prints a history: ndjson as it comes, the others when it is over.
struct Report<W> {
    out: W,
    format: Format,
    columns: Columns,
    collected: Vec<Part>,
    points: usize,
    gaps: usize,
}

impl<W: Write> Report<W> {
    fn new(out: W, format: Format, columns: Columns) -> Self {
        Self { out, format, columns, collected: Vec::new(), points: 0, gaps: 0 }
    }

    async fn take(&mut self, server: &Server, request: QueryHistoryRequest) -> Result<(), Error> {
        let mut stream =
            server.call(request, async |mut client, request| client.query_history(request).await).await?;
        while let Some(message) = server.link.next(&mut stream).await? {
            match message.event {
                Some(Event::Points(points)) => {
                    self.add(points.points.into_iter().map(|point| Part::Point(Box::new(point))))?;
                }
                Some(Event::Gap(gap)) => self.add([Part::Gap(gap)])?,
                Some(Event::Series(_) | Event::Values(_) | Event::Summary(_)) | None => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, parts: impl IntoIterator<Item = Part>) -> Result<(), Error> {
        for part in parts {
            match &part {
                Part::Point(_) => self.points += 1,
                Part::Gap(_) => self.gaps += 1,
            }
            if self.format == Format::Ndjson {
                write_line(&mut self.out, &Line::of(&part))?;
            } else {
                self.collected.push(part);
                check_collected(self.collected.len())?;
            }
        }
        Ok(self.out.flush()?)
    }

    fn finish(&mut self) -> Result<(), Error> {
        match self.format {
            Format::Table => {
                table::of(&self.collected, self.columns, &TimeZone::system()).write(&mut self.out)?;
            }
            Format::Json => write_line(&mut self.out, &Document::of(&self.collected))?,
            Format::Ndjson => {}
        }
        self.out.flush()?;
        note(&format!("points {}, gaps {}", self.points, self.gaps));
        Ok(())
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Point(Point<'a>),
    Gap { gap: Gap },
}

impl<'a> Line<'a> {
    fn of(part: &'a Part) -> Self {
        match part {
            Part::Point(point) => Self::Point(Point::of(point)),
            Part::Gap(gap) => Self::Gap { gap: Gap::of(gap) },
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    points: Vec<Point<'a>>,
    gaps: Vec<Gap>,
}

impl<'a> Document<'a> {
    fn of(parts: &'a [Part]) -> Self {
        let (mut points, mut gaps) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Point(point) => points.push(Point::of(point)),
                Part::Gap(gap) => gaps.push(Gap::of(gap)),
            }
        }
        Self { points, gaps }
    }
}

#[derive(Serialize)]
struct Point<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tick_at: Option<String>,
    path: &'a str,
    cgroup_id: u64,
    #[serde(flatten)]
    groups: Map<String, Value>,
}

impl<'a> Point<'a> {
    fn of(point: &'a HistoryPoint) -> Self {
        let sample = point.sample.as_ref();
        Self {
            tick_at: rfc3339(point.tick_at.as_ref()),
            path: sample.map_or("", |sample| &sample.path),
            cgroup_id: sample.map_or(0, |sample| sample.cgroup_id),
            groups: sample.map(groups).unwrap_or_default(),
        }
    }
}

#[derive(Serialize)]
struct Gap {
    after: Option<String>,
    before: Option<String>,
    reason: Option<String>,
}

impl Gap {
    fn of(gap: &HistoryGap) -> Self {
        Self {
            after: rfc3339(gap.after.as_ref()),
            before: rfc3339(gap.before.as_ref()),
            reason: words::gap_reason(gap.reason),
        }
    }
}

#[cfg(test)]
mod tests;
