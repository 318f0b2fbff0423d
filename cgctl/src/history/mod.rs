//! `cgctl history`: what was stored, as ticks or as series, printed, drawn or written to a file.

mod csv;
mod export;
mod plot;
mod points;
mod series;
mod table;

use std::time::{Duration, SystemTime};

use cgfleet_model::TimeRange;
use cgfleet_proto::v1::{HistorySummary, HistoryTier, QueryHistoryRequest, query_history_response::Event};
use jiff::tz::TimeZone;

use crate::{
    args::{HistoryArgs, HistoryCommand, HistoryFormat, QuestionArgs},
    error::Error,
    exit::Exit,
    output::{Format, note, stdout, table::elapsed},
    remote::Server,
};

pub(crate) async fn run(args: HistoryArgs, server: &Server) -> Result<Exit, Error> {
    if let Some(HistoryCommand::Export(args)) = args.command {
        return export::run(args, server).await;
    }
    let mut question = args.question;
    if args.plot && question.step.is_none() {
        question.step = Some(plot::step_for(range_of(&question)));
    }
    check(&question)?;
    let format = args.format;
    let columns = match format {
        HistoryFormat::Csv => question.fields.columns_of_all(),
        _ => question.fields.columns(),
    };
    let zone = TimeZone::system();
    let mut taker: Box<dyn Taker> = match (args.plot, question.is_of_series()) {
        (true, _) => Box::new(plot::Plot::new(stdout(Format::Table), zone)),
        (false, true) => Box::new(series::Report::new(stdout(format.of_fields()), format, zone)),
        (false, false) => {
            let out = stdout(format.of_fields());
            Box::new(points::Report::new(out, format, columns, question.is_of_many()))
        }
    };
    let fields = if args.plot { Format::Table } else { format.of_fields() };
    answer(server, question.into_request(fields), taker.as_mut()).await
}

/// Takes an answer as it comes.
trait Taker {
    /// A part of it.
    fn take(&mut self, event: Event) -> Result<(), Error>;
    /// Its end: prints what is not printed yet.
    fn finish(&mut self) -> Result<(), Error>;
    /// How much there was, for people.
    fn counts(&self) -> String;
    /// Whether there was anything.
    fn is_empty(&self) -> bool;
}

/// Has a question answered; what came before an answer broke off is shown.
async fn answer(server: &Server, request: QueryHistoryRequest, taker: &mut dyn Taker) -> Result<Exit, Error> {
    match take(server, request, taker).await {
        Ok(summary) => {
            taker.finish()?;
            note(&format!("{}{}", taker.counts(), summary.as_ref().map(read).unwrap_or_default()));
            Ok(Exit::Complete)
        }
        Err(error) if error.is_remote() && !taker.is_empty() => {
            taker.finish()?;
            note(&taker.counts());
            note(&format!("cgctl: {error}"));
            Ok(Exit::Partial)
        }
        Err(error) => Err(error),
    }
}

async fn take(
    server: &Server,
    request: QueryHistoryRequest,
    taker: &mut dyn Taker,
) -> Result<Option<HistorySummary>, Error> {
    let mut stream =
        server.call(request, async |mut client, request| client.query_history(request).await).await?;
    let mut summary = None;
    while let Some(message) = server.link.next(&mut stream).await? {
        match message.event {
            Some(Event::Summary(last)) => summary = Some(last),
            Some(event) => taker.take(event)?,
            None => {}
        }
    }
    // A server that breaks off says why; one that is gone does not say this.
    if summary.is_none() { Err(server.link.cut_short()) } else { Ok(summary) }
}

/// Refuses here what no server needs to see.
fn check(question: &QuestionArgs) -> Result<(), Error> {
    if let (Some(since), Some(until)) = (question.since, question.until) {
        TimeRange::new(since.into(), until.into()).map_err(|_| Error::TimeRange { since, until })?;
    }
    if question.is_of_series() || question.chooses_cgroups() { Ok(()) } else { Err(Error::NoCgroups) }
}

/// How long the time is that is asked for.
fn range_of(question: &QuestionArgs) -> Duration {
    let until = question.until.map_or_else(SystemTime::now, SystemTime::from);
    let since = question.since.map(SystemTime::from);
    since.map_or(Duration::from_hours(1), |since| until.duration_since(since).unwrap_or_default())
}

/// `; read head 360 rows, chunk 24 rows in 3.21 ms`.
fn read(summary: &HistorySummary) -> String {
    let name = |tier| HistoryTier::try_from(tier).unwrap_or_default().as_str_name();
    let word = |tier| name(tier).trim_start_matches("HISTORY_TIER_").to_ascii_lowercase();
    let tiers: Vec<String> =
        summary.tiers.iter().map(|read| format!("{} rows of {}", read.rows, word(read.tier))).collect();
    let left_out = match summary.series_found.saturating_sub(summary.series) {
        0 => String::new(),
        _ => format!(" of {}", summary.series_found),
    };
    let resets = if summary.resets > 0 { format!(", resets {}", summary.resets) } else { String::new() };
    let tiers = if tiers.is_empty() { "nothing".to_owned() } else { tiers.join(", ") };
    format!("{left_out}{resets}; the server read {tiers} in {}", elapsed(summary.request_ns))
}

/// The formats that do not wait for the end.
fn is_streamed(format: HistoryFormat) -> bool {
    matches!(format, HistoryFormat::Ndjson | HistoryFormat::Csv)
}

#[cfg(test)]
mod series_tests;
#[cfg(test)]
mod tests;
