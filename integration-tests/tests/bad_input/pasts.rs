//! Mistakes in questions on the past.

use cgfleet_proto::v1::{
    CgroupTarget, ErrorReason, HistoryCgroups, HostSelector, QueryHistoryRequest, WorkloadFilter,
};
use integration_tests::walk::{by_id, by_path};
use prost_types::{Duration, Timestamp};
use tonic::Code;

use super::grpc::{Refusal, invalid, not_found, of_hierarchy, reading};

/// Questions on host web-1, which has no cgroup of these names.
pub(super) fn bad_pasts() -> Vec<(QueryHistoryRequest, Refusal<'static>)> {
    [bad_choices(), bad_aggregates()].concat()
}

fn of(target: CgroupTarget) -> QueryHistoryRequest {
    QueryHistoryRequest { host: "web-1".to_owned(), target: Some(target), ..QueryHistoryRequest::default() }
}

fn root() -> QueryHistoryRequest {
    of(by_path("/"))
}

fn bad_choices() -> Vec<(QueryHistoryRequest, Refusal<'static>)> {
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let both = CgroupTarget { cgroup_id: 7, ..by_path("/a") };
    let series = |cgroups| QueryHistoryRequest { target: None, cgroups: Some(cgroups), ..root() };
    let unknown = (Code::NotFound, ErrorReason::HostUnknown, &["\"nobody\"", "`cgctl hosts`"][..]);
    vec![
        (QueryHistoryRequest { host: "nobody".to_owned(), ..root() }, unknown),
        (QueryHistoryRequest { host: String::new(), ..root() }, (unknown.0, unknown.1, &["\"\""])),
        (of(by_path("/no/such")), not_found(&["cgroup /no/such", "web-1"])),
        (of(by_id(u64::MAX)), not_found(&["cgroup 18446744073709551615", "web-1"])),
        (of(by_path("a")), invalid(&["target.path", "\"a\"", "begins with /"])),
        (of(both), invalid(&["target.path", "\"/a\"", "not both"])),
        (of(of_hierarchy("memory", by_path("/"))), invalid(&["target.hierarchy", "\"memory\"", "empty"])),
        (
            QueryHistoryRequest { read_mask: Some(reading("disk")), ..root() },
            invalid(&["read_mask", "\"disk\""]),
        ),
        (
            QueryHistoryRequest { since: at(2), until: at(1), ..root() },
            invalid(&["since", "1970-01-01T00:00:02Z", "a moment before until (1970-01-01T00:00:01Z)"]),
        ),
        (QueryHistoryRequest { since: at(i64::MIN), ..root() }, invalid(&["since"])),
        (
            QueryHistoryRequest { hosts: Some(HostSelector { all: true, ..<_>::default() }), ..root() },
            invalid(&["host", "\"web-1\"", "not both"]),
        ),
        (
            QueryHistoryRequest { cgroups: Some(HistoryCgroups::default()), ..root() },
            invalid(&["cgroups", "not both"]),
        ),
        (
            series(HistoryCgroups { path_glob: "a*".to_owned(), ..<_>::default() }),
            invalid(&["cgroups.path_glob", "\"a*\"", "begins with / or *"]),
        ),
        (
            series(HistoryCgroups { subtree: "a".to_owned(), ..<_>::default() }),
            invalid(&["cgroups.subtree", "\"a\"", "begins with /"]),
        ),
        (
            series(HistoryCgroups {
                workload: Some(WorkloadFilter { unit: "ssh".to_owned(), ..<_>::default() }),
                ..<_>::default()
            }),
            invalid(&["cgroups.workload.unit", "\"ssh\"", "a systemd unit"]),
        ),
    ]
}

fn bad_aggregates() -> Vec<(QueryHistoryRequest, Refusal<'static>)> {
    let lasting = |seconds, nanos| Some(Duration { seconds, nanos });
    vec![
        (QueryHistoryRequest { step: lasting(0, 0), ..root() }, invalid(&["step", "whole seconds", "1s to"])),
        (QueryHistoryRequest { step: lasting(1, 5), ..root() }, invalid(&["step", "whole seconds"])),
        (QueryHistoryRequest { step: lasting(i64::MAX, 0), ..root() }, invalid(&["step", "31622400s"])),
        (QueryHistoryRequest { aggregation: 99, ..root() }, invalid(&["aggregation", "\"99\""])),
        (
            QueryHistoryRequest { group_by: vec![3], ..root() },
            invalid(&["group_by", "with step or aggregation"]),
        ),
        (QueryHistoryRequest { top: 3, ..root() }, invalid(&["top", "\"3\"", "with step or aggregation"])),
        (
            QueryHistoryRequest { group_by: vec![0], step: lasting(60, 0), ..root() },
            invalid(&["group_by", "\"0\"", "other than HISTORY_GROUP_BY_UNSPECIFIED"]),
        ),
        (
            QueryHistoryRequest { group_by: vec![1, 2], step: lasting(60, 0), ..root() },
            invalid(&["group_by", "\"1\"", "HISTORY_GROUP_BY_NOTHING alone"]),
        ),
        (
            QueryHistoryRequest { top: 10_001, step: lasting(60, 0), ..root() },
            invalid(&["top", "\"10001\"", "0 to 10000"]),
        ),
        (
            QueryHistoryRequest { aggregation: 6, read_mask: Some(reading("memory")), ..root() },
            invalid(&["read_mask", "\"memory\"", "a counter, with RATE"]),
        ),
    ]
}
