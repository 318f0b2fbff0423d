//! Minutes and hours against what anybody would compute from what was put in; and what they take.

use std::collections::BTreeMap;

use cgfleet_model::{Metric, MetricGroup, MetricKind, MetricSet};
use cgfleet_proto::v1::{CgroupSample, CpuSample, IoSample, MemorySample, PidsSample};
use cgfleet_server::store::codec::CgroupKey;

use crate::{
    compaction::compactor,
    fixture::{TestDatabase, at, id, sample},
    heads::{HeadWriter, Source, usec},
};

/// One cgroup at one tick, as rollups see it.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at_usec: i64,
    /// The number of the tick; where it does not follow the one before, ticks are missing.
    sequence: u64,
    boot: u128,
    counters: [Option<u64>; 4],
    gauges: [Option<u64>; 2],
}

const COUNTERS: [&str; 4] = ["cpu_usage_usec", "cpu_throttled_usec", "io_rbytes", "io_wbytes"];
const GAUGES: [&str; 2] = ["memory_current_bytes", "pids_current"];

fn reading(at_usec: i64, source: Source, sample: &CgroupSample) -> Reading {
    let (cpu, io) = (sample.cpu.as_ref(), sample.io.as_ref());
    Reading {
        at_usec,
        sequence: source.sequence,
        boot: source.boot,
        counters: [
            cpu.and_then(|cpu| cpu.usage_usec),
            cpu.and_then(|cpu| cpu.throttled_usec),
            io.and_then(|io| io.rbytes),
            io.and_then(|io| io.wbytes),
        ],
        gauges: [
            sample.memory.as_ref().and_then(|memory| memory.current_bytes),
            sample.pids.as_ref().and_then(|pids| pids.current),
        ],
    }
}

#[allow(clippy::cast_precision_loss, reason = "what is compared has 24 bits")]
fn float(value: u64) -> f64 {
    value as f64
}

/// What the views have to show of one stretch of `step` microseconds: rates, lasts of counters, then last, mean and max of gauges.
fn naive(readings: &[Reading], step_usec: i64) -> BTreeMap<(u128, i64), Vec<Option<f64>>> {
    let mut found = BTreeMap::new();
    let stretches: std::collections::BTreeSet<_> =
        readings.iter().map(|reading| (reading.boot, reading.at_usec.div_euclid(step_usec))).collect();
    for (boot, stretch) in stretches {
        let is_in =
            |reading: &Reading| reading.boot == boot && reading.at_usec.div_euclid(step_usec) == stretch;
        let mut values = Vec::new();
        for nth in 0..COUNTERS.len() {
            let (mut grown, mut elapsed) = (0.0, 0.0);
            for pair in readings.windows(2).filter(|pair| is_in(&pair[1])) {
                let follows = pair[0].sequence + 1 == pair[1].sequence && pair[0].boot == pair[1].boot;
                if let (true, Some(before), Some(after)) =
                    (follows, pair[0].counters[nth], pair[1].counters[nth])
                    && after >= before
                {
                    grown += float(after - before);
                    elapsed += float(pair[1].at_usec.abs_diff(pair[0].at_usec)) / 1e6;
                }
            }
            values.push((elapsed > 0.0).then_some(grown / elapsed));
        }
        for nth in 0..GAUGES.len() {
            let measured: Vec<f64> = readings
                .iter()
                .filter(|reading| is_in(reading))
                .filter_map(|reading| Some(float(reading.gauges[nth]?)))
                .collect();
            values.push(measured.last().copied());
            values.push(
                (!measured.is_empty()).then(|| measured.iter().sum::<f64>() / float(measured.len() as u64)),
            );
            values.push(measured.iter().copied().reduce(f64::max));
        }
        found.insert((boot, stretch * step_usec), values);
    }
    found
}

