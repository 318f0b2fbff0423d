//! One reading of a window: payloads in, rows of chunks and rollups out. No I/O.

use uuid::Uuid;

use super::{
    log::WindowLog,
    rollup::{CounterValues, RollupTicks, counters_of},
    window::StoredTick,
};
use crate::store::{
    ChunkRow, HourRow, MinuteRow, StoreError,
    codec::{CgroupKey, ChunkColumn, ChunkSeries, CodecError, HeadDecoder, TickChanges, encode_chunk},
    from_unix_usec,
};

/// Cgroups with fewer ticks in a window share a row.
const SHARED_TICKS_BELOW: usize = 30;

/// A row that is shared takes no further cgroup once it has so many values: reading any of them decodes all.
const SHARED_VALUES_FULL: usize = 1 << 18;

/// What a window becomes.
#[derive(Debug, Default)]
pub(super) struct PassOutput {
    /// Rows of chunks.
    pub chunks: Vec<ChunkRow>,
    /// Rows of minutes.
    pub minutes: Vec<MinuteRow>,
    /// Rows of hours.
    pub hours: Vec<HourRow>,
    /// Cgroups at ticks.
    pub samples: u64,
    shared_rows: u32,
}

/// A reading under way.
#[derive(Debug)]
pub(super) struct Pass {
    host_id: Uuid,
    window: Vec<StoredTick>,
    decoder: HeadDecoder,
    changes: TickChanges,
    log: WindowLog,
    /// Of the ticks that were read, whether each follows the one before.
    follows: Vec<bool>,
    /// The tick that was read last.
    read_usec: Option<i64>,
    /// The counters of the tick before the window, if the window's first follows it.
    before: Option<(i64, CounterValues)>,
    /// Whether ticks are passed over until the next keyframe, because one before was damaged.
    is_lost: bool,
}

impl Pass {
    /// A reading of a window, into a log.
    pub(super) fn new(host_id: Uuid, window: Vec<StoredTick>, log: WindowLog) -> Self {
        Self {
            host_id,
            window,
            decoder: HeadDecoder::default(),
            changes: TickChanges::default(),
            log,
            follows: Vec::new(),
            read_usec: None,
            before: None,
            is_lost: false,
        }
    }

    /// Reads the next payloads, each with its time: those of the window, and before them what its first needs.
    pub(super) fn push(&mut self, page: &[(i64, Vec<u8>)]) -> Result<(), StoreError> {
        for (at_usec, payload) in page {
            match self.push_one(*at_usec, payload) {
                Ok(()) => {}
                // Written by a newer version: it is not ours to give up.
                Err(source) if is_of_newer_version(&source) => {
                    let (host_id, tick_at) = (self.host_id, from_unix_usec(*at_usec));
                    return Err(StoreError::Payload { host_id, tick_at, source });
                }
                Err(error) => {
                    if !self.is_lost {
                        let tick_at = from_unix_usec(*at_usec);
                        let host_id = self.host_id;
                        tracing::error!(%host_id, ?tick_at, %error, "a stored tick cannot be read, and is lost with all up to the next keyframe");
                    }
                    self.is_lost = true;
                }
            }
        }
        Ok(())
    }

    fn push_one(&mut self, at_usec: i64, payload: &[u8]) -> Result<(), CodecError> {
        // Ticks before the window are there for the first of it.
        let place = self.window.binary_search_by_key(&at_usec, |tick| tick.at_usec).ok();
        let follows = place.is_some_and(|place| self.window[place].follows) && !self.is_lost;
        if place == Some(0) && follows {
            self.before = self.read_usec.zip(self.decoder.tick().map(counters_of));
        }
        let values = self.decoder.apply_telling(payload, &mut self.changes)?;
        if place.is_some() {
            self.follows.push(follows);
            self.log.push(at_usec, values, &self.changes);
        }
        self.is_lost = false;
        self.read_usec = Some(at_usec);
        Ok(())
    }

    /// Encodes what was read, behind what earlier readings gave. Where this one did not have room for all cgroups, says
    /// where the next one begins.
    pub(super) fn finish(
        self,
        mut output: PassOutput,
    ) -> Result<(PassOutput, Option<CgroupKey>), CodecError> {
        let Some(first) = self.window.first() else { return Ok((output, None)) };
        let rollups = RollupTicks::new(first.boot_id, self.log.ticks(), &self.follows, self.before);
        let rest = self.log.rest();
        let mut shared = SharedRow::default();
        self.log.for_each(|series, places| {
            output.samples += places.len() as u64;
            let (minutes, hour) = rollups.roll_up(series, places);
            output.minutes.extend(minutes);
            output.hours.push(hour);
            if places.len() >= SHARED_TICKS_BELOW {
                output.chunks.extend(chunk_row(series.key, std::slice::from_ref(series))?);
                return Ok(());
            }
            if shared.values >= SHARED_VALUES_FULL {
                output.close_shared(&mut shared)?;
            }
            shared.push(series);
            Ok(())
        })?;
        output.close_shared(&mut shared)?;
        Ok((output, rest))
    }
}

impl PassOutput {
    fn close_shared(&mut self, shared: &mut SharedRow) -> Result<(), CodecError> {
        let SharedRow { series, .. } = std::mem::take(shared);
        let key = CgroupKey { hierarchy_id: self.shared_rows, cgroup_id: 0 };
        let row = chunk_row(key, &series)?;
        self.shared_rows += u32::from(row.is_some());
        self.chunks.extend(row);
        Ok(())
    }
}

/// Cgroups that share a row.
#[derive(Debug, Default)]
struct SharedRow {
    series: Vec<ChunkSeries>,
    values: usize,
}

impl SharedRow {
    fn push(&mut self, series: &ChunkSeries) {
        self.values += series.ticks.len() * (1 + series.columns.len());
        // What is handed has room for more than it needs.
        let columns = series.columns.iter();
        self.series.push(ChunkSeries {
            key: series.key,
            ticks: series.ticks.clone(),
            columns: columns
                .map(|column| ChunkColumn { metric: column.metric, values: column.values.clone() })
                .collect(),
        });
    }
}

/// Whether a payload may be whole, and this version too old for it.
fn is_of_newer_version(error: &CodecError) -> bool {
    use CodecError::{UnknownGroup, UnknownKind, UnknownMetric, UnknownVersion};
    matches!(error, UnknownGroup { .. } | UnknownKind { .. } | UnknownMetric { .. } | UnknownVersion { .. })
}

/// A row of these series; `None` if there are none.
fn chunk_row(key: CgroupKey, series: &[ChunkSeries]) -> Result<Option<ChunkRow>, CodecError> {
    let firsts = series.iter().filter_map(|series| series.ticks.first()).min();
    let lasts = series.iter().filter_map(|series| series.ticks.last()).max();
    let Some((first_usec, last_usec)) = firsts.zip(lasts) else { return Ok(None) };
    let payload = encode_chunk(series)?;
    Ok(Some(ChunkRow { key, first_usec: *first_usec, last_usec: *last_usec, payload }))
}
