//! Payloads of head rows: a host's ticks as keyframes and sparse deltas. Pure.
//!
//! A body is `kind · [delta: checksum of the payload it follows · removed keys] · changed cgroups`;
//! a keyframe is the difference to nothing. Keys ascend and are written as gaps. A changed cgroup is
//! `key · changed metrics · [present metrics] · differences`: a flag says that the set of present metrics
//! changed and follows. Cgroups without a change cost nothing. [`frame`] closes a body; nothing else in the workspace can read a payload.
//!
//! Must not know: hosts, time, Postgres.

mod chunk;
mod encoder;
mod error;
mod frame;
#[cfg(test)]
mod fuzz;
mod metrics;
mod scan;
#[cfg(test)]
mod tests;
mod values;
mod varint;

use cgfleet_model::MetricSet;

pub use self::{
    chunk::{ChunkBuilder, ChunkColumn, ChunkSeries, decode_chunk, encode_chunk},
    encoder::{EncodedHead, HeadEncoder},
    error::CodecError,
    scan::{HeadScanner, ScannedCgroup, ScannedTick, UNTAGGED},
    values::{CgroupKey, MetricValues, TickValues},
};
use self::{
    frame::Checksum,
    metrics::{put_metrics, read_metrics},
    varint::{Reader, put_difference, put_varint},
};

const KIND_KEYFRAME: u8 = 0;
const KIND_DELTA: u8 = 1;

/// Whether a payload stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Holds every cgroup.
    Keyframe,
    /// Holds what changed since the payload before it.
    Delta,
}

/// A tick as the side that writes or reads payloads holds it, to build the next one upon.
#[derive(Debug)]
struct HeadState {
    values: TickValues,
    checksum: Checksum,
}

/// What a payload says of a tick: of a keyframe every cgroup, of a delta the difference to the tick before.
#[derive(Debug, Default)]
pub struct TickChanges {
    /// Whether it is a keyframe: cgroups that it does not have are gone.
    pub is_whole: bool,
    /// Cgroups that are gone.
    pub removed: Vec<CgroupKey>,
    /// Cgroups that it holds.
    pub changed: Vec<CgroupKey>,
}

impl TickChanges {
    fn clear(&mut self) {
        self.is_whole = false;
        self.removed.clear();
        self.changed.clear();
    }
}

/// Turns payloads back into ticks, from a keyframe on and in their order. After an error it needs a
/// keyframe.
#[derive(Debug, Default)]
pub struct HeadDecoder {
    base: Option<HeadState>,
}

impl HeadDecoder {
    /// Reads the next payload and returns the whole tick.
    pub fn apply(&mut self, payload: &[u8]) -> Result<&TickValues, CodecError> {
        self.apply_telling(payload, &mut TickChanges::default())
    }

    /// The tick that was read last.
    pub fn tick(&self) -> Option<&TickValues> {
        self.base.as_ref().map(|base| &base.values)
    }

    /// Reads the next payload, returns the whole tick, and writes into `changes` what the payload says of it.
    pub fn apply_telling(
        &mut self,
        payload: &[u8],
        changes: &mut TickChanges,
    ) -> Result<&TickValues, CodecError> {
        changes.clear();
        // Taken, so that an error leaves no half-changed tick behind.
        let base = self.base.take();
        let (body, checksum) = frame::open(payload)?;
        let mut reader = Reader::new(&body);
        let mut values = match reader.bytes()? {
            [KIND_KEYFRAME] => {
                changes.is_whole = true;
                TickValues::default()
            }
            [KIND_DELTA] => read_base(&mut reader, base, &mut changes.removed)?,
            [kind] => return Err(CodecError::UnknownKind { kind }),
        };
        read_changed(&mut reader, &mut values, &mut changes.changed)?;
        reader.expect_end()?;
        Ok(&self.base.insert(HeadState { values, checksum }).values)
    }
}

/// Writes cgroups with their values, each against what it had before, if anything.
fn put_changed<'a>(
    body: &mut Vec<u8>,
    changed: impl ExactSizeIterator<Item = (CgroupKey, Option<&'a MetricValues>, &'a MetricValues)>,
) {
    put_varint(body, changed.len() as u64);
    let mut previous = None;
    for (key, before, values) in changed {
        put_key(body, previous.replace(key), key);
        // A new cgroup always says which metrics it has, even if none.
        let presence_changed = before.is_none_or(|before| before.present != values.present);
        let base = |metric| before.and_then(|before| before.get(metric)).unwrap_or_default();
        let now = || values.present.iter().zip(&values.values);
        let changed: MetricSet =
            now().filter(|(metric, value)| base(*metric) != **value).map(|(metric, _)| metric).collect();
        put_metrics(body, presence_changed, changed);
        if presence_changed {
            put_metrics(body, false, values.present);
        }
        for (metric, value) in now().filter(|(metric, _)| changed.contains(*metric)) {
            put_difference(body, base(metric), *value);
        }
    }
}

