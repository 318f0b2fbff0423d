//! Payloads of chunk rows: cgroups over a stretch of time, each metric a column. Pure.
//!
//! A body is `count of series · series`, keys ascending and written as gaps. A series is
//! `key · metrics, with a flag for ticks in µs · count of ticks · length · ticks · (length · column)*`, its ticks and
//! their differences in ms where no tick has a fraction of one. A column is the [`presence`] of its values, then these
//! alone as [`numbers`]. Lengths let a reader pass what it was not asked for. docs/storage.md has all of it, byte for byte.
//!
//! Must not know: hosts, windows, Postgres.

mod builder;
mod numbers;
mod presence;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use cgfleet_model::{Metric, MetricSet};

pub use self::builder::ChunkBuilder;
use self::{
    numbers::{NumbersWriter, read_numbers},
    presence::{Presence, put_presence, read_presence},
};
use super::{
    CgroupKey, CodecError, frame,
    metrics::{put_metrics, read_metrics},
    put_key, read_key,
    varint::{Reader, put_varint},
};

/// The most ticks of one series: more than an hour at the shortest interval of an agent.
const TICKS_MAX: u64 = 1 << 16;

/// The most values and ticks of all series that are decoded at one time: 256 MiB. A column that does not
/// change is a few bytes, however many values it has, so the body's length bounds nothing.
const VALUES_MAX: u64 = 1 << 24;

/// What a series and each of its columns take beside their ticks and values, in values.
const VALUES_PER_COLUMN: u64 = 4;

/// Microseconds of the unit of ticks without a fraction of it.
const MS: i64 = 1_000;

/// One cgroup over a stretch of time, within one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSeries {
    /// The cgroup.
    pub key: CgroupKey,
    /// When it was sampled, in microseconds since the Unix epoch by the server's clock, ascending.
    pub ticks: Vec<i64>,
    /// What was measured, in the catalogue's order.
    pub columns: Vec<ChunkColumn>,
}

/// One metric of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkColumn {
    /// Which.
    pub metric: Metric,
    /// A value for each tick; `None` where it was not measured.
    pub values: Vec<Option<u64>>,
}

/// Encodes series, ascending by key, into one payload.
pub fn encode_chunk(series: &[ChunkSeries]) -> Result<Vec<u8>, CodecError> {
    let mut writer = SeriesWriter::default();
    let mut budget = VALUES_MAX;
    put_varint(&mut writer.body, series.len() as u64);
    let mut previous = None;
    for series in series {
        if previous.is_some_and(|previous| previous >= series.key) {
            return Err(CodecError::NotAChunk { what: "keys that do not ascend" });
        }
        spend(&mut budget, series.ticks.len() as u64, series.columns.len())?;
        writer.put_series(previous.replace(series.key), series)?;
    }
    Ok(frame::CHUNK.seal(&writer.body)?.0)
}

/// Decodes a payload; of its metrics only those in `metrics`.
pub fn decode_chunk(payload: &[u8], metrics: MetricSet) -> Result<Vec<ChunkSeries>, CodecError> {
    let (body, _) = frame::CHUNK.open(payload)?;
    let mut reader = Reader::new(&body);
    let mut budget = VALUES_MAX;
    let count = reader.varint()?;
    let mut series: Vec<ChunkSeries> = Vec::new();
    for _ in 0..count {
        let previous = series.last().map(|series| series.key);
        series.push(read_series(&mut reader, previous, metrics, &mut budget)?);
    }
    reader.expect_end()?;
    Ok(series)
}

/// Counts a series against what may be held of all.
fn spend(budget: &mut u64, ticks: u64, columns: usize) -> Result<(), CodecError> {
    if ticks > TICKS_MAX {
        return Err(CodecError::TooMany { what: "ticks of one cgroup", count: ticks, limit: TICKS_MAX });
    }
    let values = (ticks + VALUES_PER_COLUMN) * (1 + columns as u64);
    let count = VALUES_MAX - *budget + values;
    *budget =
        budget.checked_sub(values).ok_or(CodecError::TooMany { what: "values", count, limit: VALUES_MAX })?;
    Ok(())
}

