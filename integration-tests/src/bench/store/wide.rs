//! The baseline: samples into a wide table by psql's `\copy` in binary, with an index on host, cgroup and time.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use cgfleet_proto::v1::CgroupSample;

use super::psql::Psql;
use crate::{
    bench::timed,
    sim::{METRICS, Tree},
};

/// Postgres counts from 2000-01-01 (src/include/datatype/timestamp.h).
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;
/// What opens a binary copy: signature, no flags, no extension (the documentation of COPY).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// The table, in a database of its own.
pub(super) struct WideTable {
    psql: Psql,
    directory: tempfile::TempDir,
}

impl WideTable {
    /// Makes it beside the server's database. Hosts are small numbers, which is kind to it.
    pub(super) fn new(server: &Psql) -> Result<Self> {
        let psql = server.beside("wide")?;
        let columns = METRICS.iter().map(|metric| format!("{} bigint", column(metric.name())));
        let columns: Vec<String> = columns.collect();
        psql.run(&format!(
            "create table wide (host integer not null, cgroup_id bigint not null, ts timestamptz not null, {})",
            columns.join(", ")
        ))?;
        psql.run("create index wide_by_cgroup on wide (host, cgroup_id, ts)")?;
        // In /tmp: where the server's own state is.
        let directory = tempfile::Builder::new().prefix("cgfleet-bench-").tempdir_in("/tmp")?;
        Ok(Self { psql, directory })
    }

    pub(super) fn psql(&self) -> &Psql {
        &self.psql
    }

    /// Rows for one copy.
    pub(super) fn begin(&self) -> Result<WideCopy<'_>> {
        let path = self.directory.path().join("rows");
        let mut file = BufWriter::new(File::create(&path)?);
        file.write_all(HEADER)?;
        Ok(WideCopy { table: self, path, file, samples: 0 })
    }

    /// Copies these trees' next ticks, one transaction for all; how many samples, and how long psql took.
    pub(super) fn copy(
        &self,
        trees: &mut [Tree],
        ticks: usize,
        clock: &mut Clock,
    ) -> Result<(u64, Duration)> {
        let mut copy = self.begin()?;
        for _ in 0..ticks {
            let at = clock.next();
            for (host, tree) in (0_i32..).zip(&mut *trees) {
                copy.add(host, at, tree.samples())?;
                tree.step(clock.interval);
            }
        }
        copy.finish()
    }
}

/// One copy, before it is made.
pub(super) struct WideCopy<'a> {
    table: &'a WideTable,
    path: PathBuf,
    file: BufWriter<File>,
    samples: u64,
}

impl WideCopy<'_> {
    /// Adds a host's tick, at this time in microseconds since the Unix epoch.
    pub(super) fn add<'s>(
        &mut self,
        host: i32,
        at_usec: i64,
        samples: impl Iterator<Item = &'s CgroupSample>,
    ) -> Result<()> {
        for sample in samples {
            write_row(&mut self.file, host, sample, at_usec)?;
            self.samples += 1;
        }
        Ok(())
    }

    /// Has psql copy; how many samples, and how long that took.
    pub(super) fn finish(mut self) -> Result<(u64, Duration)> {
        self.file.write_all(&TRAILER)?;
        self.file.into_inner()?.sync_all()?;
        let copy = format!("\\copy wide from '{}' with (format binary)", self.path.display());
        let (copied, took) = timed(|| self.table.psql.run(&copy));
        copied?;
        fs::remove_file(&self.path)?;
        Ok((self.samples, took))
    }
}

/// The times of ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Microseconds since the Unix epoch, of the next tick.
    pub(super) at_usec: i64,
    pub(super) interval: Duration,
}

impl Clock {
    fn next(&mut self) -> i64 {
        let at = self.at_usec;
        self.at_usec += i64::try_from(self.interval.as_micros()).unwrap_or(i64::MAX);
        at
    }
}

/// A metric's name as a column's.
pub(super) fn column(metric: &str) -> String {
    metric.replace('.', "_")
}

fn write_row(file: &mut impl Write, host: i32, sample: &CgroupSample, at_usec: i64) -> Result<()> {
    let columns = i16::try_from(3 + METRICS.len())?;
    file.write_all(&columns.to_be_bytes())?;
    write_field(file, &host.to_be_bytes())?;
    write_field(file, &sample.cgroup_id.cast_signed().to_be_bytes())?;
    write_field(file, &(at_usec - POSTGRES_EPOCH_SECONDS * 1_000_000).to_be_bytes())?;
    for metric in METRICS {
        match sample.metric(metric) {
            Some(value) => write_field(file, &value.cast_signed().to_be_bytes())?,
            None => file.write_all(&(-1_i32).to_be_bytes())?,
        }
    }
    Ok(())
}

fn write_field(file: &mut impl Write, bytes: &[u8]) -> Result<()> {
    file.write_all(&i32::try_from(bytes.len())?.to_be_bytes())?;
    Ok(file.write_all(bytes)?)
}
