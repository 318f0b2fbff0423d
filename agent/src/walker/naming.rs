//! Rows get what runs in their cgroups, and those that a request does not want are left out.

use cgfleet_model::WorkloadFilter;
use cgfleet_proto::v1::WalkEnd;

use super::Walked;
use crate::workloads::Workloads;

/// Whether rows say what runs in their cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Naming {
    /// They do not.
    Unnamed,
    /// All do.
    Named,
    /// All do that there are: others are left out, and do not count for the limit.
    Chosen(WorkloadFilter),
}

impl Naming {
    /// The limit up to which the walk itself may go.
    pub(super) fn walk_limit(&self, limit: u32) -> u32 {
        if matches!(self, Self::Chosen(_)) { 0 } else { limit }
    }
}

/// Names the rows of a walk that went up to [`Naming::walk_limit`].
pub(super) fn name(walked: &mut Walked, workloads: &Workloads, naming: &Naming, limit: u32) {
    let filter = match naming {
        Naming::Unnamed => return,
        Naming::Named => None,
        Naming::Chosen(filter) => Some(filter),
    };
    let visited = walked.samples.len();
    let limit = if limit == 0 || filter.is_none() { usize::MAX } else { limit as usize };
    let (mut many, mut at, mut kept, mut last_kept_at) = (workloads.of_many(), 0, 0, 0);
    walked.samples.retain_mut(|sample| {
        at += 1;
        let workload = if kept < limit { many.of(&sample.path) } else { None };
        let is_chosen = match (filter, &workload) {
            (Some(filter), Some(workload)) => filter.matches(workload),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if is_chosen {
            (kept, last_kept_at) = (kept + 1, at);
            sample.workload = workload.map(|workload| Box::new((&*workload).into()));
        }
        is_chosen
    });
    // What ended the walk at the row that is the limit's last ended it as much as that did.
    let is_stop =
        last_kept_at == visited && matches!(walked.summary.end(), WalkEnd::StopAt | WalkEnd::StopWhen);
    if kept == limit && !is_stop {
        walked.summary.set_end(WalkEnd::Limit);
        walked.summary.truncated_by.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cgfleet_proto::v1::{CgroupSample, WalkSummary};

    use super::*;

    const PATHS: [&str; 6] = ["/", "/a.service", "/a.service/x", "/b.service", "/a.service/y", "/c"];

    fn named(naming: &Naming, limit: u32, end: WalkEnd) -> (Vec<(String, String)>, WalkEnd) {
        let samples = PATHS.map(|path| CgroupSample { path: path.to_owned(), ..CgroupSample::default() });
        let summary = WalkSummary { end: end.into(), ..WalkSummary::default() };
        let mut walked = Walked { samples: samples.into(), summary };
        name(&mut walked, &Workloads::new(Path::new("/nonexistent")), naming, limit);
        let rows = walked.samples.into_iter().map(|sample| {
            (sample.path, sample.workload.map(|workload| workload.systemd_unit).unwrap_or_default())
        });
        (rows.collect(), walked.summary.end())
    }

    #[test]
    fn rows_are_named_and_stay() {
        let units = ["", "a.service", "a.service", "b.service", "a.service", ""];
        let rows: Vec<_> =
            PATHS.iter().zip(units).map(|(path, unit)| ((*path).to_owned(), unit.to_owned())).collect();
        let check = |naming, expect: &[&str]| {
            let (found, end) = named(&naming, 3, WalkEnd::Limit);
            let found: Vec<_> = found.iter().map(|(_, unit)| unit.as_str()).collect();
            assert_eq!((found.as_slice(), end), (expect, WalkEnd::Limit));
        };
        check(Naming::Named, &units);
        check(Naming::Unnamed, &[""; 6]);
        assert_eq!(named(&Naming::Named, 0, WalkEnd::Complete), (rows, WalkEnd::Complete));
    }

    #[test]
    fn others_are_left_out_and_do_not_count_for_the_limit() {
        let check = |unit: &str, limit, end, expect: (&[&str], WalkEnd)| {
            let filter = WorkloadFilter::parse(None, None, Some(unit)).unwrap().unwrap();
            let (rows, end) = named(&Naming::Chosen(filter), limit, end);
            let paths: Vec<_> = rows.iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!((paths.as_slice(), end), expect, "{unit} {limit}");
        };
        let all: &[&str] = &["/a.service", "/a.service/x", "/a.service/y"];
        check("a.service", 0, WalkEnd::Complete, (all, WalkEnd::Complete));
        check("a.service", 4, WalkEnd::Complete, (all, WalkEnd::Complete));
        check("a.service", 3, WalkEnd::Complete, (all, WalkEnd::Limit));
        check("a.service", 2, WalkEnd::StopAt, (&all[..2], WalkEnd::Limit));
        check("a.service", 2, WalkEnd::Truncated, (&all[..2], WalkEnd::Limit));
        check("a.service", 0, WalkEnd::StopWhen, (all, WalkEnd::StopWhen));
        check("d.service", 1, WalkEnd::StopAt, (&[], WalkEnd::StopAt));
    }

    #[test]
    fn a_walk_that_stops_at_the_limits_last_row_stopped_there() {
        let filter = WorkloadFilter::parse(None, None, Some("c.service")).unwrap().unwrap();
        let row = |path: &str| CgroupSample { path: path.to_owned(), ..CgroupSample::default() };
        let check = |end: WalkEnd, expect| {
            let summary = WalkSummary { end: end.into(), ..WalkSummary::default() };
            let mut walked = Walked { samples: vec![row("/"), row("/c.service")], summary };
            let workloads = Workloads::new(Path::new("/nonexistent"));
            name(&mut walked, &workloads, &Naming::Chosen(filter.clone()), 1);
            assert_eq!(walked.summary.end(), expect);
        };
        check(WalkEnd::StopAt, WalkEnd::StopAt);
        check(WalkEnd::StopWhen, WalkEnd::StopWhen);
        check(WalkEnd::Complete, WalkEnd::Limit);
    }
}
