//! The past, read from whichever tier has it.

use std::collections::BTreeMap;

use cgfleet_model::{Metric, TimeRange, WorkloadFilter};
use cgfleet_proto::v1::{self, CgroupSample, MemorySample};
use cgfleet_server::{
    history::{
        Aggregation, Answer, Cgroup, FoundSeries, GroupBy, Grouping, HostSeries, Measure, SeriesSet, Steps,
        Tier, coarsest,
    },
    store::{
        self, CgroupFilter, CgroupSelector, HistoryEvent, SeriesPage, Store, StoredCgroup, codec::CgroupKey,
        is_rolled_up, unix_usec,
    },
};

use crate::{
    compaction::compactor,
    fixture::{TestDatabase, at, id, sample},
    heads::{HeadWriter, Points, Source, points_of, usec},
};

const SECOND: i64 = 1_000_000;
const TICKS: u64 = 740;

fn with_memory(sample: CgroupSample, current_bytes: u64) -> CgroupSample {
    let memory = MemorySample { current_bytes: Some(current_bytes), ..MemorySample::default() };
    CgroupSample { memory: Some(memory.into()), ..sample }
}

/// Cgroup 5 grows unevenly and is reset once, 6 does not change, 100 + n are there for ten ticks, all have memory.
fn world(host: u128, sequence: u64) -> Vec<CgroupSample> {
    let steady = sequence * sequence * u64::try_from(host).unwrap() * 1_000;
    let usage = if sequence < 200 { steady } else { steady - 200 * 200 * 1_000 };
    let short = (sequence.saturating_sub(9)..=sequence).filter(|n| n % 10 == 0);
    short
        .map(|n| with_memory(sample(100 + n, n * sequence), 4_096 * n))
        .chain([with_memory(sample(5, usage), 4_096 * (sequence % 7)), with_memory(sample(6, 7), 4_096)])
        .collect()
}

/// Writes two hosts' ticks, ten seconds apart from noon on.
async fn write(store: &Store) -> Points {
    let mut points = Points::new();
    for host in [1, 2] {
        let mut writer = HeadWriter::open(store, host).await;
        for sequence in 0..TICKS {
            let (at_usec, samples) = (usec(10 * sequence), world(host, sequence));
            writer.write(at_usec, Source { boot: 1, epoch: 7, sequence }, &samples).await;
            if host == 1 {
                points.extend(points_of(at_usec, 1, &samples));
            }
        }
    }
    points
}

/// The answer of both hosts, and from where it was read.
async fn ask(
    store: &Store,
    measures: &[Measure],
    steps: Steps,
    grouping: &Grouping,
    tier: Tier,
) -> (BTreeMap<String, FoundSeries>, Vec<store::Tier>) {
    let range = TimeRange::new(at(0), at(10 * TICKS)).unwrap();
    let all = store.filtered_cgroups(&[id(1), id(2)], &CgroupFilter::default(), range, 10_000).await.unwrap();
    let of = |host| {
        let mine = all.iter().filter(|cgroup| cgroup.host_id == id(host));
        let mine = mine.map(|StoredCgroup { identity, names, .. }| Cgroup {
            identity: identity.clone(),
            names: names.clone(),
        });
        HostSeries::new(id(host), measures, steps, grouping, &mine.collect::<Vec<_>>(), 10_000)
    };
    let mut hosts = vec![of(1), of(2)];
    let (mut since, mut tiers) = (steps.since(), Vec::new());
    // Pages of uneven length, as far as the tier allows: none may lose or repeat what is at its ends.
    let minutes = if tier == Tier::Hours { 60 } else { 37 };
    while since < steps.until() {
        let until = (since + minutes * 60 * SECOND).min(steps.until());
        let page = SeriesPage { since, until, is_first: since == steps.since(), tier, measures, steps };
        let read = store.read_series(hosts, page).await.unwrap();
        hosts = read.hosts;
        tiers.extend(read.tiers.into_iter().map(|read| read.tier));
        since = until;
    }
    let mut set = SeriesSet::new(measures.to_vec(), steps, None, 10_000_000, 100_000);
    for host in hosts {
        host.finish(&mut set).unwrap();
    }
    tiers.sort_unstable();
    tiers.dedup();
    let Answer { series, .. } = set.drain();
    (
        series.into_iter().map(|series| (format!("{:?} {:?}", series.key, series.measure), series)).collect(),
        tiers,
    )
}

fn measures() -> Vec<Vec<Measure>> {
    let aggregations = [
        None,
        Some(Aggregation::Last),
        Some(Aggregation::Max),
        Some(Aggregation::Min),
        Some(Aggregation::Sum),
        Some(Aggregation::Percentile(95)),
    ];
    let of = |asked| {
        [Metric::CpuUsage, Metric::MemoryCurrent].map(|metric| Measure::of(metric, asked).unwrap()).to_vec()
    };
    aggregations.into_iter().map(of).collect()
}

