//! A question on the past, parsed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_model::{MetricSet, TimeRange, UnknownMetric, escape_path, unescape_path};
use cgfleet_proto::{
    metrics_of_read_mask,
    v1::{
        CgroupTarget, HistoryAggregation, HistoryCgroups, HistoryGroupBy, HostSelector, QueryHistoryRequest,
    },
};
use cgfleet_rpc::{wire_error::WireError, workload};

use crate::{
    history::{Aggregation, GroupBy, Grouping, Measure, Steps},
    hosts::Host,
    service::{Fleet, query::select},
    store::{CgroupFilter, codec::CgroupKey},
};

/// How far back a request goes that does not say.
const DEFAULT_RANGE: Duration = Duration::from_hours(1);
/// The longest step.
const STEP_MAX: Duration = Duration::from_hours(366 * 24);
/// The most series that `top` may ask for.
const TOP_MAX: u32 = 10_000;
const STEP_ALLOWED: &str = "whole seconds, 1s to 366 days (31622400s)";

/// What is asked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) hosts: Vec<Arc<Host>>,
    pub(super) cgroups: Cgroups,
    pub(super) metrics: MetricSet,
    pub(super) range: TimeRange,
    /// `None` is the ticks themselves.
    pub(super) series: Option<SeriesQuestion>,
}

/// Which cgroups of each host.
#[derive(Debug)]
pub(super) enum Cgroups {
    Path(String),
    Key(CgroupKey),
    Filter(CgroupFilter),
    All,
}

/// What is made of them.
#[derive(Debug)]
pub(super) struct SeriesQuestion {
    pub(super) measures: Vec<Measure>,
    pub(super) steps: Steps,
    pub(super) grouping: Grouping,
    pub(super) top: Option<usize>,
}

impl Question {
    pub(super) fn parse(fleet: &Fleet, request: &QueryHistoryRequest) -> Result<Self, WireError> {
        let metrics = metrics_of_read_mask(request.read_mask.as_ref())?;
        let range = range(request.since, request.until)?;
        let hosts = hosts(fleet, request)?;
        let cgroups = cgroups(request.target.clone(), request.cgroups.as_ref())?;
        let series = series(request, metrics, range)?;
        Ok(Self { hosts, cgroups, metrics, range, series })
    }
}

impl Cgroups {
    /// How a request named it, if it named one.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Path(path) => Some(path.clone()),
            Self::Key(key) => Some(key.cgroup_id.to_string()),
            Self::Filter(_) | Self::All => None,
        }
    }
}

fn hosts(fleet: &Fleet, request: &QueryHistoryRequest) -> Result<Vec<Arc<Host>>, WireError> {
    match (&request.hosts, request.host.as_str()) {
        (Some(_), host) if !host.is_empty() => {
            Err(WireError::invalid_field("host", host, "host or hosts, not both"))
        }
        (Some(HostSelector { hosts, all }), _) => {
            select(fleet, &HostSelector { hosts: hosts.clone(), all: *all })
        }
        (None, host) => Ok(vec![fleet.hosts.find(host)?]),
    }
}

fn cgroups(target: Option<CgroupTarget>, cgroups: Option<&HistoryCgroups>) -> Result<Cgroups, WireError> {
    let Some(HistoryCgroups { path_glob, subtree, workload }) = cgroups else {
        return target_of(target.unwrap_or_default());
    };
    if target.is_some() {
        return Err(WireError::invalid_field("cgroups", "", "target or cgroups, not both"));
    }
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let path_glob = given(path_glob);
    if let Some(glob) = &path_glob
        && !glob.starts_with(['/', '*'])
    {
        let allowed = "a pattern of whole paths, which begins with / or * (/a.slice/**)";
        return Err(WireError::invalid_field("cgroups.path_glob", glob, allowed));
    }
    let subtree = given(subtree).map(|path| normalized("cgroups.subtree", &path)).transpose()?;
    let workload = match (workload::filter("cgroups.workload", workload.as_ref())?, workload) {
        (Some(parsed), Some(asked)) => Some((asked.clone(), parsed)),
        _ => None,
    };
    if path_glob.is_none() && subtree.as_deref().is_none_or(|path| path == "/") && workload.is_none() {
        return Ok(Cgroups::All);
    }
    Ok(Cgroups::Filter(CgroupFilter { path_glob, subtree, workload }))
}

fn target_of(target: CgroupTarget) -> Result<Cgroups, WireError> {
    if !target.hierarchy.is_empty() {
        let allowed = "empty: the history of cgroup v2 is stored";
        return Err(WireError::invalid_field("target.hierarchy", &target.hierarchy, allowed));
    }
    if target.cgroup_id == 0 {
        let path = if target.path.is_empty() { "/" } else { &target.path };
        return Ok(Cgroups::Path(normalized("target.path", path)?));
    }
    if !target.path.is_empty() {
        let allowed = format!("path or cgroup_id, not both (cgroup_id is {})", target.cgroup_id);
        return Err(WireError::invalid_field("target.path", target.path, allowed));
    }
    Ok(Cgroups::Key(CgroupKey { hierarchy_id: 0, cgroup_id: target.cgroup_id }))
}

/// As paths are stored: escaped in one way only, no slash at the end, and the root is "/".
fn normalized(field: &str, path: &str) -> Result<String, WireError> {
    if !path.starts_with('/') {
        return Err(WireError::invalid_field(field, path, "a cgroup path, which begins with /"));
    }
    let allowed = "a path with \\xHH for bytes that text cannot hold";
    let bytes = unescape_path(path).map_err(|_| WireError::invalid_field(field, path, allowed))?;
    Ok(match escape_path(&bytes).trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    })
}

