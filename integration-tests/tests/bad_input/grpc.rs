//! Mistakes in requests, as a client of its own making can send them: a code, a stable reason, one line.

use std::fmt::Debug;

use anyhow::Result;
use cgfleet_proto::v1::{
    AgentServiceFlushRequest, CgroupOrder, CgroupTarget, CollectorState, ErrorReason,
    FleetServiceFlushRequest, FleetServiceListCollectorsRequest, FleetServiceSetCollectorRequest,
    HierarchyJoin, Host, HostError, HostSelector, ListHostsRequest, QueryRequest, RegisterHostRequest,
    SubscribeRequest, SubscribeSpec, WalkEngine, WalkRequest, WalkSpec, host_result::Outcome,
};
use cgfleet_rpc::wire_error::reason_of;
use integration_tests::{
    daemon::Start,
    walk::{by_id, by_path, query, spec},
};
use prost_types::{Duration, FieldMask};
use tonic::{Code, Response, Status};

use super::{
    check_line, host_up, in_time,
    pasts::bad_pasts,
    specs::{bad_specs, bad_subscriptions, condition},
};

const ID: &str = "11111111-1111-4111-8111-111111111111";

/// How a request is refused: most with INVALID_FIELD.
pub(super) type Refusal<'a> = (Code, ErrorReason, &'a [&'a str]);

pub(super) fn invalid<'a>(says: &'a [&'a str]) -> Refusal<'a> {
    (Code::InvalidArgument, ErrorReason::InvalidField, says)
}

pub(super) fn not_found<'a>(says: &'a [&'a str]) -> Refusal<'a> {
    (Code::NotFound, ErrorReason::CgroupNotFound, says)
}

/// Awaits the answer to a request, which has to be this refusal.
async fn check<T>(
    request: &impl Debug,
    answer: impl Future<Output = Result<Response<T>, Status>>,
    (code, reason, says): Refusal<'_>,
) -> Result<()> {
    let mistake = format!("{request:?}");
    let Err(status) = in_time(&mistake, answer).await? else { panic!("{mistake}: was answered") };
    check_line(&mistake, status.message(), says);
    assert_eq!((status.code(), reason_of(&status)), (code, reason), "{mistake}: {status}");
    Ok(())
}

pub(super) fn self_of(target: CgroupTarget) -> WalkSpec {
    spec(target, CgroupOrder::SelfOnly)
}

pub(super) fn of_hierarchy(hierarchy: &str, target: CgroupTarget) -> CgroupTarget {
    CgroupTarget { hierarchy: hierarchy.to_owned(), ..target }
}

pub(super) fn reading(field: &str) -> FieldMask {
    FieldMask { paths: vec![field.to_owned()] }
}

/// Targets that no host has.
fn bad_targets() -> Vec<(CgroupTarget, Refusal<'static>)> {
    let both = CgroupTarget { cgroup_id: 7, ..by_path("/a") };
    vec![
        (both, invalid(&["target.path", "\"/a\"", "path or cgroup_id, not both (cgroup_id is 7)"])),
        (by_path("/a\\b"), invalid(&["target.path", "/a\\\\b", "\\xHH"])),
        (by_path("/a/../b"), invalid(&["target.path", "/a/../b", "has no .. in it"])),
        (by_path("a"), invalid(&["target.path", "\"a\"", "begins with /"])),
        (
            of_hierarchy("disk", by_path("/")),
            invalid(&["target.hierarchy", "\"disk\"", "allowed: empty (cgroup v2)"]),
        ),
        (of_hierarchy("memory", by_id(7)), invalid(&["target.hierarchy", "\"memory\"", "cgroup v2 only"])),
        (by_path("/no/such"), not_found(&["target /no/such", "no such cgroup"])),
        (by_path("/etc"), not_found(&["target /etc", "no such cgroup"])),
        (by_id(u64::MAX), not_found(&["target 18446744073709551615", "no such cgroup"])),
    ]
}

/// A scope and a staleness that no agent and no server takes.
fn bad_flushes() -> Vec<(i32, Option<Duration>, Refusal<'static>)> {
    let time = |seconds, nanos| Some(Duration { seconds, nanos });
    let bad_time = || invalid(&["max_staleness", "0s or more"]);
    vec![
        (99, None, invalid(&["scope", "\"99\"", "FLUSH_SCOPE_ANCESTORS (2)"])),
        (-1, None, invalid(&["scope", "\"-1\"", "FLUSH_SCOPE_ANCESTORS (2)"])),
        (0, time(-1, 0), bad_time()),
        (1, time(0, -1), bad_time()),
        (2, time(i64::MIN, 0), bad_time()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_refuses_what_it_cannot_walk() -> Result<()> {
    let daemon = Start::agent()?.start().await?;
    let mut agent = daemon.agent()?;
    for (spec, refusal) in bad_specs() {
        check(&spec.clone(), agent.walk(WalkRequest { spec }), refusal).await?;
    }
    for (target, refusal) in bad_targets() {
        let request =
            AgentServiceFlushRequest { target: Some(target.clone()), ..AgentServiceFlushRequest::default() };
        check(&target, agent.flush(request), refusal).await?;
        let request = WalkRequest { spec: Some(self_of(target.clone())) };
        check(&target, agent.walk(request), refusal).await?;
    }
    for (scope, max_staleness, refusal) in bad_flushes() {
        let request = AgentServiceFlushRequest { target: None, scope, max_staleness };
        check(&request, agent.flush(request.clone()), refusal).await?;
    }
    let stop_at = |stop_at| WalkSpec { stop_at: Some(stop_at), ..self_of(by_path("/")) };
    let joined = |target| WalkSpec { join: HierarchyJoin::Path.into(), ..self_of(target) };
    let no_path = ["spec.target", "a path without a hierarchy", "HIERARCHY_JOIN_PATH"];
    for (spec, refusal) in [
        (joined(by_id(1)), invalid(&no_path)),
        (joined(of_hierarchy("memory", by_path("/a"))), invalid(&no_path)),
        (
            WalkSpec { stop_when: Some(condition("pids.current", 0)), ..self_of(by_path("/")) },
            invalid(&["spec.stop_when.comparison", "\"0\"", "COMPARISON_GREATER_OR_EQUAL (4)"]),
        ),
        (
            WalkSpec { join: 99, ..self_of(by_path("/")) },
            invalid(&["spec.join", "\"99\"", "HIERARCHY_JOIN_PATH (1)"]),
        ),
        (
            WalkSpec { flush: 99, ..self_of(by_path("/")) },
            invalid(&["spec.flush", "\"99\"", "FLUSH_MODE_ALWAYS (3)"]),
        ),
        (
            WalkSpec { engine: 99, ..self_of(by_path("/")) },
            invalid(&["spec.engine", "\"99\"", "WALK_ENGINE_"]),
        ),
        (stop_at(by_path("/no/such")), not_found(&["stop_at /no/such", "no such cgroup"])),
        (stop_at(by_path("/a\\b")), invalid(&["spec.stop_at.path", "\\xHH"])),
        (
            stop_at(of_hierarchy("name=systemd", by_path("/"))),
            invalid(&["spec.stop_at", "\"name=systemd:/\"", "in the hierarchy of spec.target"]),
        ),
    ] {
        check(&spec.clone(), agent.walk(WalkRequest { spec: Some(spec) }), refusal).await?;
    }
    for nanos in [0, 300_000_000, -200_000_000] {
        let interval = Some(Duration { seconds: 0, nanos });
        let says = &["interval", "a whole multiple of the agent's sample_interval, 200ms"];
        check(&interval, agent.subscribe(SubscribeRequest { interval, changes: None }), invalid(says))
            .await?;
    }
    for (spec, refusal) in bad_subscriptions() {
        let request = SubscribeRequest { interval: None, changes: Some(spec.clone()) };
        check(&spec, agent.subscribe(request), refusal).await?;
    }
    let both = SubscribeRequest {
        interval: Some(Duration { seconds: 1, nanos: 0 }),
        changes: Some(SubscribeSpec::default()),
    };
    check(&both, agent.subscribe(both.clone()), invalid(&["interval", "unset with changes"])).await?;
    Ok(())
}

/// What a host cannot do is not the request's mistake: another host may be able to.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_bpf_refuses_engines_that_need_it() -> Result<()> {
    let server = Start::server()?.start().await?;
    let agent = Start::agent()?.flag("--bpf", "off").registered(&server, "web-1").start().await?;
    host_up(&server, "web-1").await?;
    for engine in [WalkEngine::Locked, WalkEngine::Unlocked] {
        let name = engine.as_str_name();
        let says = &[name, "is not to be had here", "it is switched off (bpf = off)", "ask for files"][..];
        let spec = WalkSpec { engine: engine.into(), ..self_of(by_path("/")) };
        let refusal = (Code::FailedPrecondition, ErrorReason::KernelUnsupported, says);
        check(&spec, agent.agent()?.walk(WalkRequest { spec: Some(spec.clone()) }), refusal).await?;

        let hosts = Some(HostSelector { all: true, hosts: Vec::new() });
        let request = QueryRequest { hosts, spec: Some(spec), host_timeout: None };
        let queried = in_time(name, query(&server, request)).await??;
        let outcome = queried.results.into_iter().next().and_then(|result| result.outcome);
        let Some(Outcome::Error(HostError { reason, message, .. })) = outcome else {
            panic!("{name}: {outcome:?}");
        };
        check_line(name, &message, says);
        assert_eq!(reason, i32::from(ErrorReason::KernelUnsupported), "{message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_what_it_cannot_ask_a_host() -> Result<()> {
    let server = Start::server()?.start().await?;
    let mut fleet = server.fleet()?;
    let _agent = Start::agent()?.registered(&server, "web-1").start().await?;
    host_up(&server, "web-1").await?;
    let all = || Some(HostSelector { all: true, hosts: Vec::new() });
    for (spec, refusal) in bad_specs() {
        let request = QueryRequest { hosts: all(), spec: spec.clone(), host_timeout: None };
        check(&spec, fleet.query(request), refusal).await?;
    }
    for (seconds, nanos) in [(0, 0), (-1, 0), (301, 0), (i64::MAX, 0)] {
        let host_timeout = Some(Duration { seconds, nanos });
        let refusal = invalid(&["host_timeout", "more than 0s, at most 300s"]);
        let spec = Some(self_of(by_path("/")));
        check(&host_timeout, fleet.query(QueryRequest { hosts: all(), spec, host_timeout }), refusal).await?;
        let request =
            FleetServiceFlushRequest { hosts: all(), host_timeout, ..FleetServiceFlushRequest::default() };
        check(&host_timeout, fleet.flush(request), refusal).await?;
    }
    for (scope, max_staleness, refusal) in bad_flushes() {
        let hosts = all();
        let request = FleetServiceFlushRequest { hosts, scope, max_staleness, ..Default::default() };
        check(&request, fleet.flush(request.clone()), refusal).await?;
    }
    let named =
        |all, hosts: &[&str]| HostSelector { all, hosts: hosts.iter().map(ToString::to_string).collect() };
    let unknown = (Code::NotFound, ErrorReason::HostUnknown, &["\"nobody\"", "`cgctl hosts`"][..]);
    for (hosts, refusal) in [
        (named(false, &[]), invalid(&["hosts", "one host at least, or all"])),
        (named(true, &["web-1"]), invalid(&["hosts", "\"web-1\"", "names or all, not both"])),
        (named(false, &["web-1", "nobody"]), unknown),
        (named(false, &[ID]), (Code::NotFound, ErrorReason::HostUnknown, &[ID, "`cgctl hosts`"])),
    ] {
        let spec = Some(self_of(by_path("/")));
        let request = QueryRequest { hosts: Some(hosts.clone()), spec, host_timeout: None };
        check(&hosts, fleet.query(request), refusal).await?;
    }
    // What only a host can know is the host's error, beside the rows of the others.
    for (target, (code, reason, says)) in bad_targets() {
        let spec = Some(self_of(target.clone()));
        let request = QueryRequest { hosts: all(), spec, host_timeout: None };
        let mistake = format!("{target:?}");
        let queried = in_time(&mistake, query(&server, request)).await??;
        let outcome = queried.results.into_iter().next().and_then(|result| result.outcome);
        let Some(Outcome::Error(HostError { code: found, reason: because, message, .. })) = outcome else {
            panic!("{mistake}: {outcome:?}");
        };
        check_line(&mistake, &message, says);
        assert_eq!((Code::from(found), because), (code, reason.into()), "{mistake}: {message}");
        assert_eq!(queried.summary.hosts_failed, 1);
    }
    Ok(())
}

/// Switches that no agent and no server makes.
fn bad_switches() -> Vec<((&'static str, i32), Refusal<'static>)> {
    let (on, off) = (CollectorState::On.into(), CollectorState::Off.into());
    let states = &["state", "COLLECTOR_STATE_ON or COLLECTOR_STATE_OFF"];
    vec![
        (("", on), invalid(&["name", "\"\"", "reclaim, attach, runqueue, block_io"])),
        (("disk", off), invalid(&["name", "\"disk\"", "reclaim, attach, runqueue, block_io"])),
        (("RUNQUEUE", on), invalid(&["name", "\"RUNQUEUE\"", "runqueue"])),
        (("reclaim", 0), invalid(states)),
        (("reclaim", CollectorState::Unavailable.into()), invalid(states)),
        (("reclaim", 99), invalid(states)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_collectors_and_states_that_there_are_not() -> Result<()> {
    let server = Start::server()?.start().await?;
    let mut fleet = server.fleet()?;
    let all = || Some(HostSelector { all: true, hosts: Vec::new() });
    for ((name, state), refusal) in bad_switches() {
        let name = name.to_owned();
        let request = FleetServiceSetCollectorRequest { hosts: all(), host_timeout: None, name, state };
        check(&request.clone(), fleet.set_collector(request), refusal).await?;
    }
    let too_long = Some(Duration { seconds: 301, nanos: 0 });
    let refusal = invalid(&["host_timeout", "more than 0s, at most 300s"]);
    let request = FleetServiceListCollectorsRequest { hosts: all(), host_timeout: too_long };
    check(&request.clone(), fleet.list_collectors(request), refusal).await?;
    let refusal = invalid(&["hosts", "one host at least, or all"]);
    let request = FleetServiceListCollectorsRequest { hosts: None, host_timeout: None };
    check(&request.clone(), fleet.list_collectors(request), refusal).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_bad_hosts_pages_and_pasts() -> Result<()> {
    let server = Start::server()?.start().await?;
    let mut fleet = server.fleet()?;
    let _agent = Start::agent()?.registered(&server, "web-1").start().await?;
    host_up(&server, "web-1").await?;
    for (host, refusal) in bad_hosts() {
        check(&host.clone(), fleet.register_host(RegisterHostRequest { host: Some(host) }), refusal).await?;
    }
    check(&"no host", fleet.register_host(RegisterHostRequest { host: None }), invalid(&["host.host_id"]))
        .await?;

    let page =
        |page_size, page_token: &str| ListHostsRequest { page_size, page_token: page_token.to_owned() };
    for (request, refusal) in [
        (page(1001, ""), invalid(&["page_size", "\"1001\"", "0 to 1000"])),
        (page(0, "garbage"), invalid(&["page_token", "\"garbage\"", "next_page_token of the page before"])),
    ] {
        check(&request.clone(), fleet.list_hosts(request), refusal).await?;
    }
    for (request, refusal) in bad_pasts() {
        check(&request.clone(), fleet.query_history(request), refusal).await?;
    }
    Ok(())
}

fn bad_hosts() -> Vec<(Host, Refusal<'static>)> {
    const TEXT: &str = "1 to 255 bytes of text";
    let id = || ID.to_owned();
    let good = || Host {
        host_id: id(),
        boot_id: id(),
        agent_epoch: id(),
        hostname: "web-2".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        kernel_release: "6.12.0".to_owned(),
        agent_version: "0.1.0".to_owned(),
    };
    let nil = "00000000-0000-0000-0000-000000000000";
    vec![
        (Host { host_id: nil.to_owned(), ..good() }, invalid(&["host.host_id", "00000000-", "a uuid"])),
        (Host { boot_id: "7".to_owned(), ..good() }, invalid(&["host.boot_id", "\"7\"", "a uuid"])),
        (Host { agent_epoch: String::new(), ..good() }, invalid(&["host.agent_epoch", "a uuid"])),
        (
            Host { address: "nowhere".to_owned(), ..good() },
            invalid(&["host.address", "\"nowhere\"", "host:port"]),
        ),
        (Host { hostname: String::new(), ..good() }, invalid(&["host.hostname", TEXT])),
        (Host { hostname: "a\nb".to_owned(), ..good() }, invalid(&["host.hostname", "\"a\\nb\"", TEXT])),
        (Host { hostname: "x".repeat(256), ..good() }, invalid(&["host.hostname", TEXT])),
    ]
}