fn put_key(body: &mut Vec<u8>, previous: Option<CgroupKey>, key: CgroupKey) {
    let previous = previous.unwrap_or(CgroupKey { hierarchy_id: 0, cgroup_id: 0 });
    put_varint(body, u64::from(key.hierarchy_id - previous.hierarchy_id));
    let base = if key.hierarchy_id == previous.hierarchy_id { previous.cgroup_id } else { 0 };
    put_varint(body, key.cgroup_id - base);
}

/// Reads which payload the delta follows and what it removed; returns what is left of the base.
fn read_base(
    reader: &mut Reader<'_>,
    base: Option<HeadState>,
    removed: &mut Vec<CgroupKey>,
) -> Result<TickValues, CodecError> {
    let follows = Checksum::from_le_bytes(reader.bytes()?);
    let base = base.filter(|base| base.checksum == follows).ok_or(CodecError::WrongBase { follows })?;
    let mut values = base.values;
    let count = reader.varint()?;
    for _ in 0..count {
        let key = read_key(reader, removed.last().copied())?;
        if values.get(key).is_none() {
            return Err(CodecError::Malformed { what: "the removal of a cgroup that was not there" });
        }
        removed.push(key);
    }
    if !removed.is_empty() {
        values.entries.retain(|(key, _)| removed.binary_search(key).is_err());
    }
    Ok(values)
}

/// Reads what [`put_changed`] wrote into `values`.
fn read_changed(
    reader: &mut Reader<'_>,
    values: &mut TickValues,
    changed: &mut Vec<CgroupKey>,
) -> Result<(), CodecError> {
    let count = reader.varint()?;
    let mut added: Vec<(CgroupKey, MetricValues)> = Vec::new();
    let mut previous = None;
    for _ in 0..count {
        let key = read_key(reader, previous)?;
        previous = Some(key);
        changed.push(key);
        match values.entries.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => values.entries[at].1 = read_values(reader, Some(&values.entries[at].1))?,
            Err(_) => added.push((key, read_values(reader, None)?)),
        }
    }
    if !added.is_empty() {
        values.entries.append(&mut added);
        values.entries.sort_by_key(|(key, _)| *key);
    }
    Ok(())
}

fn read_values(reader: &mut Reader<'_>, before: Option<&MetricValues>) -> Result<MetricValues, CodecError> {
    let (presence_changed, changed) = read_metrics(reader)?;
    let present = match (presence_changed, before) {
        (true, _) => read_metrics(reader)?.1,
        (false, Some(before)) => before.present,
        (false, None) => {
            return Err(CodecError::Malformed {
                what: "a new cgroup that does not say which metrics it has",
            });
        }
    };
    if !changed.without(present).is_empty() {
        return Err(CodecError::Malformed { what: "a value of an absent metric" });
    }
    let mut values = Vec::with_capacity(present.len());
    for metric in present.iter() {
        let base = before.and_then(|before| before.get(metric)).unwrap_or_default();
        values.push(if changed.contains(metric) { reader.difference_to(base)? } else { base });
    }
    Ok(MetricValues { present, values })
}

fn read_key(reader: &mut Reader<'_>, previous: Option<CgroupKey>) -> Result<CgroupKey, CodecError> {
    const DISORDER: CodecError = CodecError::Malformed { what: "keys that do not ascend" };
    let before = previous.unwrap_or(CgroupKey { hierarchy_id: 0, cgroup_id: 0 });
    let hierarchy_gap = u32::try_from(reader.varint()?).map_err(|_| DISORDER)?;
    let hierarchy_id = before.hierarchy_id.checked_add(hierarchy_gap).ok_or(DISORDER)?;
    let base = if hierarchy_gap == 0 { before.cgroup_id } else { 0 };
    let cgroup_id = base.checked_add(reader.varint()?).ok_or(DISORDER)?;
    let key = CgroupKey { hierarchy_id, cgroup_id };
    if previous.is_some_and(|previous| previous >= key) { Err(DISORDER) } else { Ok(key) }
}