fn range(
    since: Option<prost_types::Timestamp>,
    until: Option<prost_types::Timestamp>,
) -> Result<TimeRange, WireError> {
    let moment = |field, at: prost_types::Timestamp| {
        SystemTime::try_from(at)
            .map_err(|_| WireError::invalid_field(field, at, "a moment that Postgres can hold"))
    };
    let until = until.map_or_else(|| Ok(SystemTime::now()), |until| moment("until", until))?;
    let earlier = || until.checked_sub(DEFAULT_RANGE).unwrap_or(until);
    let since = since.map_or_else(|| Ok(earlier()), |since| moment("since", since))?;
    TimeRange::new(since, until).map_err(|_| {
        let [since, until] = [since, until].map(prost_types::Timestamp::from);
        WireError::invalid_field("since", since, format!("a moment before until ({until})"))
    })
}

fn series(
    request: &QueryHistoryRequest,
    metrics: MetricSet,
    range: TimeRange,
) -> Result<Option<SeriesQuestion>, WireError> {
    let step = request.step.map(step_micros).transpose()?;
    let unknown = || {
        let allowed = "an aggregation of HistoryAggregation";
        WireError::invalid_field("aggregation", request.aggregation, allowed)
    };
    let asked = aggregation(HistoryAggregation::try_from(request.aggregation).map_err(|_| unknown())?);
    let grouping = grouping(&request.group_by)?;
    if step.is_none() && asked.is_none() {
        let needs = "given with step or aggregation only: ticks are not grouped";
        return match (request.group_by.first(), request.top) {
            (Some(first), _) => Err(WireError::invalid_field("group_by", first, needs)),
            (None, 0) => Ok(None),
            (None, top) => Err(WireError::invalid_field("top", top, needs)),
        };
    }
    if request.top > TOP_MAX {
        return Err(WireError::invalid_field("top", request.top, format!("0 to {TOP_MAX}")));
    }
    let measures: Vec<Measure> = metrics.iter().filter_map(|metric| Measure::of(metric, asked)).collect();
    if measures.is_empty() {
        let paths = request.read_mask.iter().flat_map(|mask| &mask.paths).cloned().collect::<Vec<_>>();
        let allowed = format!(
            "a counter, with RATE: {} or others that `cgctl metrics` lists; {}",
            cgfleet_model::Metric::CpuUsage.name(),
            UnknownMetric::allowed()
        );
        return Err(WireError::invalid_field("read_mask", paths.join(","), allowed));
    }
    let [since, until] = [range.since(), range.until()].map(micros);
    let steps = step.map_or_else(|| Steps::whole(since, until), |step| Steps::aligned(since, until, step));
    let top = Some(request.top as usize).filter(|top| *top > 0);
    Ok(Some(SeriesQuestion { measures, steps, grouping, top }))
}

fn step_micros(step: prost_types::Duration) -> Result<i64, WireError> {
    let is_whole = step.nanos == 0 && (1..=STEP_MAX.as_secs().cast_signed()).contains(&step.seconds);
    let given = || format!("{}.{:09}s", step.seconds, step.nanos.unsigned_abs());
    if is_whole {
        Ok(step.seconds * 1_000_000)
    } else {
        Err(WireError::invalid_field("step", given(), STEP_ALLOWED))
    }
}

fn aggregation(wire: HistoryAggregation) -> Option<Aggregation> {
    Some(match wire {
        HistoryAggregation::Unspecified => return None,
        HistoryAggregation::Last => Aggregation::Last,
        HistoryAggregation::Mean => Aggregation::Mean,
        HistoryAggregation::Max => Aggregation::Max,
        HistoryAggregation::Min => Aggregation::Min,
        HistoryAggregation::Sum => Aggregation::Sum,
        HistoryAggregation::Rate => Aggregation::Rate,
        HistoryAggregation::P50 => Aggregation::Percentile(50),
        HistoryAggregation::P95 => Aggregation::Percentile(95),
        HistoryAggregation::P99 => Aggregation::Percentile(99),
    })
}

fn grouping(group_by: &[i32]) -> Result<Grouping, WireError> {
    let mut grouping = Vec::new();
    for number in group_by {
        let refused = |allowed: &str| WireError::invalid_field("group_by", number, allowed);
        let by = match HistoryGroupBy::try_from(*number) {
            Ok(HistoryGroupBy::Nothing) if group_by.len() == 1 => return Ok(Grouping(Vec::new())),
            Ok(HistoryGroupBy::Nothing) => return Err(refused("HISTORY_GROUP_BY_NOTHING alone")),
            Ok(HistoryGroupBy::Host) => GroupBy::Host,
            Ok(HistoryGroupBy::Cgroup) => GroupBy::Cgroup,
            Ok(HistoryGroupBy::Path) => GroupBy::Path,
            Ok(HistoryGroupBy::Pod) => GroupBy::Pod,
            Ok(HistoryGroupBy::Namespace) => GroupBy::Namespace,
            Ok(HistoryGroupBy::Container) => GroupBy::Container,
            Ok(HistoryGroupBy::Unit) => GroupBy::Unit,
            Ok(HistoryGroupBy::Slice) => GroupBy::Slice,
            Ok(HistoryGroupBy::Unspecified) | Err(_) => {
                return Err(refused("one of HistoryGroupBy other than HISTORY_GROUP_BY_UNSPECIFIED"));
            }
        };
        if !grouping.contains(&by) {
            grouping.push(by);
        }
    }
    Ok(Grouping(if grouping.is_empty() { vec![GroupBy::Cgroup] } else { grouping }))
}

/// In microseconds since the Unix epoch.
pub(super) fn micros(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX / 2),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX / 2),
    }
}