/// What a view shows of a cgroup, by boot and time.
fn shown(database: &TestDatabase, view: &str, key: CgroupKey) -> BTreeMap<(u128, i64), Vec<Option<f64>>> {
    let columns = COUNTERS
        .iter()
        .map(|counter| format!("{counter}_rate"))
        .chain(GAUGES.iter().flat_map(|gauge| ["last", "mean", "max"].map(|part| format!("{gauge}_{part}"))));
    let time = view.trim_start_matches("cgroup_");
    let rows = database.sql(&format!(
        "select boot_id, (extract(epoch from {time}) * 1000000)::bigint, {}
         from {view} where host_id = '{}' and hierarchy_id = {} and cgroup_id = {} order by 1, 2",
        columns.collect::<Vec<_>>().join(", "),
        id(1),
        key.hierarchy_id,
        key.cgroup_id,
    ));
    let mut found = BTreeMap::new();
    for row in rows.lines() {
        let fields: Vec<&str> = row.split('|').collect();
        let boot = uuid::Uuid::parse_str(fields[0]).unwrap().as_u128();
        let values = fields[2..].iter().map(|field| field.parse().ok()).collect();
        let twice = found.insert((boot, fields[1].parse().unwrap()), values);
        assert!(twice.is_none(), "{view} has {row} twice");
    }
    found
}

fn check(database: &TestDatabase, readings: &BTreeMap<CgroupKey, Vec<Reading>>) {
    for (key, readings) in readings {
        for (view, step) in [("cgroup_minute", 60_000_000), ("cgroup_hour", 3_600_000_000)] {
            let (expect, found) = (naive(readings, step), shown(database, view, *key));
            assert_eq!(
                expect.keys().collect::<Vec<_>>(),
                found.keys().collect::<Vec<_>>(),
                "{view} of {key:?}"
            );
            for (time, expect) in &expect {
                for (nth, (expect, found)) in expect.iter().zip(&found[time]).enumerate() {
                    let agrees = match (expect, found) {
                        (Some(expect), Some(found)) => (expect - found).abs() <= expect.abs() * 1e-5,
                        (expect, found) => expect.is_none() && found.is_none(),
                    };
                    assert!(agrees, "{view} of {key:?} at {time:?}, value {nth}: {found:?}, not {expect:?}");
                }
            }
        }
    }
}

/// Cgroups that do all there is to do: 1 works, 2 is idle, 3 has counters that are reset, 4 loses its memory now and then, 5 is
/// there in every third minute, 6 works in bursts, 7 has nothing at all, 8 is idle at first.
fn everything(sequence: u64) -> Vec<CgroupSample> {
    let noise = |n: u32| sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7 * n) % 1_000;
    let full = |cgroup_id, usage: u64, memory: Option<u64>, io: Option<u64>| CgroupSample {
        cpu: Some(CpuSample {
            usage_usec: Some(usage),
            throttled_usec: Some(usage / 1_000_000),
            ..CpuSample::default()
        }),
        memory: memory
            .map(|current| MemorySample { current_bytes: Some(current), ..MemorySample::default() }.into()),
        io: io.map(|bytes| {
            IoSample { rbytes: Some(bytes), wbytes: Some(bytes / 3), ..IoSample::default() }.into()
        }),
        pids: Some(PidsSample { current: Some(3 + usage % 4), ..PidsSample::default() }),
        ..sample(cgroup_id, 0)
    };
    let mut samples = vec![
        full(
            1,
            sequence * 1_000_000 + noise(1),
            Some(4_096 * (1_000 + noise(2))),
            Some(sequence * 4_096 + noise(3)),
        ),
        full(2, 4_000, Some(8_192), Some(12_288)),
        full(3, (sequence % 50) * 1_000, Some(4_096), Some(sequence % 100 * 512)),
        full(4, sequence, (!(sequence / 4).is_multiple_of(3)).then(|| 4_096 * noise(4)), None),
        full(
            6,
            sequence / 60 * 60 + if sequence % 60 < 10 { sequence % 60 } else { 10 },
            Some(4_096),
            Some(0),
        ),
        CgroupSample { cpu: None, ..sample(7, 0) },
        full(8, 4_000 * sequence.max(600), Some(4_096), None),
    ];
    samples.extend(
        (sequence / 6).is_multiple_of(3).then(|| full(5, sequence * 7, Some(4_096 * sequence), None)),
    );
    samples
}

