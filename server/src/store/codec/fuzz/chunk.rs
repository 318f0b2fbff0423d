//! Chunks under the fuzzer.

use cgfleet_model::{Metric, MetricSet};
use fastrand::Rng;

use super::{
    super::{
        CgroupKey, ChunkColumn, ChunkSeries, CodecError, decode_chunk, encode_chunk,
        frame::{CHUNK, Form},
    },
    Target,
};

pub(super) struct Chunk;

impl Target for Chunk {
    const FORM: Form = CHUNK;

    fn seeds(rng: &mut Rng) -> Vec<Vec<u8>> {
        let mut seeds = vec![vec![], vec![0]];
        for _ in 0..200 {
            let mut ids: Vec<u64> = (0..rng.usize(1..4)).map(|_| rng.u64(..) >> rng.u32(..64)).collect();
            ids.sort_unstable();
            ids.dedup();
            let series: Vec<ChunkSeries> = ids.into_iter().map(|id| any_series(id, rng)).collect();
            let payload = encode_chunk(&series).expect("series that keep the rules");
            seeds.push(CHUNK.open(&payload).expect("just sealed").0);
        }
        seeds
    }

    fn read(payload: &[u8], rng: &mut Rng) -> Result<String, CodecError> {
        let series = decode_chunk(payload, MetricSet::all())?;
        let again = encode_chunk(&series).expect("what was decoded keeps the rules");
        assert_eq!(decode_chunk(&again, MetricSet::all()).expect("just encoded"), series);
        let wanted: MetricSet = Metric::ALL.iter().copied().filter(|_| rng.bool()).collect();
        let mut expect = series;
        let shape = shape_of(&expect);
        for series in &mut expect {
            series.columns.retain(|column| wanted.contains(column.metric));
        }
        assert_eq!(decode_chunk(payload, wanted).expect("a part of what was decoded"), expect);
        Ok(shape)
    }
}

/// Coarse: how many series, of how many ticks and columns, with how many absent values.
fn shape_of(series: &[ChunkSeries]) -> String {
    let columns: usize = series.iter().map(|series| series.columns.len()).sum();
    let ticks: usize = series.iter().map(|series| series.ticks.len()).sum();
    let values = series.iter().flat_map(|series| &series.columns).flat_map(|column| &column.values);
    let absent = values.filter(|value| value.is_none()).count();
    format!("{} {columns} {} {}", series.len(), ticks.checked_ilog2().map_or(0, |log| log + 1), absent.min(3))
}

fn any_series(cgroup_id: u64, rng: &mut Rng) -> ChunkSeries {
    let count = rng.usize(..40);
    let unit = *rng.choice(&[1, 1_000]).expect("some");
    let interval = rng.i64(1..20_000);
    let mut tick = rng.i64(-1 << 50..1 << 50) >> rng.u32(..50);
    let mut ticks = Vec::new();
    for _ in 0..count {
        ticks.push(tick * unit);
        tick += if rng.u8(..8) == 0 { rng.i64(1..100_000) } else { interval };
    }
    let metrics: MetricSet = (0..rng.usize(..5)).map(|_| *rng.choice(Metric::ALL).expect("some")).collect();
    let columns =
        metrics.iter().map(|metric| ChunkColumn { metric, values: any_values(count, rng) }).collect();
    ChunkSeries { key: CgroupKey { hierarchy_id: 0, cgroup_id }, ticks, columns }
}

fn any_values(count: usize, rng: &mut Rng) -> Vec<Option<u64>> {
    let (shift, changing, absent) = (rng.u32(..13), rng.u8(..=10), rng.u8(..3));
    let step_max = 1 << rng.u32(1..32);
    let mut value = rng.u64(..) >> rng.u32(..64);
    let mut is_absent = false;
    (0..count)
        .map(|_| {
            if rng.u8(..10) < changing {
                value = value.wrapping_add(rng.u64(..step_max) << shift);
            }
            is_absent ^= absent == 0 && rng.u8(..8) == 0;
            (!is_absent).then_some(value)
        })
        .collect()
}
