//! Any chunk reads back as it was.

use proptest::{collection, option, prelude::*};

use super::*;

/// Values of one metric as metrics move: counters with resets, gauges in pages, limits, and anything.
fn any_values(ticks: usize) -> impl Strategy<Value = Vec<Option<u64>>> {
    let step = prop_oneof![
        8 => Just(0_u64), 4 => 0_u64..200, 2 => any::<u32>().prop_map(u64::from), 1 => any::<u64>(),
    ];
    let walk = (any::<u64>(), 0_u32..13, collection::vec(step, ticks)).prop_map(|(first, shift, steps)| {
        let add = |value: &mut u64, step: u64| {
            *value = value.wrapping_add(step << shift);
            Some(*value)
        };
        steps.into_iter().scan(first, add).collect::<Vec<u64>>()
    });
    let values = prop_oneof![
        4 => walk,
        1 => any::<u64>().prop_map(move |value| vec![value; ticks]),
        1 => (any::<u64>(), any::<u64>()).prop_map(move |(first, step)| {
            (0..ticks as u64).map(|at| first.wrapping_add(step.wrapping_mul(at))).collect()
        }),
        1 => collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], ticks),
    ];
    // Where it was absent, from a tick on for some.
    let absent = collection::vec((0..=ticks, 0..=ticks), 0..3);
    (values, option::of(absent)).prop_map(|(values, absent)| {
        let is_absent =
            |at: usize| absent.iter().flatten().any(|(from, len)| (*from..from + len).contains(&at));
        values.into_iter().enumerate().map(|(at, value)| (!is_absent(at)).then_some(value)).collect()
    })
}

fn any_series() -> impl Strategy<Value = ChunkSeries> {
    let tick_step = prop_oneof![10 => Just(10_000_000_i64), 3 => 1_i64..20_000_000, 1 => 1_i64..1 << 44];
    let ticks = (any::<i32>(), prop_oneof![Just(1_000), Just(1)], collection::vec(tick_step, 0..80))
        .prop_map(|(first, unit, steps)| {
            let after = |tick: &mut i64, step: i64| {
                *tick += step.div_euclid(unit).max(1) * unit;
                Some(*tick)
            };
            steps.into_iter().scan(i64::from(first) * unit, after).collect::<Vec<i64>>()
        });
    let metrics = collection::btree_set(0..Metric::ALL.len(), 0..6);
    (ticks, metrics).prop_flat_map(|(ticks, metrics)| {
        let columns: Vec<_> = metrics
            .into_iter()
            .map(|metric| {
                any_values(ticks.len())
                    .prop_map(move |values| ChunkColumn { metric: Metric::ALL[metric], values })
            })
            .collect();
        (Just(ticks), columns).prop_map(|(ticks, columns)| ChunkSeries {
            key: CgroupKey { hierarchy_id: 0, cgroup_id: 0 },
            ticks,
            columns,
        })
    })
}

fn any_chunk() -> impl Strategy<Value = Vec<ChunkSeries>> {
    let key = (0_u32..3, prop_oneof![0_u64..12, any::<u64>()]);
    collection::btree_map(key, any_series(), 0..6).prop_map(|all| {
        all.into_iter()
            .map(|((hierarchy_id, cgroup_id), series)| ChunkSeries {
                key: CgroupKey { hierarchy_id, cgroup_id },
                ..series
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_chunk_reads_back_as_it_was(chunk in any_chunk(), only: Vec<bool>) {
        let payload = encode_chunk(&chunk).unwrap();
        prop_assert_eq!(&decode_chunk(&payload, MetricSet::all()).unwrap(), &chunk);
        let metrics: MetricSet =
            Metric::ALL.iter().zip(only).filter(|(_, wanted)| *wanted).map(|(metric, _)| *metric).collect();
        let mut expect = chunk;
        for series in &mut expect {
            series.columns.retain(|column| metrics.contains(column.metric));
        }
        prop_assert_eq!(decode_chunk(&payload, metrics).unwrap(), expect);
    }
}
