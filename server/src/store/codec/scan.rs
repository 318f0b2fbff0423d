//! Reading a few metrics of a few cgroups out of many payloads: what is not asked for is passed over, and nothing
//! is built for it.

use cgfleet_model::{Metric, MetricSet};

use super::{
    CgroupKey, CodecError, KIND_DELTA, KIND_KEYFRAME, frame, frame::Checksum, metrics::read_metrics,
    read_key, varint::Reader,
};

/// One cgroup of the tick that was read last.
#[derive(Debug, Clone, Copy)]
pub struct ScannedCgroup {
    /// Which.
    pub key: CgroupKey,
    /// Whatever the caller keeps there while the cgroup is in one tick after the other; [`UNTAGGED`] at first.
    pub tag: u32,
    /// Of the wanted metrics, a bit for each that was measured.
    present: u128,
}

/// The tag of a cgroup that the tick before did not contain.
pub const UNTAGGED: u32 = u32::MAX;

/// Turns payloads into ticks as [`HeadDecoder`](super::HeadDecoder) does, of some cgroups and metrics. After an
/// error it needs a keyframe.
#[derive(Debug)]
pub struct HeadScanner {
    wanted: MetricSet,
    /// Ascending; `None` is every cgroup.
    keys: Option<Vec<CgroupKey>>,
    /// Ascending by key.
    cgroups: Vec<ScannedCgroup>,
    /// Of each cgroup a value for each wanted metric, in the catalogue's order.
    values: Vec<u64>,
    checksum: Option<Checksum>,
}

/// A tick, for as long as the next is not read.
#[derive(Debug)]
pub struct ScannedTick<'a> {
    /// Its cgroups, of those that are wanted.
    pub cgroups: &'a mut [ScannedCgroup],
    values: &'a [u64],
    metrics: usize,
}

impl ScannedTick<'_> {
    /// What was measured of the cgroup at a place, of the wanted metric at a place.
    pub fn value(&self, cgroup: usize, metric: usize) -> Option<u64> {
        let is_present = self.cgroups[cgroup].present & (1 << metric) != 0;
        is_present.then(|| self.values[cgroup * self.metrics + metric])
    }
}

impl HeadScanner {
    /// Reads these metrics, of these cgroups or of all.
    pub fn new(wanted: MetricSet, keys: Option<Vec<CgroupKey>>) -> Self {
        let keys = keys.map(|mut keys| {
            keys.sort_unstable();
            keys.dedup();
            keys
        });
        Self { wanted, keys, cgroups: Vec::new(), values: Vec::new(), checksum: None }
    }

    /// Reads the next payload.
    pub fn apply(&mut self, payload: &[u8]) -> Result<ScannedTick<'_>, CodecError> {
        let follows = self.checksum.take();
        let (body, checksum) = frame::open(payload)?;
        let mut reader = Reader::new(&body);
        match reader.bytes()? {
            [KIND_KEYFRAME] => self.read_keyframe(&mut reader)?,
            [KIND_DELTA] => self.read_delta(&mut reader, follows)?,
            [kind] => return Err(CodecError::UnknownKind { kind }),
        }
        reader.expect_end()?;
        self.checksum = Some(checksum);
        Ok(ScannedTick { cgroups: &mut self.cgroups, values: &self.values, metrics: self.wanted.len() })
    }

    fn is_wanted(&self, key: CgroupKey) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.binary_search(&key).is_ok())
    }

    fn read_keyframe(&mut self, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        let (mut cgroups, mut values) = (Vec::with_capacity(self.cgroups.len()), Vec::new());
        let mut previous = None;
        for _ in 0..reader.varint()? {
            let key = read_key(reader, previous)?;
            previous = Some(key);
            if !self.is_wanted(key) {
                skip_values(reader)?;
                continue;
            }
            let before = self.cgroups.binary_search_by_key(&key, |cgroup| cgroup.key);
            let tag = before.map_or(UNTAGGED, |at| self.cgroups[at].tag);
            let at = values.len();
            values.resize(at + self.wanted.len(), 0);
            let present = read_values(reader, self.wanted, None, &mut values[at..])?;
            cgroups.push(ScannedCgroup { key, tag, present });
        }
        (self.cgroups, self.values) = (cgroups, values);
        Ok(())
    }

    fn read_delta(&mut self, reader: &mut Reader<'_>, before: Option<Checksum>) -> Result<(), CodecError> {
        let follows = Checksum::from_le_bytes(reader.bytes()?);
        if before != Some(follows) {
            return Err(CodecError::WrongBase { follows });
        }
        let mut removed = Vec::new();
        for _ in 0..reader.varint()? {
            removed.push(read_key(reader, removed.last().copied())?);
        }
        if !removed.is_empty() {
            self.remove(&removed);
        }
        let stride = self.wanted.len();
        let (mut previous, mut place, mut added) = (None, 0, Vec::new());
        for _ in 0..reader.varint()? {
            let key = read_key(reader, previous)?;
            previous = Some(key);
            // Keys ascend here and there: what was passed need not be looked at again.
            let rest = &self.cgroups[place..];
            match rest.binary_search_by_key(&key, |cgroup| cgroup.key) {
                Ok(at) => {
                    place += at;
                    let before = self.cgroups[place].present;
                    let values = &mut self.values[place * stride..(place + 1) * stride];
                    self.cgroups[place].present = read_values(reader, self.wanted, Some(before), values)?;
                }
                Err(at) => {
                    place += at;
                    if self.is_wanted(key) {
                        let mut values = vec![0; stride];
                        let present = read_values(reader, self.wanted, None, &mut values)?;
                        added.push((ScannedCgroup { key, tag: UNTAGGED, present }, values));
                    } else {
                        skip_values(reader)?;
                    }
                }
            }
        }
        for (cgroup, values) in added {
            let at = self.cgroups.partition_point(|known| known.key < cgroup.key);
            self.cgroups.insert(at, cgroup);
            self.values.splice(at * stride..at * stride, values);
        }
        Ok(())
    }

    fn remove(&mut self, removed: &[CgroupKey]) {
        let stride = self.wanted.len();
        let mut kept = 0;
        for at in 0..self.cgroups.len() {
            if removed.binary_search(&self.cgroups[at].key).is_err() {
                self.cgroups[kept] = self.cgroups[at];
                self.values.copy_within(at * stride..(at + 1) * stride, kept * stride);
                kept += 1;
            }
        }
        self.cgroups.truncate(kept);
        self.values.truncate(kept * stride);
    }
}