/// A body that grows, and what is reused from column to column.
#[derive(Default)]
struct SeriesWriter {
    body: Vec<u8>,
    column: Vec<u8>,
    numbers: NumbersWriter,
}

impl SeriesWriter {
    fn put_series(&mut self, previous: Option<CgroupKey>, series: &ChunkSeries) -> Result<(), CodecError> {
        let ChunkSeries { key, ticks, columns } = series;
        if !ticks.is_sorted_by(|before, after| before < after) {
            return Err(CodecError::NotAChunk { what: "ticks that do not ascend" });
        }
        if !columns.is_sorted_by(|before, after| before.metric < after.metric) {
            return Err(CodecError::NotAChunk { what: "columns that are not in the catalogue's order" });
        }
        if columns.iter().any(|column| column.values.len() != ticks.len()) {
            return Err(CodecError::NotAChunk { what: "a column without a value for each tick" });
        }
        let unit = if ticks.iter().all(|tick| tick % MS == 0) { MS } else { 1 };
        put_key(&mut self.body, previous, *key);
        put_metrics(&mut self.body, unit != MS, columns.iter().map(|column| column.metric).collect());
        put_varint(&mut self.body, ticks.len() as u64);
        self.put_part(|column, numbers| {
            numbers.put(column, ticks.iter().map(|tick| (tick / unit).cast_unsigned()));
        });
        for ChunkColumn { values, .. } in columns {
            self.put_part(|column, numbers| {
                put_presence(column, values);
                numbers.put(column, values.iter().flatten().copied());
            });
        }
        Ok(())
    }

    fn put_part(&mut self, put: impl FnOnce(&mut Vec<u8>, &mut NumbersWriter)) {
        self.column.clear();
        put(&mut self.column, &mut self.numbers);
        put_varint(&mut self.body, self.column.len() as u64);
        self.body.extend_from_slice(&self.column);
    }
}

fn read_series(
    reader: &mut Reader<'_>,
    previous: Option<CgroupKey>,
    wanted: MetricSet,
    budget: &mut u64,
) -> Result<ChunkSeries, CodecError> {
    let key = read_key(reader, previous)?;
    let (is_in_us, stored) = read_metrics(reader)?;
    let count = reader.varint()?;
    spend(budget, count, stored.intersection(wanted).len())?;
    let count = usize::try_from(count).map_err(|_| CodecError::Truncated)?;
    let ticks = read_ticks(&mut read_part(reader)?, count, if is_in_us { 1 } else { MS })?;
    let mut columns = Vec::with_capacity(stored.intersection(wanted).len());
    for metric in stored.iter() {
        let mut part = read_part(reader)?;
        if wanted.contains(metric) {
            columns.push(ChunkColumn { metric, values: read_column(&mut part, count)? });
        }
    }
    Ok(ChunkSeries { key, ticks, columns })
}

fn read_part<'a>(reader: &mut Reader<'a>) -> Result<Reader<'a>, CodecError> {
    let len = reader.varint()?;
    reader.part(len)
}

fn read_ticks(reader: &mut Reader<'_>, count: usize, unit: i64) -> Result<Vec<i64>, CodecError> {
    const DISORDER: CodecError = CodecError::Malformed { what: "ticks that do not ascend" };
    let in_units = read_numbers(reader, count)?;
    reader.expect_end()?;
    let ticks: Option<Vec<i64>> =
        in_units.into_iter().map(|tick| tick.cast_signed().checked_mul(unit)).collect();
    ticks.filter(|ticks| ticks.is_sorted_by(|before, after| before < after)).ok_or(DISORDER)
}

fn read_column(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Option<u64>>, CodecError> {
    let presence = read_presence(reader, count)?;
    let numbers = read_numbers(reader, presence.present())?;
    reader.expect_end()?;
    Ok(match presence {
        Presence::Whole(_) => numbers.into_iter().map(Some).collect(),
        Presence::Runs(runs) => {
            let mut values = Vec::with_capacity(count);
            let mut numbers = numbers.into_iter();
            for (is_present, len) in runs {
                let end = values.len() + len;
                if is_present {
                    values.extend(numbers.by_ref().take(len).map(Some));
                }
                values.resize(end, None);
            }
            values
        }
    })
}
