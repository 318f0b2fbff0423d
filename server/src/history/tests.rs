//! Aggregates compared with what a few lines of arithmetic say, and who counts in a series.

use cgfleet_model::Metric;
use proptest::{collection, option, prelude::*};
use uuid::Uuid;

use super::*;
use crate::store::{CgroupIdentity, WorkloadNames, codec::CgroupKey};

const SECOND: i64 = 1_000_000;

fn cgroup(id: u64, path: &str) -> Cgroup {
    let identity = CgroupIdentity {
        boot_id: Uuid::from_u128(1),
        key: CgroupKey { hierarchy_id: 0, cgroup_id: id },
        parent_id: 1,
        level: 1,
        path: path.to_owned(),
    };
    Cgroup { identity, names: WorkloadNames::default() }
}

/// One cgroup's values, a tick each; `None` is a tick that has the cgroup and not the metric.
type Values = Vec<(i64, Option<u64>)>;

/// What there is of one cgroup in one step: values, or the rates of pairs with their growth and time.
#[derive(Default)]
struct Facts {
    values: Vec<f64>,
    grown: f64,
    seconds: f64,
    reset: bool,
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn facts(
    values: &Values,
    gaps: &[(i64, i64)],
    measure: Measure,
    steps: Steps,
    from: i64,
    until: i64,
) -> Facts {
    let mut facts = Facts::default();
    let is_in = |at: i64| (from..until).contains(&at);
    if !measure.is_of_growth() {
        facts.values = values
            .iter()
            .filter(|(at, _)| is_in(*at))
            .filter_map(|(_, value)| value.map(|value| value as f64))
            .collect();
        return facts;
    }
    for pair in values.windows(2) {
        let ((before_at, Some(before)), (at, Some(value))) = (pair[0], pair[1]) else { continue };
        let torn = gaps.iter().any(|(_, end)| before_at < *end && *end <= at);
        if !is_in(at) || torn || before_at < steps.since() - LOOKBACK {
            continue;
        }
        if value < before {
            facts.reset = true;
            continue;
        }
        let (grown, seconds) = ((value - before) as f64, (at - before_at) as f64 / 1e6);
        facts.values.push(grown / seconds);
        facts.grown += grown;
        facts.seconds += seconds;
    }
    facts
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
fn naive(
    all: &[Values],
    gaps: &[(i64, i64)],
    measure: Measure,
    steps: Steps,
    from: i64,
    until: i64,
) -> Option<f64> {
    let facts = all.iter().map(|values| facts(values, gaps, measure, steps, from, until));
    let facts: Vec<Facts> = facts.filter(|facts| !facts.values.is_empty()).collect();
    if facts.is_empty() {
        return None;
    }
    let sum = |of: &dyn Fn(&Facts) -> f64| facts.iter().map(of).sum::<f64>();
    let mut pooled: Vec<f64> = facts.iter().flat_map(|facts| facts.values.clone()).collect();
    pooled.sort_by(f64::total_cmp);
    Some(match measure.aggregation {
        Aggregation::Last => sum(&|facts| facts.values[facts.values.len() - 1]),
        Aggregation::Mean => sum(&|facts| facts.values.iter().sum::<f64>() / facts.values.len() as f64),
        Aggregation::Max => pooled[pooled.len() - 1],
        Aggregation::Min => pooled[0],
        Aggregation::Sum if measure.is_of_growth() => sum(&|facts| facts.grown),
        Aggregation::Sum => sum(&|facts| facts.values.iter().sum()),
        Aggregation::Rate => sum(&|facts| facts.grown / facts.seconds),
        Aggregation::Percentile(percent) => {
            let rank = (f64::from(percent) / 100.0 * pooled.len() as f64).ceil().max(1.0) as usize;
            pooled[rank - 1]
        }
    })
}

fn close(one: Option<f64>, other: Option<f64>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0),
        (one, other) => one == other,
    }
}