/// Reads one changed cgroup into `values` and returns which of the wanted metrics are present.
fn read_values(
    reader: &mut Reader<'_>,
    wanted: MetricSet,
    before: Option<u128>,
    values: &mut [u64],
) -> Result<u128, CodecError> {
    let (presence_changed, changed) = read_metrics(reader)?;
    let present = match (presence_changed, before) {
        (true, _) => {
            let now = read_metrics(reader)?.1;
            let bits = wanted.intersection(now).iter().fold(0, |bits, metric| bits | place(wanted, metric));
            // What comes back counts from nothing, as it is written.
            let came = bits & !before.unwrap_or_default();
            (0..values.len()).filter(|at| came & (1 << at) != 0).for_each(|at| values[at] = 0);
            bits
        }
        (false, Some(before)) => before,
        (false, None) => {
            return Err(CodecError::Malformed {
                what: "a new cgroup that does not say which metrics it has",
            });
        }
    };
    for metric in changed.iter() {
        if !wanted.contains(metric) {
            reader.varint()?;
        } else if present & place(wanted, metric) == 0 {
            return Err(CodecError::Malformed { what: "a value of an absent metric" });
        } else {
            let value = &mut values[wanted.rank(metric)];
            *value = reader.difference_to(*value)?;
        }
    }
    Ok(present)
}

fn place(wanted: MetricSet, metric: Metric) -> u128 {
    1 << wanted.rank(metric)
}

fn skip_values(reader: &mut Reader<'_>) -> Result<(), CodecError> {
    let (presence_changed, changed) = read_metrics(reader)?;
    if presence_changed {
        read_metrics(reader)?;
    }
    (0..changed.len()).try_for_each(|_| reader.varint().map(drop))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            HeadDecoder,
            tests::{any_ticks, encode},
        },
        *,
    };
    use proptest::{collection, prelude::*};

    proptest! {
        #[test]
        fn what_is_scanned_is_what_is_decoded(
            ticks in any_ticks(),
            metrics in collection::vec(0..Metric::ALL.len(), 1..6),
            keys in proptest::option::of(collection::vec((0_u32..3, 1_u64..12), 0..6)),
        ) {
            let wanted: MetricSet = metrics.into_iter().map(|at| Metric::ALL[at]).collect();
            let keys = keys.map(|keys| {
                let key = |(hierarchy_id, cgroup_id)| CgroupKey { hierarchy_id, cgroup_id };
                keys.into_iter().map(key).collect::<Vec<_>>()
            });
            let mut scanner = HeadScanner::new(wanted, keys.clone());
            let mut decoder = HeadDecoder::default();
            for payload in encode(&ticks) {
                let tick = decoder.apply(&payload).unwrap();
                let scanned = scanner.apply(&payload).unwrap();
                let is_wanted = |key: &CgroupKey| keys.as_ref().is_none_or(|keys| keys.contains(key));
                let expect = tick.iter().filter(|(key, _)| is_wanted(key)).count();
                prop_assert_eq!(scanned.cgroups.len(), expect);
                for at in 0..scanned.cgroups.len() {
                    let cgroup = scanned.cgroups[at];
                    let values = tick.get(cgroup.key).unwrap();
                    for (place, metric) in wanted.iter().enumerate() {
                        prop_assert_eq!(scanned.value(at, place), values.get(metric));
                    }
                    // A tag stays with its cgroup for as long as that is there.
                    let tag = u32::try_from(cgroup.key.cgroup_id % 1_000).unwrap() * 4 + cgroup.key.hierarchy_id;
                    prop_assert!(cgroup.tag == UNTAGGED || cgroup.tag == tag);
                    scanned.cgroups[at].tag = tag;
                }
            }
        }
    }
}
