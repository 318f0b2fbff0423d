//! Ticks straight into the head, by the store's own encoder, and whatever is stored back out of it: chunks up to the
//! watermark, the head behind it.

use std::{collections::BTreeMap, time::SystemTime};

use cgfleet_model::MetricSet;
use cgfleet_proto::v1::CgroupSample;
use cgfleet_server::store::{
    CgroupIdentity, Cursor, GoneCgroup, OpenedStream, Store, TickBatch, TickRow, WriteOutcome,
    codec::{CgroupKey, Frame, HeadDecoder, HeadEncoder, decode_chunk},
    from_unix_usec, same_utc_hour, unix_usec,
};
use uuid::Uuid;

use crate::fixture::{TestDatabase, id};

/// Where a tick comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) boot: u128,
    pub(crate) epoch: u128,
    pub(crate) sequence: u64,
}

/// Writes the ticks of a host, or the same of several.
pub(crate) struct HeadWriter {
    store: Store,
    hosts: Vec<(Uuid, OpenedStream)>,
    encoder: HeadEncoder,
    last: Option<Source>,
    deltas: u32,
}

impl HeadWriter {
    pub(crate) async fn open(store: &Store, host: u128) -> Self {
        Self::open_all(store, host..=host).await
    }

    pub(crate) async fn open_all(store: &Store, hosts: std::ops::RangeInclusive<u128>) -> Self {
        let mut opened = Vec::new();
        for host in hosts {
            opened.push((id(host), store.open_stream(id(host)).await.unwrap()));
        }
        Self { store: store.clone(), hosts: opened, encoder: HeadEncoder::default(), last: None, deltas: 0 }
    }

    pub(crate) async fn write(&mut self, at_usec: i64, source: Source, samples: &[CgroupSample]) {
        let tick_at = from_unix_usec(at_usec);
        if self.last.is_some_and(|last| last.boot != source.boot) {
            self.encoder.reset();
        }
        let is_fresh = !self.encoder.has_base();
        let encoded = self.encoder.encode(samples, self.frame_for(tick_at, source)).unwrap();
        let new_cgroups: Vec<CgroupIdentity> = samples
            .iter()
            .filter(|sample| encoded.new.contains(&CgroupKey::of(sample)))
            .map(|sample| identity(source.boot, sample))
            .collect();
        let last_tick_at = self.hosts.first().and_then(|(_, opened)| Some(opened.cursor?.last_tick_at));
        let last_tick_at = last_tick_at.unwrap_or(tick_at);
        let gone = |key: &CgroupKey| GoneCgroup { key: *key, created_at: None, last_tick_at };
        let gone: Vec<GoneCgroup> = encoded.gone.iter().map(gone).collect();
        let mut batch = TickBatch::default();
        for (host_id, opened) in &self.hosts {
            let row = TickRow {
                host_id: *host_id,
                fence: opened.fence,
                follows: opened.cursor,
                agent_epoch: id(source.epoch),
                sequence: source.sequence,
                boot_id: id(source.boot),
                tick_at,
                sampled_at: tick_at,
                frame: encoded.frame,
                cgroup_count: encoded.cgroup_count,
                payload: encoded.payload.clone(),
                is_fresh,
                new_cgroups: new_cgroups.clone(),
                names: Vec::new(),
                gone: gone.clone(),
                gap: None,
            };
            assert!(batch.try_push(row).is_none());
        }
        let outcomes = self.store.write_batch(&batch).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == WriteOutcome::Stored), "{outcomes:?}");
        let cursor = Cursor { epoch: id(source.epoch), next_seq: source.sequence + 1, last_tick_at: tick_at };
        self.hosts.iter_mut().for_each(|(_, opened)| opened.cursor = Some(cursor));
        self.deltas = if encoded.frame == Frame::Delta { self.deltas + 1 } else { 0 };
        self.last = Some(source);
    }

    /// By the rules of docs/ingest-contract.md.
    fn frame_for(&self, tick_at: SystemTime, source: Source) -> Frame {
        let follows =
            self.last.is_some_and(|last| (last.epoch, last.sequence + 1) == (source.epoch, source.sequence));
        let last_tick_at = self.hosts.first().and_then(|(_, opened)| Some(opened.cursor?.last_tick_at));
        let same_hour = last_tick_at.is_some_and(|last| same_utc_hour(last, tick_at));
        if follows && same_hour && self.deltas < 59 { Frame::Delta } else { Frame::Keyframe }
    }
}