/// Some cgroups over some ticks, each now and then away or not measured, with counters that are reset.
fn any_world() -> impl Strategy<Value = (Vec<Values>, Vec<(i64, i64)>)> {
    let tick = (1_i64..30, prop_oneof![9 => Just(false), 1 => Just(true)]);
    let of_cgroup = option::weighted(
        0.9,
        option::weighted(0.9, (0_u64..100, prop_oneof![9 => Just(false), 1 => Just(true)])),
    );
    let ticks = collection::vec((tick, collection::vec(of_cgroup, 3)), 0..60);
    ticks.prop_map(|ticks| {
        let (mut at, mut counters, mut gaps) = (0, [0_u64; 3], Vec::new());
        let mut all = vec![Values::new(); 3];
        for ((distance, ends_gap), values) in ticks {
            let before = at;
            at += distance * SECOND;
            if ends_gap && before > 0 {
                gaps.push((before, at));
            }
            for (nth, value) in values.into_iter().enumerate() {
                let Some(value) = value else { continue };
                let value = value.map(|(grown, reset)| {
                    counters[nth] = if reset { grown / 2 } else { counters[nth] + grown };
                    counters[nth]
                });
                all[nth].push((at, value));
            }
        }
        (all, gaps)
    })
}

fn any_measure() -> impl Strategy<Value = Measure> {
    let metric = prop_oneof![Just(Metric::CpuUsage), Just(Metric::MemoryCurrent)];
    let aggregation = prop_oneof![
        Just(None),
        Just(Some(Aggregation::Last)),
        Just(Some(Aggregation::Mean)),
        Just(Some(Aggregation::Max)),
        Just(Some(Aggregation::Min)),
        Just(Some(Aggregation::Sum)),
        Just(Some(Aggregation::Rate)),
        prop_oneof![Just(50), Just(95), Just(99)].prop_map(|percent| Some(Aggregation::Percentile(percent))),
    ];
    (metric, aggregation).prop_filter_map("no rate of a gauge", |(metric, asked)| Measure::of(metric, asked))
}

/// What the engine makes of a world; cgroups that `split` names are of a second host.
fn answer(
    all: &[Values],
    gaps: &[(i64, i64)],
    measure: Measure,
    steps: Steps,
    grouping: &Grouping,
    split: &[bool],
) -> Answer {
    let mut set = SeriesSet::new(vec![measure], steps, None, usize::MAX, usize::MAX);
    for host in [false, true] {
        let mine: Vec<usize> = (0..all.len()).filter(|nth| split[*nth] == host).collect();
        let cgroups: Vec<Cgroup> =
            mine.iter().map(|nth| cgroup(10 + *nth as u64, &format!("/c{nth}"))).collect();
        let host_id = Uuid::from_u128(u128::from(host));
        let mut series = HostSeries::new(host_id, &[measure], steps, grouping, &cgroups, 100);
        for (after, before) in gaps {
            series.gap(*after, *before);
        }
        let mut ticks: Vec<(i64, usize, Option<u64>)> = mine
            .iter()
            .enumerate()
            .flat_map(|(place, nth)| all[*nth].iter().map(move |(at, value)| (*at, place, *value)))
            .collect();
        ticks.sort_unstable_by_key(|(at, place, _)| (*at, *place));
        for (at, place, value) in ticks {
            let identity = &cgroups[place].identity;
            let member = series.member((identity.boot_id, identity.key)).unwrap().unwrap();
            match value {
                Some(value) => series.value(member, 0, at, value),
                None => series.absent(member, 0),
            }
        }
        series.finish(&mut set).unwrap();
    }
    set.drain()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_aggregate_is_what_arithmetic_says(
        (all, gaps) in any_world(),
        measure in any_measure(),
        range in (-50_i64..600, 1_i64..600),
        length in option::of(prop_oneof![Just(1_i64), Just(7), Just(60), Just(300)]),
        by_cgroup: bool,
        split in collection::vec(any::<bool>(), 3),
    ) {
        let (since, until) = (range.0 * SECOND, (range.0 + range.1) * SECOND);
        let steps = length.map_or(Steps::whole(since, until), |length| {
            Steps::aligned(since, until, length * SECOND)
        });
        let grouping = Grouping(if by_cgroup { vec![GroupBy::Cgroup] } else { Vec::new() });
        let answer = answer(&all, &gaps, measure, steps, &grouping, &split);
        let groups: Vec<Vec<usize>> = if by_cgroup { vec![vec![0], vec![1], vec![2]] } else { vec![vec![0, 1, 2]] };
        for group in groups {
            let members: Vec<Values> = group.iter().map(|nth| all[*nth].clone()).collect();
            let found = answer.series.iter().find(|series| match series.key.cgroup {
                Some((.., id)) => id == 10 + group[0] as u64,
                None => true,
            });
            let total = naive(&members, &gaps, measure, steps, steps.since(), steps.until());
            prop_assert!(close(found.and_then(|found| found.total), total), "{found:?} {total:?}");
            for step in 0..steps.count() {
                let from = steps.from(step);
                let until = if step + 1 < steps.count() { steps.from(step + 1) } else { steps.until() };
                let expect = naive(&members, &gaps, measure, steps, from, until);
                let point = found.and_then(|found| found.points.iter().find(|point| point.from == from));
                prop_assert!(close(point.map(|point| point.value), expect), "{point:?} {expect:?} at {from}");
                let Some(point) = point else { continue };
                let reset = members.iter().any(|of| facts(of, &gaps, measure, steps, from, until).reset);
                let gap = gaps.iter().any(|(after, before)| after + 1 < until && *before > from + 1 && before > after);
                prop_assert_eq!((point.reset, point.gap), (reset, gap));
            }
        }
    }
}

