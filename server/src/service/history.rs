//! QueryHistory: what was stored of one cgroup.

use std::time::{Duration, SystemTime};

use cgfleet_model::{MetricSet, TimeRange, escape_path, unescape_path};
use cgfleet_proto::{
    metrics_of_read_mask,
    v1::{
        CgroupTarget, ErrorReason, HistoryGap, HistoryPoint, HistoryPoints, QueryHistoryRequest,
        QueryHistoryResponse, query_history_response::Event,
    },
};
use cgfleet_rpc::wire_error::WireError;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tonic::Code;

use super::{Answers, Fleet};
use crate::store::{CgroupSelector, HistoryEvent, HistoryReader, codec::CgroupKey};

/// How far back a request goes that does not say.
const DEFAULT_RANGE: Duration = Duration::from_hours(1);
/// The most cgroups that one path may have named over time; the newest are read.
const CGROUPS_MAX: u32 = 1000;
/// The most points in one message.
const POINTS_MAX: usize = 1000;

pub(super) async fn query_history(
    fleet: &Fleet,
    request: QueryHistoryRequest,
) -> Result<Answers<QueryHistoryResponse>, WireError> {
    let metrics = metrics_of_read_mask(request.read_mask.as_ref())?;
    let range = range(request.since, request.until)?;
    let host = fleet.hosts.find(&request.host)?;
    let target = request.target.unwrap_or_default();
    let path = normalized(&target.path)?;
    let cgroups = fleet
        .store
        .find_cgroups(host.host_id(), selector(&target, &path)?, range.until(), CGROUPS_MAX)
        .await?;
    if cgroups.is_empty() {
        let name = if target.cgroup_id == 0 { path } else { target.cgroup_id.to_string() };
        let hostname = host.record().hostname;
        let message = format!(
            "nothing is stored of cgroup {name} on host {hostname}; `cgctl query` lists those it has now"
        );
        let error = WireError::new(Code::NotFound, ErrorReason::CgroupNotFound, message);
        return Err(error.with("field", "target").with("value", name));
    }
    let reader = fleet.store.history(host.host_id(), cgroups, range);
    let pages = stream::try_unfold(reader, |mut reader: HistoryReader| async move {
        Ok::<_, WireError>(reader.next_page().await?.map(|page| (page, reader)))
    });
    let events = pages.map_ok(move |page| stream::iter(responses(page, metrics).into_iter().map(Ok)));
    Ok(Box::pin(events.try_flatten().map(|event| event.map_err(|error: WireError| error.into()))))
}

/// Puts points that follow each other into one message.
fn responses(page: Vec<HistoryEvent>, metrics: MetricSet) -> Vec<QueryHistoryResponse> {
    let mut events: Vec<Event> = Vec::new();
    for event in page {
        match event {
            HistoryEvent::Gap(gap) => events.push(Event::Gap(HistoryGap {
                after: Some(gap.after_at.into()),
                before: Some(gap.before_at.into()),
                reason: gap.reason.into(),
                ..HistoryGap::default()
            })),
            HistoryEvent::Point { tick_at, mut sample } => {
                sample.keep_only(metrics);
                let point = HistoryPoint { tick_at: Some(tick_at.into()), sample: Some(*sample) };
                match events.last_mut() {
                    Some(Event::Points(points)) if points.points.len() < POINTS_MAX => {
                        points.points.push(point);
                    }
                    _ => events.push(Event::Points(HistoryPoints {
                        points: vec![point],
                        ..HistoryPoints::default()
                    })),
                }
            }
        }
    }
    events.into_iter().map(|event| QueryHistoryResponse { event: Some(event) }).collect()
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

fn selector<'a>(target: &CgroupTarget, path: &'a str) -> Result<CgroupSelector<'a>, WireError> {
    if !target.hierarchy.is_empty() {
        let allowed = "empty: the history of cgroup v2 is stored";
        return Err(WireError::invalid_field("target.hierarchy", &target.hierarchy, allowed));
    }
    if target.cgroup_id == 0 {
        return if path.starts_with('/') {
            Ok(CgroupSelector::Path { hierarchy_id: 0, path })
        } else {
            Err(WireError::invalid_field("target.path", path, "a cgroup path, which begins with /"))
        };
    }
    if !target.path.is_empty() {
        let allowed = format!("path or cgroup_id, not both (cgroup_id is {})", target.cgroup_id);
        return Err(WireError::invalid_field("target.path", path, allowed));
    }
    Ok(CgroupSelector::Key(CgroupKey { hierarchy_id: 0, cgroup_id: target.cgroup_id }))
}

/// As paths are stored: escaped in one way only, no slash at the end, and the root is "/".
fn normalized(path: &str) -> Result<String, WireError> {
    let allowed = "a path with \\xHH for bytes that text cannot hold";
    let bytes = unescape_path(path).map_err(|_| WireError::invalid_field("target.path", path, allowed))?;
    Ok(match escape_path(&bytes).trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    })
}