fn all_steps() -> [Steps; 4] {
    let (since, until) = (usec(605), usec(7_300));
    [
        Steps::whole(since, until),
        Steps::aligned(since, until, 60 * SECOND),
        Steps::aligned(since, until, 7 * SECOND),
        Steps::aligned(usec(0), usec(7_200), 3_600 * SECOND),
    ]
}

#[tokio::test]
async fn ticks_give_the_same_answers_before_and_after_they_become_chunks() {
    let database = TestDatabase::create();
    let store = database.store().await;
    write(&store).await;
    let groupings = [Grouping(vec![GroupBy::Cgroup]), Grouping(vec![GroupBy::Path]), Grouping(Vec::new())];
    let mut before = Vec::new();
    for measures in measures() {
        for (steps, grouping) in
            all_steps().into_iter().flat_map(|steps| groupings.iter().map(move |by| (steps, by)))
        {
            let (answer, tiers) = ask(&store, &measures, steps, grouping, Tier::Ticks).await;
            assert_eq!(tiers, [store::Tier::Head]);
            before.push((measures.clone(), steps, grouping, answer));
        }
    }
    assert_eq!(compactor(&store).round(at(10 * TICKS)).await.unwrap(), 4);
    for is_dropped in [false, true] {
        if is_dropped {
            // What is compacted is not needed in the head any more.
            database.sql("drop table head_2025110812, head_2025110813");
        }
        for (measures, steps, grouping, expect) in &before {
            let (answer, tiers) = ask(&store, measures, *steps, grouping, Tier::Ticks).await;
            assert!(tiers.contains(&store::Tier::Chunk), "{measures:?} {steps:?}: {tiers:?}");
            for (key, expect) in expect {
                assert_eq!(answer.get(key), Some(expect), "{steps:?}");
            }
            assert_eq!(answer.len(), expect.len(), "{measures:?} {steps:?} {grouping:?}");
        }
    }
}

#[tokio::test]
async fn rollups_give_the_same_answers_as_ticks() {
    let database = TestDatabase::create();
    let store = database.store().await;
    write(&store).await;
    compactor(&store).round(at(10 * TICKS)).await.unwrap();
    let grouping = Grouping(vec![GroupBy::Cgroup]);
    let mut asked = 0;
    let (since, until) = (usec(600), usec(7_320));
    let steps = [
        Steps::aligned(since, until, 60 * SECOND),
        Steps::aligned(since, until, 300 * SECOND),
        // Steps that begin in one hour and end in another.
        Steps::aligned(since, until, 420 * SECOND),
        Steps::aligned(usec(0), until, 5_400 * SECOND),
        Steps::aligned(usec(0), usec(7_200), 3_600 * SECOND),
        Steps::whole(usec(0), usec(3_600)),
    ];
    for measure in measures().into_iter().flatten() {
        for steps in steps {
            let tier = coarsest(&[measure], steps, is_rolled_up);
            if tier == Tier::Ticks {
                continue;
            }
            asked += 1;
            let (answer, tiers) = ask(&store, &[measure], steps, &grouping, tier).await;
            let rollup =
                if tier == Tier::Hours { store::Tier::RollupHour } else { store::Tier::RollupMinute };
            assert!(tiers.contains(&rollup), "{measure:?} {steps:?}: {tiers:?}");
            let (expect, _) = ask(&store, &[measure], steps, &grouping, Tier::Ticks).await;
            assert_eq!(
                answer.keys().collect::<Vec<_>>(),
                expect.keys().collect::<Vec<_>>(),
                "{measure:?} {steps:?}"
            );
            for (key, expect) in &expect {
                let found = &answer[key];
                let values = |series: &FoundSeries| {
                    series.points.iter().map(|point| (point.from, point.value)).collect::<Vec<_>>()
                };
                let (found, expect) = (values(found), values(expect));
                assert_eq!(found.len(), expect.len(), "{key} {steps:?}: {found:?} {expect:?}");
                for (found, expect) in found.iter().zip(&expect) {
                    // Rollups have 24 bits, and several minutes count alike, also that with the reset.
                    let share = if tier == Tier::Minutes && steps.length() != Some(60 * SECOND) {
                        1e-2
                    } else {
                        1e-5
                    };
                    let is_close = (found.1 - expect.1).abs() <= share * expect.1.abs();
                    assert!(found.0 == expect.0 && is_close, "{key} {steps:?}: {found:?} {expect:?}");
                }
            }
        }
    }
    assert!(asked >= 12, "{asked}");
}