#[tokio::test]
async fn minutes_and_hours_are_what_the_ticks_say() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    let mut readings = BTreeMap::<CgroupKey, Vec<Reading>>::new();
    let mut write = async |seconds_tenth: u64, source: Source| {
        let at_usec = usec(0) + i64::try_from(seconds_tenth).unwrap() * 100_000;
        let samples = everything(source.sequence);
        writer.write(at_usec, source, &samples).await;
        for sample in &samples {
            readings.entry(CgroupKey::of(sample)).or_default().push(reading(at_usec, source, sample));
        }
    };
    // Ten seconds apart for an hour and a half, with ticks that are missing, and a tick now and then that is late.
    for sequence in (0_u64..200).chain(207..300).chain(380..540) {
        write(
            100 * sequence + u64::from(sequence.is_multiple_of(7)) * 13,
            Source { boot: 1, epoch: 1, sequence },
        )
        .await;
    }
    // A reboot, on a minute; then two seconds apart, so that an hour has several windows.
    for n in 0..1_000 {
        write(54_600 + 20 * n, Source { boot: 2, epoch: 2, sequence: 540 + n }).await;
    }
    // A minute apart.
    for n in 0..130 {
        write(100_000 + 600 * n, Source { boot: 2, epoch: 3, sequence: n }).await;
    }
    let windows = compactor(&store).round(at(17_800) + std::time::Duration::from_hours(1)).await.unwrap();
    assert!(windows > 6, "{windows}");
    check(&database, &readings);
    // 2 never changes, nor does 8 in this boot, and 7 has nothing: their hours say it all. An hour of several windows is one row a cgroup.
    let constant = "select string_agg(distinct cgroup_id::text, ' ') from rollup_hour where constant and boot_id = '00000000-0000-0000-0000-000000000001'";
    assert_eq!(database.sql(constant), "2 7 8");
    let twice = "select count(*) from (select 1 from rollup_hour group by host_id, boot_id, cgroup_id, from_at having count(*) > 1) as twice";
    assert_eq!(database.sql(twice), "0");
    let named = "select distinct path from cgroup_minute where cgroup_id = 3";
    assert_eq!(database.sql(named), "/cgroup-3");
}

/// A host as hosts are: of 500 cgroups, 40 work all the time, 60 for minutes now and then, and 400 wait. About a tenth
/// changes in a tick, in the metrics that work changes.
struct Host {
    random: u64,
    samples: Vec<CgroupSample>,
}

impl Host {
    fn new(seed: u64) -> Self {
        let fields = "cpu,memory,memory_events,io,pids,pressure,structure,reclaim,attach";
        let metrics = MetricSet::from_paths(fields.split(',')).unwrap();
        let mut host = Self { random: seed, samples: Vec::new() };
        for cgroup_id in 1..=500 {
            let mut sample = sample(cgroup_id, 0);
            for metric in metrics.iter() {
                // What a cgroup of some age shows: limits are not set, many events never happened.
                let value = match (metric.info().kind, metric.info().group) {
                    (MetricKind::Limit, _) => u64::MAX,
                    (_, MetricGroup::Cpu | MetricGroup::Pressure) => host.below(1 << 34),
                    (_, MetricGroup::Memory) => 4_096 * host.below(1 << 18),
                    (_, MetricGroup::Io) => 4_096 * host.below(1 << 20),
                    (_, MetricGroup::Pids) => 1 + host.below(40),
                    _ => host.below(2),
                };
                sample.set_metric(metric, Some(value));
            }
            host.samples.push(sample);
        }
        host
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*, Vigna 2016: the same numbers in every run.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }

