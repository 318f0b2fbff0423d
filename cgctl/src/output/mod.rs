//! What every command's output has in common: formats, stdout, and notes on stderr.

pub(crate) mod json;
pub(crate) mod table;

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
};

use crate::{
    error::{Error, one_line},
    exit::{Exit, Tally},
};
use table::Table;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line, as they come
    Ndjson,
}

/// The most rows that a table or a JSON document collects; ndjson has no bound. With paths of 100
/// bytes that many take 0.5 GB as a table and 50 MB as a document.
pub(crate) const COLLECTED_ROWS_MAX: usize = 200_000;

/// Refuses to collect more rows than [`COLLECTED_ROWS_MAX`].
pub(crate) fn check_collected(rows: usize) -> Result<(), Error> {
    if rows > COLLECTED_ROWS_MAX { Err(Error::TooManyRows { rows_max: COLLECTED_ROWS_MAX }) } else { Ok(()) }
}

/// Standard output, buffered: flush it where a reader may wait. The style of a table's titles
/// passes only to a terminal, and only where NO_COLOR does not forbid it.
pub(crate) fn stdout(format: Format) -> Box<dyn Write> {
    match format {
        Format::Table => Box::new(BufWriter::new(anstream::stdout())),
        Format::Json | Format::Ndjson => Box::new(BufWriter::new(io::stdout())),
    }
}

/// Writes a line to stderr; where nobody reads it, it is not missed.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{}", one_line(line));
}

/// Says how many hosts answered, and how the command ends; `broke_off` is what ended an answer of
/// which a part came.
pub(crate) fn conclude(tally: &Tally, broke_off: Option<&Error>) -> Exit {
    if tally.hosts() > 0 {
        note(&tally.footer());
    } else if broke_off.is_none() {
        note("cgctl: no host has registered with the server");
    }
    match broke_off {
        Some(error) => {
            note(&format!("cgctl: {error}"));
            Exit::Partial
        }
        None => tally.exit(),
    }
}

/// Prints items that came as one list: a table, a document with the list as its only member, or a
/// line an item.
pub(crate) fn write_list<T: serde::Serialize>(
    out: &mut dyn Write,
    format: Format,
    member: &str,
    items: &[T],
    table: impl FnOnce() -> Table,
) -> io::Result<()> {
    match format {
        Format::Table => table().write(out)?,
        Format::Json => json::write_line(out, &BTreeMap::from([(member, items)]))?,
        Format::Ndjson => items.iter().try_for_each(|item| json::write_line(out, item))?,
    }
    out.flush()
}
