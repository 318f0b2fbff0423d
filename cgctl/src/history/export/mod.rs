//! `cgctl history export`: an answer as a file. It is written as it comes, beside the file's place, and put there
//! when it is whole.

pub(super) mod parquet;

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use cgfleet_proto::v1::query_history_response::Event;
use jiff::tz::TimeZone;

use super::{Taker, answer, check, points, series};
use crate::{
    args::{ExportArgs, ExportFormat, HistoryFormat},
    error::Error,
    exit::Exit,
    output::Format,
    remote::Server,
};

pub(super) async fn run(args: ExportArgs, server: &Server) -> Result<Exit, Error> {
    let ExportArgs { question, format, out } = args;
    check(&question)?;
    let failed = |cause: io::Error| Error::Export { path: out.display().to_string(), cause };
    let begun = Begun::create(&out).map_err(failed)?;
    let file = BufWriter::new(begun.file().map_err(failed)?);
    let (columns, zone, is_of_many) =
        (question.fields.columns_of_all(), TimeZone::UTC, question.is_of_many());
    let mut taker: Box<dyn Taker> = match (format, question.is_of_series()) {
        (ExportFormat::Parquet, true) => Box::new(parquet::Export::of_series(file)?),
        (ExportFormat::Parquet, false) => Box::new(parquet::Export::of_points(file, columns.all())?),
        (ExportFormat::Csv, true) => Box::new(series::Report::new(file, HistoryFormat::Csv, zone)),
        (ExportFormat::Csv, false) => {
            Box::new(points::Report::new(file, HistoryFormat::Csv, columns, is_of_many))
        }
        (ExportFormat::Ndjson, true) => Box::new(series::Report::new(file, HistoryFormat::Ndjson, zone)),
        (ExportFormat::Ndjson, false) => {
            Box::new(points::Report::new(file, HistoryFormat::Ndjson, columns, is_of_many))
        }
    };
    let mut taker = Named { taker: taker.as_mut(), path: &out };
    let exit = answer(server, question.into_request(Format::Json), &mut taker).await?;
    // Part of an answer is a whole file, and the exit code says that it is a part.
    begun.put().map_err(failed)?;
    Ok(exit)
}

/// A file that is not in its place yet; removed unless it gets there.
struct Begun {
    beside: PathBuf,
    place: PathBuf,
    is_placed: bool,
}

impl Begun {
    fn create(place: &Path) -> io::Result<Self> {
        let mut name = place.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let beside = place.with_file_name(name);
        File::create_new(&beside)?;
        Ok(Self { beside, place: place.to_owned(), is_placed: false })
    }

    fn file(&self) -> io::Result<File> {
        File::options().write(true).open(&self.beside)
    }

    fn put(mut self) -> io::Result<()> {
        fs::rename(&self.beside, &self.place)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Says of which file an error is.
struct Named<'a> {
    taker: &'a mut dyn Taker,
    path: &'a Path,
}

impl Named<'_> {
    fn named(&self, result: Result<(), Error>) -> Result<(), Error> {
        result.map_err(|error| match error {
            Error::Output(cause) => Error::Export { path: self.path.display().to_string(), cause },
            error => error,
        })
    }
}

impl Taker for Named<'_> {
    fn take(&mut self, event: Event) -> Result<(), Error> {
        let taken = self.taker.take(event);
        self.named(taken)
    }

    fn finish(&mut self) -> Result<(), Error> {
        let finished = self.taker.finish();
        self.named(finished)
    }

    fn counts(&self) -> String {
        self.taker.counts()
    }

    fn is_empty(&self) -> bool {
        self.taker.is_empty()
    }
}