    /// The next tick; how many cgroups changed.
    fn work(&mut self, tick: u64) -> usize {
        let works = |cgroup: u64| cgroup < 40 || cgroup < 100 && (tick / 30 + cgroup * 7) % 20 < 3;
        let mut changed = 0;
        for cgroup in (0..500).filter(|cgroup| works(*cgroup)) {
            changed += 1;
            let user = 1_000 * (cgroup + 1) + self.below(20_000 * (cgroup + 1));
            let system = user / 4 + self.below(5_000);
            let mut grows =
                vec![(Metric::CpuUsage, user + system), (Metric::CpuUser, user), (Metric::CpuSystem, system)];
            for (metric, percent, limit) in [
                (Metric::PressureCpuSome, 80, 50_000),
                (Metric::PressureCpuFull, 80, 20_000),
                (Metric::PressureIoSome, 50, 9_000),
                (Metric::PressureIoFull, 50, 9_000),
                (Metric::ReclaimCount, 2, 20),
            ] {
                if self.below(100) < percent {
                    grows.push((metric, self.below(limit)));
                }
            }
            for (bytes, requests, percent) in
                [(Metric::IoWbytes, Metric::IoWios, 60), (Metric::IoRbytes, Metric::IoRios, 20)]
            {
                if self.below(100) < percent {
                    let count = 1 + self.below(60);
                    grows.extend([(bytes, 4_096 * count * (1 + self.below(8))), (requests, count)]);
                }
            }
            let pages = self.below(4_096);
            let forks = self.below(100) < 5;
            let tasks = 1 + self.below(40);
            let sample = &mut self.samples[usize::try_from(cgroup).unwrap()];
            for (metric, by) in grows {
                sample.set_metric(metric, sample.metric(metric).map(|value| value + by));
            }
            let memory = sample.metric(Metric::MemoryCurrent).unwrap_or_default();
            let memory = (memory + 4_096 * pages).saturating_sub(4_096 * 2_048);
            sample.set_metric(Metric::MemoryCurrent, Some(memory));
            sample.set_metric(Metric::MemoryPeak, sample.metric(Metric::MemoryPeak).max(Some(memory)));
            if forks {
                sample.set_metric(Metric::PidsCurrent, Some(tasks));
            }
        }
        changed
    }
}

#[tokio::test]
async fn rollups_take_a_quarter_of_the_head_at_most() {
    const HOSTS: u128 = 8;
    let database = TestDatabase::create();
    let store = database.store().await;
    let (mut host, mut changed) = (Host::new(1), 0);
    let mut writer = HeadWriter::open_all(&store, 1..=HOSTS).await;
    for sequence in 0..361 {
        changed += host.work(sequence);
        // Not quite every ten seconds, as timers are.
        let at_usec = usec(10 * sequence) + i64::try_from(host.below(3_000)).unwrap();
        writer.write(at_usec, Source { boot: 1, epoch: 1, sequence }, &host.samples).await;
    }
    assert!((361 * 40..361 * 60).contains(&changed), "{changed} changes, of 180,500");
    assert_eq!(u128::from(compactor(&store).round(at(3_610)).await.unwrap()), HOSTS);
    // Of the hour and not of those that are made ahead.
    let bytes = ["head_2025110812", "chunk_20251108", "rollup_minute_20251108", "rollup_hour_20251101"].map(
        |table| database.sql(&format!("select pg_total_relation_size('{table}')")).parse::<u64>().unwrap(),
    );
    let [head, chunk, minute, hour] = bytes;
    let figures = format!("head {head}, chunk {chunk}, rollup_minute {minute}, rollup_hour {hour} bytes");
    assert!(4 * (minute + hour) <= head, "{figures}");
    assert!(chunk <= 8 * 180_000 * 8, "{figures}");
    println!("{figures}");
}