#[test]
fn of_cgroups_within_each_other_the_topmost_counts() {
    let paths = ["/", "/a", "/a/b", "/a-b", "/a/b/c", "/d/e", "/d/e/f"];
    let cgroups: Vec<Cgroup> = (1..).zip(paths).map(|(id, path)| cgroup(id, path)).collect();
    let check = |metric: Metric, chosen: &[Cgroup], expect: &[&str]| {
        let measure = Measure::of(metric, Some(Aggregation::Sum)).unwrap();
        let steps = Steps::whole(0, SECOND);
        let mut series =
            HostSeries::new(Uuid::nil(), &[measure], steps, &Grouping(vec![GroupBy::Host]), chosen, 100);
        for cgroup in chosen {
            let found = series.member((cgroup.identity.boot_id, cgroup.identity.key)).unwrap();
            if let Some(member) = found {
                series.value(member, 0, -SECOND, 0);
                series.value(member, 0, 0, 1 << cgroup.identity.key.cgroup_id);
            }
        }
        let mut set = SeriesSet::new(vec![measure], steps, None, 10, 10);
        series.finish(&mut set).unwrap();
        let total = set.drain().series[0].total.unwrap();
        let bits =
            (1..).zip(paths).filter(|(_, path)| expect.contains(path)).map(|(id, _)| f64::from(1 << id));
        assert!((total - bits.sum::<f64>()).abs() < 0.5, "{}: {total} {expect:?}", metric.name());
    };
    // The root has CPU time, and no memory.current.
    check(Metric::CpuUsage, &cgroups, &["/"]);
    check(Metric::MemoryCurrent, &cgroups, &["/a", "/a-b", "/d/e"]);
    check(Metric::CpuUsage, &cgroups[1..], &["/a", "/a-b", "/d/e"]);
    check(Metric::CpuUsage, &cgroups[4..], &["/a/b/c", "/d/e"]);
    check(Metric::MemoryCurrent, &cgroups[..1], &["/"]);
}

#[test]
fn the_greatest_are_kept_and_limits_are_named() {
    let measure = Measure::of(Metric::PidsCurrent, Some(Aggregation::Max)).unwrap();
    let steps = Steps::aligned(0, 4 * SECOND, SECOND);
    let filled = |values_max, series_max, top| -> Result<Answer, TooMany> {
        let mut set = SeriesSet::new(vec![measure], steps, top, values_max, series_max);
        for host in 0..5 {
            let mut series = HostSeries::open(Uuid::from_u128(host), &[measure], steps, 3);
            for id in 1..=3 {
                let key = CgroupKey { hierarchy_id: 0, cgroup_id: id };
                let member = series.member((Uuid::nil(), key))?.unwrap();
                series.value(member, 0, SECOND, id * 10 + u64::try_from(host).unwrap());
            }
            series.finish(&mut set)?;
            set.keep_top();
        }
        Ok(set.drain())
    };
    let answer = filled(100, 100, Some(2)).unwrap();
    let totals: Vec<_> = answer.series.iter().map(|series| series.total).collect();
    assert_eq!((totals, answer.series_found), (vec![Some(34.0), Some(33.0)], 15));
    assert_eq!(filled(100, 100, None).unwrap().series.len(), 15);
    assert_eq!(filled(59, 100, None).unwrap_err(), TooMany { what: "values", limit: 59 });
    assert_eq!(filled(100, 14, None).unwrap_err(), TooMany { what: "series", limit: 14 });
    assert!(filled(20, 5, Some(2)).is_ok(), "what is not among the greatest is let go");
}
