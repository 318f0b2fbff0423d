//! From ticks, or from what changed since the tick before, to payloads; what did not change costs nothing.

use cgfleet_proto::v1::CgroupSample;

use super::{
    CgroupKey, CodecError, Frame, HeadState, KIND_DELTA, KIND_KEYFRAME, MetricValues, TickValues, frame,
    put_changed, put_key, varint::put_varint,
};

/// A tick that was encoded.
#[derive(Debug)]
pub struct EncodedHead {
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether it stands alone.
    pub frame: Frame,
    /// Cgroups in the tick.
    pub cgroup_count: usize,
    /// Those that the tick before did not have, ascending.
    pub new: Vec<CgroupKey>,
    /// Those that it had and this one has not, ascending.
    pub gone: Vec<CgroupKey>,
}

/// Turns the ticks of one host into payloads, each built upon the one before. So a payload is of use only
/// where the one before it was stored: who stores them has to see to that, and to begin anew otherwise.
#[derive(Debug, Default)]
pub struct HeadEncoder {
    base: Option<HeadState>,
}

/// A row that the next tick has, and where its cgroup is, or would be, among those of the tick before.
struct Changed {
    key: CgroupKey,
    values: MetricValues,
    place: Result<usize, usize>,
}

impl HeadEncoder {
    /// Encodes a tick of these cgroups; as a keyframe if asked for, or if there is nothing to build upon. After
    /// an error there is nothing to build upon.
    pub fn encode(&mut self, samples: &[CgroupSample], frame: Frame) -> Result<EncodedHead, CodecError> {
        let next = TickValues::of(samples);
        let removed = self.base.as_ref().map(|base| missing(&base.values, &next)).unwrap_or_default();
        self.advance(next.entries, removed, frame)
    }

    /// Encodes a tick of the cgroups of the one before, but for these changes; a cgroup that changed is not
    /// removed. Without a tick before, it has what changed alone.
    pub fn encode_changes(
        &mut self,
        changed: &[CgroupSample],
        removed: &[CgroupKey],
        frame: Frame,
    ) -> Result<EncodedHead, CodecError> {
        let changed = TickValues::of(changed);
        let mut removed = removed.to_vec();
        removed.sort_unstable();
        removed.dedup();
        let had = |key: CgroupKey| self.base.as_ref().is_some_and(|base| base.values.get(key).is_some());
        removed.retain(|key| changed.get(*key).is_none() && had(*key));
        self.advance(changed.entries, removed, frame)
    }

    /// Forgets the last tick: the next payload is a keyframe and every cgroup is new.
    pub fn reset(&mut self) {
        self.base = None;
    }

    /// Whether there is a tick to build upon.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// The last tick.
    pub fn tick(&self) -> Option<&TickValues> {
        self.base.as_ref().map(|base| &base.values)
    }

    fn advance(
        &mut self,
        rows: Vec<(CgroupKey, MetricValues)>,
        removed: Vec<CgroupKey>,
        frame: Frame,
    ) -> Result<EncodedHead, CodecError> {
        let base = self.base.take();
        let frame = if base.is_some() { frame } else { Frame::Keyframe };
        let HeadState { mut values, checksum } =
            base.unwrap_or(HeadState { values: TickValues::default(), checksum: 0 });
        let changed = changed(&values, rows);
        let new = changed.iter().filter(|changed| changed.place.is_err());
        let new = new.map(|changed| changed.key).collect();
        let mut body = Vec::new();
        if frame == Frame::Delta {
            body.push(KIND_DELTA);
            body.extend(checksum.to_le_bytes());
            put_delta(&mut body, &values, &removed, &changed);
            apply(&mut values, changed, &removed);
        } else {
            apply(&mut values, changed, &removed);
            body.push(KIND_KEYFRAME);
            put_changed(&mut body, values.entries.iter().map(|(key, values)| (*key, None, values)));
        }
        let (payload, checksum) = frame::seal(&body)?;
        let cgroup_count = values.len();
        self.base = Some(HeadState { values, checksum });
        Ok(EncodedHead { payload, frame, cgroup_count, new, gone: removed })
    }
}

/// What of the rows differs from the tick before.
fn changed(before: &TickValues, rows: Vec<(CgroupKey, MetricValues)>) -> Vec<Changed> {
    let place = |key| before.entries.binary_search_by_key(&key, |(key, _)| *key);
    let rows = rows.into_iter().map(|(key, values)| Changed { key, values, place: place(key) });
    rows.filter(|row| row.place.map_or(true, |at| before.entries[at].1 != row.values)).collect()
}

/// Writes what was removed and what changed since the tick before.
fn put_delta(body: &mut Vec<u8>, before: &TickValues, removed: &[CgroupKey], changed: &[Changed]) {
    put_removed(body, removed);
    let against = changed
        .iter()
        .map(|Changed { key, values, place }| (*key, place.ok().map(|at| &before.entries[at].1), values));
    put_changed(body, against);
}

/// Writes the difference of two whole ticks.
#[cfg(test)]
pub(super) fn put_delta_between(body: &mut Vec<u8>, before: &TickValues, next: &TickValues) {
    put_delta(body, before, &missing(before, next), &changed(before, next.entries.clone()));
}

fn apply(values: &mut TickValues, changed: Vec<Changed>, removed: &[CgroupKey]) {
    let mut added = Vec::new();
    for Changed { key, values: next, place } in changed {
        match place {
            Ok(at) => values.entries[at].1 = next,
            Err(_) => added.push((key, next)),
        }
    }
    if !removed.is_empty() {
        values.entries.retain(|(key, _)| removed.binary_search(key).is_err());
    }
    if !added.is_empty() {
        values.entries.append(&mut added);
        // Two runs that ascend, which this sort merges.
        values.entries.sort_by_key(|(key, _)| *key);
    }
}

/// The cgroups of `before` that `next` has not.
fn missing(before: &TickValues, next: &TickValues) -> Vec<CgroupKey> {
    let mut kept = next.entries.iter().map(|(key, _)| *key).peekable();
    let keys = before.entries.iter().map(|(key, _)| *key);
    keys.filter(|key| {
        while kept.next_if(|kept| kept < key).is_some() {}
        kept.peek() != Some(key)
    })
    .collect()
}

fn put_removed(body: &mut Vec<u8>, removed: &[CgroupKey]) {
    put_varint(body, removed.len() as u64);
    let mut previous = None;
    for key in removed {
        put_key(body, previous.replace(*key), *key);
    }
}