fn identity(boot: u128, sample: &CgroupSample) -> CgroupIdentity {
    CgroupIdentity {
        boot_id: id(boot),
        key: CgroupKey::of(sample),
        parent_id: sample.parent_id,
        level: sample.level,
        path: sample.path.clone(),
    }
}

/// What is stored of one cgroup at one tick.
pub(crate) type Point = Vec<(cgfleet_model::Metric, u64)>;

/// Every point of a host, by boot, cgroup and time. A point that is stored twice fails the test.
pub(crate) type Points = BTreeMap<(Uuid, CgroupKey, i64), Point>;

/// The points of some samples.
pub(crate) fn points_of(at_usec: i64, boot: u128, samples: &[CgroupSample]) -> Points {
    let point = |sample: &CgroupSample| {
        MetricSet::all().iter().filter_map(|metric| Some((metric, sample.metric(metric)?))).collect()
    };
    samples.iter().map(|sample| ((id(boot), CgroupKey::of(sample), at_usec), point(sample))).collect()
}

/// Everything that is stored of a host, as a reader finds it, in one statement and so in one snapshot.
fn stored_points(database: &TestDatabase, host: u128) -> Points {
    let host_id = id(host);
    let rows = database.sql(&format!(
        "select 0, boot_id, extract(epoch from first_at) * 1000000, encode(payload, 'hex'), true
         from chunk where host_id = '{host_id}'
         union all
         select 1, boot_id, extract(epoch from tick_at) * 1000000, encode(payload, 'hex'),
                tick_at > coalesce((select compacted_through from compaction where host_id = '{host_id}'), '-infinity')
         from head where host_id = '{host_id}'
         order by 1, 3"
    ));
    let mut points = Points::new();
    let mut decoder = HeadDecoder::default();
    for row in rows.lines() {
        let fields: Vec<&str> = row.split('|').collect();
        let boot_id: Uuid = fields[1].parse().unwrap();
        let payload = bytes(fields[3]);
        let mut add = |key, at_usec, point: Point| {
            let twice = points.insert((boot_id, key, at_usec), point);
            assert!(twice.is_none(), "{key:?} at {at_usec} is stored twice");
        };
        if fields[0] == "0" {
            for series in decode_chunk(&payload, MetricSet::all()).unwrap() {
                for (nth, at_usec) in series.ticks.iter().enumerate() {
                    let values =
                        series.columns.iter().filter_map(|column| Some((column.metric, column.values[nth]?)));
                    add(series.key, *at_usec, values.collect());
                }
            }
            continue;
        }
        let at_usec: i64 = fields[2].split('.').next().unwrap().parse().unwrap();
        let tick = decoder.apply(&payload).unwrap();
        if fields[4] == "t" {
            for (key, values) in tick.iter() {
                add(key, at_usec, values.present().iter().zip(values.values().iter().copied()).collect());
            }
        }
    }
    points
}

/// Everything that is stored of a host is what was written, once.
pub(crate) fn check_points(database: &TestDatabase, host: u128, expect: &Points) {
    let found = stored_points(database, host);
    for (point, values) in expect {
        assert_eq!(found.get(point), Some(values), "{point:?}");
    }
    assert_eq!(found.len(), expect.len());
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap();
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The watermark of a host; `None` if there is none.
pub(crate) fn watermark(database: &TestDatabase, host: u128) -> Option<i64> {
    let found = database.sql(&format!(
        "select (extract(epoch from compacted_through) * 1000000)::bigint from compaction where host_id = '{}'",
        id(host)
    ));
    found.parse().ok()
}

/// Microseconds since the Unix epoch, `seconds` after noon of a day in 2025.
pub(crate) fn usec(seconds: u64) -> i64 {
    unix_usec(crate::fixture::at(seconds))
}
