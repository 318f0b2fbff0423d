//! Specifications that are mistakes, and how each is refused.

use cgfleet_proto::v1::{Condition, CounterForm, SubscribeSpec, TickPosition, WalkSpec, WorkloadFilter};
use integration_tests::walk::{by_id, by_path};
use prost_types::Duration;

use super::grpc::{Refusal, invalid, not_found, of_hierarchy, reading, self_of};

/// Specifications that no agent and no server takes.
pub(super) fn bad_specs() -> Vec<(Option<WalkSpec>, Refusal<'static>)> {
    let root = || self_of(by_path("/"));
    vec![
        (None, invalid(&["spec", "a walk's specification"])),
        (Some(WalkSpec { order: 0, ..root() }), invalid(&["spec.order", "CGROUP_ORDER_"])),
        (Some(WalkSpec { order: 99, ..root() }), invalid(&["spec.order", "\"99\"", "CGROUP_ORDER_"])),
        (Some(WalkSpec { engine: 99, ..root() }), invalid(&["spec.engine", "\"99\""])),
        (
            Some(WalkSpec { read_mask: Some(reading("disk")), ..root() }),
            invalid(&["read_mask", "\"disk\"", "allowed: cpu, memory, memory_stat", "cpu.usage_usec"]),
        ),
        (
            Some(WalkSpec { stop_when: Some(condition("memory.max", 1)), ..root() }),
            invalid(&["spec.stop_when.metric", "\"memory.max\"", "cpu.usage_usec", "`cgctl metrics`"]),
        ),
        (
            Some(WalkSpec { stop_when: Some(condition("memory", 1)), ..root() }),
            invalid(&["spec.stop_when.metric", "\"memory\""]),
        ),
        (
            Some(WalkSpec { stop_when: Some(condition("cpu.usage_usec", 0)), ..root() }),
            invalid(&["spec.stop_when.comparison", "\"0\"", "COMPARISON_"]),
        ),
        (
            Some(WalkSpec { stop_when: Some(condition("cpu.usage_usec", 99)), ..root() }),
            invalid(&["spec.stop_when.comparison", "\"99\"", "omparison"]),
        ),
        (Some(WalkSpec { join: 99, ..root() }), invalid(&["spec.join", "\"99\""])),
        (
            Some(WalkSpec { workload: Some(workload("Web", "", "")), ..root() }),
            invalid(&["spec.workload.pod", "\"Web\"", "namespace/name"]),
        ),
        (
            Some(WalkSpec { workload: Some(workload("", "3f4a9b12cde", "")), ..root() }),
            invalid(&["spec.workload.container", "\"3f4a9b12cde\"", "the first 12 or more digits"]),
        ),
        (
            Some(WalkSpec { workload: Some(workload("web-0", "", "ssh")), ..root() }),
            invalid(&["spec.workload.unit", "\"ssh\"", "ssh.service"]),
        ),
        (Some(WalkSpec { flush: 99, ..root() }), invalid(&["spec.flush", "\"99\""])),
        (Some(WalkSpec { flush: -1, ..root() }), invalid(&["spec.flush", "\"-1\""])),
        (Some(stale(-1, 0)), invalid(&["spec.max_staleness", "\"-1s and 0ns\"", "0s to 3600s"])),
        (Some(stale(0, -1)), invalid(&["spec.max_staleness", "\"0s and -1ns\"", "0s to 3600s"])),
        (Some(stale(0, 1_000_000_000)), invalid(&["spec.max_staleness", "0s to 3600s"])),
        (Some(stale(3600, 1)), invalid(&["spec.max_staleness", "\"3600.000000001s\"", "0s to 3600s"])),
        (Some(stale(i64::MAX, 999_999_999)), invalid(&["spec.max_staleness", "0s to 3600s"])),
        (Some(stale(i64::MIN, i32::MIN)), invalid(&["spec.max_staleness", "0s to 3600s"])),
    ]
}

fn stale(seconds: i64, nanos: i32) -> WalkSpec {
    WalkSpec { max_staleness: Some(Duration { seconds, nanos }), ..self_of(by_path("/")) }
}

fn workload(pod: &str, container: &str, unit: &str) -> WorkloadFilter {
    WorkloadFilter { pod: pod.into(), container: container.into(), unit: unit.into() }
}

pub(super) fn condition(metric: &str, comparison: i32) -> Condition {
    Condition { metric: metric.to_owned(), comparison, value: 1 }
}

/// Subscriptions to what changes that no agent takes.
pub(super) fn bad_subscriptions() -> Vec<(SubscribeSpec, Refusal<'static>)> {
    let root = SubscribeSpec::default;
    let every = |seconds, nanos| SubscribeSpec { interval: Some(Duration { seconds, nanos }), ..root() };
    let start = |every_tick, token: &str, agent_epoch: &str| SubscribeSpec {
        every_tick,
        resume_token: token.to_owned(),
        start: Some(TickPosition { agent_epoch: agent_epoch.to_owned(), sequence: 7 }),
        ..root()
    };
    let resume = |token: &str| SubscribeSpec { resume_token: token.to_owned(), ..root() };
    vec![
        (every(0, 0), invalid(&["spec.interval", "100ms to 1h, in whole milliseconds"])),
        (
            every(0, 150_000_000),
            invalid(&["spec.interval", "\"150ms\"", "200ms (subscribe_interval_min) to 1h"]),
        ),
        (every(3601, 0), invalid(&["spec.interval", "\"3601s\"", "to 1h"])),
        (every(2, 1), invalid(&["spec.interval", "whole milliseconds"])),
        (every(-1, 0), invalid(&["spec.interval", "0s or more"])),
        (every(i64::MIN, i32::MIN), invalid(&["spec.interval", "0s or more"])),
        (
            SubscribeSpec { read_mask: Some(reading("disk")), ..root() },
            invalid(&["read_mask", "\"disk\"", "cpu.usage_usec"]),
        ),
        (
            SubscribeSpec { counters: 99, ..root() },
            invalid(&["spec.counters", "\"99\"", "COUNTER_FORM_DELTA"]),
        ),
        (SubscribeSpec { dead_band: 1.5, ..root() }, invalid(&["spec.dead_band", "\"1.5\"", "0 to 1"])),
        (SubscribeSpec { dead_band: -0.5, ..root() }, invalid(&["spec.dead_band", "\"-0.5\""])),
        (SubscribeSpec { dead_band: f64::NAN, ..root() }, invalid(&["spec.dead_band", "\"NaN\""])),
        (
            SubscribeSpec { dead_band: 0.5, counters: CounterForm::Delta.into(), ..root() },
            invalid(&["spec.dead_band", "COUNTER_FORM_DELTA"]),
        ),
        (
            SubscribeSpec { workload: Some(workload("", "", "ssh")), ..root() },
            invalid(&["spec.workload.unit", "\"ssh\""]),
        ),
        (
            SubscribeSpec { target: Some(of_hierarchy("memory", by_path("/"))), ..root() },
            invalid(&["spec.target.hierarchy", "cgroup v2"]),
        ),
        (
            SubscribeSpec { target: Some(by_id(u64::MAX)), ..root() },
            not_found(&["spec.target", "no such cgroup"]),
        ),
        (resume("7"), invalid(&["spec.resume_token", "\"7\"", "Bookmark.resume_token"])),
        (start(false, "", "7"), invalid(&["spec.start", "unset without every_tick"])),
        (start(true, "7", "7"), invalid(&["spec.start", "unset with resume_token"])),
        (start(true, "", "7"), invalid(&["spec.start", "\"7/7\"", "a uuid as agent_epoch"])),
    ]
}
