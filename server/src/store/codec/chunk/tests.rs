//! Chunks read back as what was written, or as an error that names the damage.

use super::{
    super::{
        MetricValues,
        tests::{STORAGE_PAGE, bytes, shown},
    },
    *,
};

const CPU: [Metric; 3] = [Metric::CpuUsage, Metric::CpuUser, Metric::CpuSystem];

fn key(cgroup_id: u64) -> CgroupKey {
    CgroupKey { hierarchy_id: 0, cgroup_id }
}

/// Ticks every ten seconds, and columns of cpu metrics in their order.
fn series(cgroup_id: u64, columns: &[Vec<Option<u64>>]) -> ChunkSeries {
    let ticks = columns.iter().map(Vec::len).max().unwrap_or_default();
    ChunkSeries {
        key: key(cgroup_id),
        ticks: (0..).step_by(10_000_000).take(ticks).map(|at| 1_700_000_000_000_000 + at).collect(),
        columns: CPU
            .iter()
            .zip(columns)
            .map(|(metric, values)| ChunkColumn { metric: *metric, values: values.clone() })
            .collect(),
    }
}

fn whole(values: impl IntoIterator<Item = u64>) -> Vec<Option<u64>> {
    values.into_iter().map(Some).collect()
}

/// The body of a chunk of one series.
fn body(series: &ChunkSeries) -> Vec<u8> {
    frame::CHUNK.open(&encode_chunk(std::slice::from_ref(series)).unwrap()).unwrap().0
}

/// A payload with a valid envelope around any body.
fn sealed(body: &[u8]) -> Vec<u8> {
    frame::CHUNK.seal(body).unwrap().0
}

#[test]
fn each_shape_of_a_column_takes_the_smallest_form() {
    let check = |what: &str, values: Vec<Option<u64>>, bytes: usize| {
        let alone = series(7, std::slice::from_ref(&values));
        let without = ChunkSeries { columns: vec![], ..alone.clone() };
        // The column, its length's byte or two, and the mask of its group.
        let taken = body(&alone).len() - body(&without).len() - 1;
        assert_eq!(taken, bytes, "{what}");
        assert_eq!(
            decode_chunk(&encode_chunk(std::slice::from_ref(&alone)).unwrap(), MetricSet::all()).unwrap(),
            [alone]
        );
    };
    check("a constant", whole([9; 360]), 1 + 1 + 3);
    check("a constant of ten bytes", whole([u64::MAX; 360]), 1 + 1 + 12);
    check("as many more each time", whole((0..360).map(|at| at * 1_000)), 1 + 1 + 6);
    check("one step", whole((0..360).map(|at| at / 180)), 1 + 1 + 6);
    check("steps of one byte", whole((0..360).map(|at| at * 5 + at * at % 7)), 2 + 1 + 2 + 359);
    check("pages", whole((0..360).map(|at| (5 + at * at % 7) << 30)), 2 + 1 + 6 + 359);
    check("never there", vec![None; 360], 1 + 3);
    check("not there at first", [vec![None; 100], whole([9; 260])].concat(), 1 + 4 + 3);
    check("not there at last", [whole([9; 260]), vec![None; 100]].concat(), 1 + 5 + 3);
}

#[test]
fn ticks_at_their_interval_cost_nothing_and_a_fraction_of_a_ms_is_kept() {
    let check = |what: &str, ticks: Vec<i64>, bytes: usize| {
        let series = ChunkSeries { key: key(1), ticks, columns: vec![] };
        assert_eq!(body(&series).len(), bytes, "{what}");
        assert_eq!(
            decode_chunk(&encode_chunk(std::slice::from_ref(&series)).unwrap(), MetricSet::all()).unwrap(),
            [series]
        );
    };
    let first = 1_700_000_000_000_000;
    let spread = |interval: i64, jitter: i64| -> Vec<i64> {
        (0..360).map(|at| first + at * interval + at * at % 7 * jitter).collect()
    };
    // Count, key, metrics, count of ticks, length, then what says the ticks.
    check("every 10 s", spread(10_000_000, 0), 1 + 2 + 1 + 2 + 1 + 11);
    check("within 10 ms", spread(10_000_000, 1_000), 1 + 2 + 1 + 2 + 2 + 7 + 3 + 358);
    check("within 10 µs", spread(10_000_000, 1), 1 + 2 + 1 + 2 + 2 + 9 + 4 + 358);
    check("none", vec![], 1 + 2 + 1 + 1 + 1);
    check("before 1970", vec![-5_000_000_000, -1, i64::MAX], 1 + 2 + 1 + 1 + 1 + 26);
    check("as far apart as can be", vec![i64::MIN, i64::MAX], 1 + 2 + 1 + 1 + 1 + 12);
}