async fn points(store: &Store, since: u64, until: u64) -> Points {
    let range = TimeRange::new(at(since), at(until)).unwrap();
    let cgroups = store.filtered_cgroups(&[id(1)], &CgroupFilter::default(), range, 10_000).await.unwrap();
    let identities = cgroups.into_iter().map(|cgroup| cgroup.identity).collect();
    let mut reader = store.history(id(1), identities, range);
    let (mut points, mut last) = (Points::new(), i64::MIN);
    while let Some(page) = reader.next_page().await.unwrap() {
        for event in page {
            let HistoryEvent::Point { tick_at, sample } = event else { panic!("{event:?}") };
            let at_usec = unix_usec(tick_at);
            assert!(at_usec >= last, "points out of order");
            last = at_usec;
            for (point, values) in points_of(at_usec, 1, &[*sample]) {
                assert!(points.insert(point, values).is_none(), "{point:?} came twice");
            }
        }
    }
    points
}

#[tokio::test]
async fn points_are_read_once_from_wherever_they_are() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let all = write(&store).await;
    let check = async |since: u64, until: u64| {
        let is_in = |at_usec: i64| (usec(since)..usec(until)).contains(&at_usec);
        let expect: Points = all
            .iter()
            .filter(|((.., at), _)| is_in(*at))
            .map(|(point, values)| (*point, values.clone()))
            .collect();
        let found = points(&store, since, until).await;
        assert_eq!(found.len(), expect.len(), "{since} {until}");
        assert!(found == expect, "{since} {until}");
    };
    for compacted in [false, true] {
        if compacted {
            compactor(&store).round(at(10 * TICKS)).await.unwrap();
            database.sql("delete from head where tick_at < '2025-11-08 14:00:00+00'");
        }
        for (since, until) in
            [(0, 7_400), (3_605, 3_606), (3_590, 3_611), (1_000, 7_195), (7_190, 7_201), (7_205, 7_395)]
        {
            check(since, until).await;
        }
    }
}

#[tokio::test]
async fn cgroups_are_chosen_by_path_and_by_what_runs_in_them() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let uid = "0f1a4f66-3e0a-4f5a-9d59-6a7f35b3a9d1";
    let pod = format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_"));
    let container = format!("{pod}/cri-containerd-{}.scope", "3f4a9b12cdef".repeat(6).get(..64).unwrap());
    let paths =
        ["/", "/a.slice", "/a.slice/b.service", "/a.slice/b.service/c", "/a.slicer", &pod, &container];
    let samples: Vec<CgroupSample> = (1..)
        .zip(paths)
        .map(|(cgroup_id, path)| CgroupSample { path: path.to_owned(), ..sample(cgroup_id, 1) })
        .collect();
    let mut writer = HeadWriter::open(&store, 1).await;
    writer.write(usec(0), Source { boot: 1, epoch: 7, sequence: 0 }, &samples).await;
    let check = async |filter: CgroupFilter, expect: &[u64]| {
        let range = TimeRange::new(at(0), at(100)).unwrap();
        let found = store.filtered_cgroups(&[id(1), id(2)], &filter, range, 100).await.unwrap();
        let mut found: Vec<u64> = found.iter().map(|cgroup| cgroup.identity.key.cgroup_id).collect();
        found.sort_unstable();
        assert_eq!(found, expect, "{filter:?}");
    };
    let glob = |glob: &str| CgroupFilter { path_glob: Some(glob.to_owned()), ..CgroupFilter::default() };
    check(CgroupFilter::default(), &[1, 2, 3, 4, 5, 6, 7]).await;
    check(glob("/a.slice/*"), &[3]).await;
    check(glob("/a.slice/**"), &[3, 4]).await;
    check(glob("/?.slice"), &[2]).await;
    check(glob("**.slice"), &[2, 6]).await;
    check(glob("/axslice"), &[]).await;
    let below = |path: &str| CgroupFilter { subtree: Some(path.to_owned()), ..CgroupFilter::default() };
    check(below("/a.slice"), &[2, 3, 4]).await;
    check(below("/"), &[1, 2, 3, 4, 5, 6, 7]).await;
    let workload = |pod: &str, container: &str, unit: &str| {
        let asked = v1::WorkloadFilter { pod: pod.into(), container: container.into(), unit: unit.into() };
        let parsed: Option<WorkloadFilter> = cgfleet_proto::workload_filter(Some(&asked)).unwrap();
        CgroupFilter { workload: Some((asked, parsed.unwrap())), ..CgroupFilter::default() }
    };
    check(workload(uid, "", ""), &[6, 7]).await;
    check(workload("", "3f4a9b12cdef", ""), &[7]).await;
    check(workload("", "", "b.service"), &[3, 4]).await;
    check(workload("", "", "a.slice"), &[2, 3, 4]).await;
    check(CgroupFilter { path_glob: Some("**/c".into()), ..workload("", "", "a.slice") }, &[4]).await;
    let key = CgroupSelector::Key(CgroupKey { hierarchy_id: 0, cgroup_id: 3 });
    assert_eq!(store.named_cgroups(&[id(1), id(2)], key, at(100), 10).await.unwrap().len(), 1);
}
