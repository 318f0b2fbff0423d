//! One path in several hierarchies, side by side: on hosts where a workload is a cgroup of v2 and others
//! of v1.

use std::collections::HashMap;

use cgfleet_model::{MetricGroup, MetricSet};
use cgfleet_proto::v1::{WalkEnd, WalkSummary};

use super::{Target, WalkError, WalkSpec, Walked};
use crate::cgroupfs::Hierarchies;

/// Walks in each hierarchy that has the path, and makes one row of what has the same path: with the identity
/// of the first hierarchy, each group from the first that has it, and more of that group from others if
/// they read it in the same way.
///
/// A row of other hierarchies alone follows behind, unless the first walk ended early: then nobody knows on
/// which side of its end the row would be.
pub(super) fn walk(
    hierarchies: &Hierarchies,
    spec: &WalkSpec,
    mut walk_one: impl FnMut(&WalkSpec) -> Result<Walked, WalkError>,
) -> Result<Walked, WalkError> {
    let Target::Path { hierarchy, path } = &spec.target else { return walk_one(spec) };
    // The directory of a cgroup names its path too.
    let path = &hierarchies.locate(hierarchy, path).map_or_else(|_| path.clone(), |located| located.path);
    let mut joined: Option<Walked> = None;
    let mut missing = None;
    for hierarchy in hierarchies.iter() {
        let target = Target::Path { hierarchy: hierarchy.name.clone(), path: path.clone() };
        // Conditions are for the joined rows, and only the first walk says where an answer ends.
        let spec = match &joined {
            None => WalkSpec { target, stop_when: None, ..spec.clone() },
            Some(_) => WalkSpec { target, stop_when: None, stop_at: None, limit: 0, ..spec.clone() },
        };
        match (walk_one(&spec), &mut joined) {
            (Ok(walked), None) => joined = Some(walked),
            (Ok(walked), Some(joined)) => merge(joined, walked),
            (Err(WalkError::NoSuchCgroup { field: field @ "spec.target", .. }), _) => {
                missing = Some(WalkError::NoSuchCgroup { field, target: spec.target.to_text() });
            }
            (Err(error), _) => return Err(error),
        }
    }
    match (joined, missing) {
        (Some(joined), _) => Ok(joined),
        (None, Some(missing)) => Err(missing),
        (None, None) => walk_one(spec),
    }
}

fn merge(joined: &mut Walked, other: Walked) {
    let is_whole = joined.summary.end() == WalkEnd::Complete;
    let mut places: HashMap<String, usize> = HashMap::with_capacity(joined.samples.len());
    for (place, sample) in joined.samples.iter().enumerate() {
        places.entry(sample.path.clone()).or_insert(place);
    }
    for mut sample in other.samples {
        if let Some(place) = places.get(&sample.path) {
            let row = &mut joined.samples[*place];
            for group in MetricGroup::ALL {
                match (row.source(*group), sample.source(*group)) {
                    (None, _) => row.take_group(*group, &mut sample),
                    // What v1 has of a group beside v2: bandwidth beside CPU time.
                    (Some(of_row), Some(of_other)) if of_row == of_other => {
                        group
                            .metrics()
                            .filter(|metric| row.metric(*metric).is_none())
                            .collect::<MetricSet>()
                            .iter()
                            .for_each(|metric| row.set_metric(metric, sample.metric(metric)));
                    }
                    (Some(_), _) => {}
                }
            }
        } else if is_whole {
            joined.samples.push(sample);
        }
    }
    add(&mut joined.summary, &other.summary);
}

/// What it cost, together. How it ended is the first walk's, unless another was cut; the flush is that of the first
/// that needed one.
fn add(summary: &mut WalkSummary, other: &WalkSummary) {
    summary.cgroups_visited += other.cgroups_visited;
    if summary.flushed_cgroup_id == 0 {
        summary.flushed_cgroup_id = other.flushed_cgroup_id;
        summary.flushed_at = other.flushed_at;
        summary.flush_outcome = other.flush_outcome;
    }
    summary.flush_ns += other.flush_ns;
    summary.walk_ns += other.walk_ns;
    summary.files_ns += other.files_ns;
    summary.cgroup_mutex_held_ns_max = summary.cgroup_mutex_held_ns_max.max(other.cgroup_mutex_held_ns_max);
    summary.unbroken_ns_max = summary.unbroken_ns_max.max(other.unbroken_ns_max);
    if summary.end() == WalkEnd::Complete && other.end() == WalkEnd::Truncated {
        summary.set_end(WalkEnd::Truncated);
        summary.truncated_by.clone_from(&other.truncated_by);
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_model::Metric;
    use cgfleet_proto::v1::CgroupSample;

    use super::*;

    fn walked(end: WalkEnd, rows: &[(&str, u32, Metric)]) -> Walked {
        let sample = |(path, hierarchy_id, metric): &(&str, u32, Metric)| {
            let (path, hierarchy_id) = ((*path).to_owned(), *hierarchy_id);
            let mut sample = CgroupSample { path, hierarchy_id, ..CgroupSample::default() };
            sample.set_metric(*metric, Some(u64::from(hierarchy_id)));
            sample
        };
        let summary = WalkSummary { end: end.into(), walk_ns: 1, ..WalkSummary::default() };
        Walked { samples: rows.iter().map(sample).collect(), summary }
    }

    fn check(end: WalkEnd, expect: &[(&str, u32, &[Metric])]) {
        let mut joined = walked(end, &[("/a", 0, Metric::CpuUsage), ("/b", 0, Metric::CpuUsage)]);
        merge(
            &mut joined,
            walked(WalkEnd::Complete, &[("/b", 4, Metric::MemoryCurrent), ("/c", 4, Metric::MemoryMax)]),
        );
        merge(
            &mut joined,
            walked(WalkEnd::Complete, &[("/b", 5, Metric::CpuNrPeriods), ("/c", 5, Metric::CpuUsage)]),
        );
        let rows: Vec<_> = joined
            .samples
            .iter()
            .map(|sample| {
                let measured: MetricSet =
                    Metric::ALL.iter().copied().filter(|metric| sample.metric(*metric).is_some()).collect();
                (sample.path.as_str(), sample.hierarchy_id, measured)
            })
            .collect();
        let expect: Vec<_> = expect
            .iter()
            .map(|(path, id, metrics)| (*path, *id, metrics.iter().copied().collect()))
            .collect();
        assert_eq!(rows, expect);
        assert_eq!(joined.summary.walk_ns, 3);
    }

    #[test]
    fn a_row_has_each_group_from_the_first_hierarchy_with_it() {
        let b: &[Metric] = &[Metric::CpuUsage, Metric::CpuNrPeriods, Metric::MemoryCurrent];
        let c: &[Metric] = &[Metric::MemoryMax, Metric::CpuUsage];
        let a: &[Metric] = &[Metric::CpuUsage];
        check(WalkEnd::Complete, &[("/a", 0, a), ("/b", 0, b), ("/c", 4, c)]);
        check(WalkEnd::Limit, &[("/a", 0, a), ("/b", 0, b)]);
    }
}