#[test]
fn what_was_not_asked_for_is_passed_over() {
    let all = [series(1, &[whole([1, 2, 3]), whole([4, 5, 6])]), series(2, &[whole([7])])];
    let payload = encode_chunk(&all).unwrap();
    let check = |metrics: &[Metric], columns: [usize; 2]| {
        let decoded = decode_chunk(&payload, metrics.iter().copied().collect()).unwrap();
        let expect: Vec<ChunkSeries> = all
            .iter()
            .map(|series| ChunkSeries {
                columns: series
                    .columns
                    .iter()
                    .filter(|column| metrics.contains(&column.metric))
                    .cloned()
                    .collect(),
                ..series.clone()
            })
            .collect();
        assert_eq!(decoded, expect, "{metrics:?}");
        assert_eq!(decoded.iter().map(|series| series.columns.len()).collect::<Vec<_>>(), columns);
    };
    check(&[], [0, 0]);
    check(&[Metric::CpuUsage], [1, 1]);
    check(&[Metric::CpuUser], [1, 0]);
    check(&[Metric::CpuSystem, Metric::PidsMax], [0, 0]);
    check(Metric::ALL, [2, 1]);
}

#[test]
fn what_no_chunk_can_hold_is_refused() {
    let check = |series: &[ChunkSeries], expect: &str| {
        assert_eq!(encode_chunk(series).unwrap_err().to_string(), expect);
    };
    let one = || series(1, &[whole([1, 2]), whole([3, 4])]);
    check(&[one(), one()], "a chunk cannot hold keys that do not ascend");
    check(&[ChunkSeries { ticks: vec![5, 5], ..one() }], "a chunk cannot hold ticks that do not ascend");
    check(
        &[ChunkSeries { ticks: vec![5], ..one() }],
        "a chunk cannot hold a column without a value for each tick",
    );
    let mut reversed = one();
    reversed.columns.reverse();
    check(&[reversed], "a chunk cannot hold columns that are not in the catalogue's order");
    let long = ChunkSeries { ticks: (0..65_537).collect(), columns: vec![], ..one() };
    check(&[long], "payload holds 65537 ticks of one cgroup, allowed are 65536");
    let many: Vec<ChunkSeries> = (0..256)
        .map(|id| ChunkSeries { ticks: (0..65_536).collect(), columns: vec![], key: key(id) })
        .collect();
    check(&many, "payload holds 16778240 values, allowed are 16777216");
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let check = |payload: &[u8], expect: &str| {
        let error = decode_chunk(payload, MetricSet::all()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    };
    let payload = encode_chunk(&[series(1, &[whole([1, 2])])]).unwrap();
    let with_first = |byte: u8| [&[byte], &payload[1..]].concat();
    check(&[], "ends in the middle");
    check(&payload[..4], "ends in the middle");
    check(&with_first(0x01), "payload is a tick, not a chunk");
    check(&with_first(0x02), "payload is a tick, not a chunk");
    check(&with_first(0x71), "payload is of unknown form, not a chunk");
    check(&with_first(0x32), "format version 2, this server reads up to 1");
    check(&with_first(0x30), "format version 0, this server reads up to 1");
    check(&payload[..payload.len() - 1], "is damaged: checksum");
    check(&frame::CHUNK.envelop(b"no zstd").0, "decompress payload");
    // A series is: key, metrics, count of ticks, length, ticks, then for each metric length, presence, numbers.
    let check = |body: &[u8], expect: &str| check(&sealed(body), expect);
    check(&[], "ends in the middle");
    check(&[0, 1], "1 bytes after its end");
    check(&[1, 0, 7, 0, 1, 9, 0], "ends in the middle");
    check(&[2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0], "keys that do not ascend");
    check(&[1, 0, 7, 0, 0, 1, 0], "1 bytes after its end");
    check(&[1, 0, 7, 0, 2, 3, 0, 5, 0], "ticks that do not ascend");
    // 2^54 ms are more µs than fit.
    check(
        &[1, 0, 7, 0, 1, 10, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0],
        "ticks that do not ascend",
    );
    check(&[1, 0, 7, 0x80, 0x80, 1, 0, 0], "group 13 of metrics,");
    check(&[1, 0, 7, 0, 0x81, 0x80, 4, 0], "65537 ticks of one cgroup, allowed are 65536");
    let of_cpu = |column: &[u8]| {
        let len = u8::try_from(column.len()).unwrap();
        // Three ticks, at 5, 6 and 7 ms.
        [&[1, 0, 7, 2, 1, 3, 5, 1, 5, 1, 0, 2][..], &[len], column].concat()
    };
    check(&of_cpu(&[]), "ends in the middle");
    check(&of_cpu(&[0, 0, 9]), "ends in the middle");
    check(&of_cpu(&[0, 0, 9, 0, 0]), "1 bytes after its end");
    check(&of_cpu(&[2, 1, 1]), "runs of values for more or fewer ticks");
    check(&of_cpu(&[2, 1, 3]), "runs of values for more or fewer ticks");
    check(&of_cpu(&[3, 0, 0, 3]), "an empty run");
    check(&of_cpu(&[0, 0, 9, 3, 0, 0, 0, 2, 2, 2]), "a step behind the last number");
    check(&of_cpu(&[0, 0, 9, 1, 2, 2]), "a step behind the last number");
    check(&of_cpu(&[0, 0, 9, 2, 1, 0, 2, 2]), "two steps at one number");
    check(&of_cpu(&[0, 2, 9, 2]), "ends in the middle");
}

#[test]
fn a_few_bytes_do_not_claim_much() {
    // Series of a tick column alone, which says 65,536 ticks in eleven bytes.
    let claim = [0, 1, 0, 0x80, 0x80, 4, 5, 1, 0, 1, 0, 2];
    let body = |count: u64| {
        let mut body = Vec::new();
        put_varint(&mut body, count);
        (0..count).for_each(|_| body.extend(claim));
        sealed(&body)
    };
    assert_eq!(decode_chunk(&body(255), MetricSet::all()).unwrap().len(), 255);
    let error = decode_chunk(&body(100_000), MetricSet::all()).unwrap_err().to_string();
    assert_eq!(error, "payload holds 16778240 values, allowed are 16777216");
}

#[test]
fn every_flipped_bit_and_every_cut_is_an_error() {
    let noise = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 5_000;
    let samples = [
        vec![],
        vec![series(7, &[whole([1, 2, 3])])],
        vec![series(7, &[whole([9; 360]), vec![None; 360], whole((0..360).map(noise))])],
        (0..40).map(|id| series(id, &[whole([id, id + 1, noise(id)]), vec![None, Some(id), None]])).collect(),
    ];
    for sample in samples {
        let payload = encode_chunk(&sample).unwrap();
        assert_eq!(decode_chunk(&payload, MetricSet::all()).unwrap(), sample);
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_chunk(&damaged, MetricSet::all()).is_err(), "bit {bit} of {payload:x?}");
        }
        for len in 0..payload.len() {
            assert!(decode_chunk(&payload[..len], MetricSet::all()).is_err(), "{len} bytes of {payload:x?}");
        }
    }
}

/// The chunk that docs/storage.md shows.
fn example() -> ChunkSeries {
    ChunkSeries {
        key: key(4242),
        ticks: vec![1_700_000_000_000_000, 1_700_000_010_000_000, 1_700_000_020_000_000],
        columns: vec![
            ChunkColumn { metric: Metric::CpuUsage, values: whole([1_000, 1_000, 1_250]) },
            ChunkColumn { metric: Metric::MemoryCurrent, values: vec![None, Some(8_192), Some(8_192)] },
        ],
    }
}

#[test]
fn the_page_shows_a_chunk_as_it_is_written() {
    assert_eq!(format!("{:02x?}", body(&example())), format!("{:02x?}", shown("A cgroup with three ticks")));
    for (limit, said) in [(TICKS_MAX, "65,536 ticks"), (VALUES_MAX, "16,777,216 values")] {
        assert_eq!(limit.to_string(), said.replace(|byte: char| !byte.is_ascii_digit(), ""));
        assert!(STORAGE_PAGE.contains(said), "{said}");
    }
}

#[test]
fn what_servers_have_stored_is_read_as_it_was() {
    assert_eq!(decode_chunk(&bytes(STORED), MetricSet::all()).unwrap(), [example()]);
}

/// A payload as the first version was written.
const STORED: &str =
    "319570466328b52ffd202319010001009221060101030a1380d095ffbc31e20900070006e80700fa010702010200804000";

#[test]
fn a_builder_makes_columns_of_ticks() {
    let values = |metrics: &[(Metric, u64)]| MetricValues {
        present: metrics.iter().map(|(metric, _)| *metric).collect(),
        values: metrics.iter().map(|(_, value)| *value).collect(),
    };
    let [usage, user, system] = CPU;
    let mut builder = ChunkBuilder::default();
    assert!(builder.is_empty());
    builder.push(10, key(5), &values(&[(usage, 1), (system, 2)]));
    builder.push(10, key(9), &values(&[]));
    builder.push(20, key(3), &values(&[(user, 3)]));
    builder.push(20, key(5), &values(&[(usage, 4), (user, 5), (system, 6)]));
    builder.push(30, key(5), &values(&[(user, 7)]));
    builder.push(40, key(5), &values(&[(user, 0)]));
    assert_eq!(builder.len(), 3);
    let column = |metric, values: &[Option<u64>]| ChunkColumn { metric, values: values.to_vec() };
    let expect = [
        ChunkSeries { key: key(3), ticks: vec![20], columns: vec![column(user, &[Some(3)])] },
        ChunkSeries {
            key: key(5),
            ticks: vec![10, 20, 30, 40],
            columns: vec![
                column(usage, &[Some(1), Some(4), None, None]),
                column(user, &[None, Some(5), Some(7), Some(0)]),
                column(system, &[Some(2), Some(6), None, None]),
            ],
        },
        ChunkSeries { key: key(9), ticks: vec![10], columns: vec![] },
    ];
    assert_eq!(builder.finish(), expect);
}
