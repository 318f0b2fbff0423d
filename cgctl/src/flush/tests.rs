//! What is printed of hosts' flushes, and how the command ends.

use cgfleet_proto::v1::{ErrorReason, FlushMethod, HostError};
use expect_test::{Expect, expect};

use super::*;

fn flushed(outcome: FlushOutcome) -> HostFlush {
    let subsystem = |name: &str, method: FlushMethod, reason: &str| FlushedSubsystem {
        name: name.into(),
        method: method.into(),
        reason: reason.into(),
    };
    HostFlush {
        cgroup_id: 1,
        path: "/".into(),
        flush_ns: 81_200,
        flushed_at: Some(prost_types::Timestamp { seconds: 1_795_420_800, nanos: 0 }),
        outcome: outcome.into(),
        subsystems: vec![
            subsystem("cpu", FlushMethod::Rstat, ""),
            subsystem("memory", FlushMethod::FilePastThreshold, "memory.stat was read"),
        ],
        files_ns: 18_800,
        retry_after: None,
    }
}

/// Hosts in the order in which they answer.
fn check(format: Format, answers: Vec<(&str, Outcome)>, expect_exit: Exit, expect: &Expect) {
    let mut report = Report { format, hosts: Vec::new(), tally: Tally::default() };
    let mut out = Vec::new();
    for (host, outcome) in answers {
        let host_id = format!("id-{host}");
        let answer = FleetServiceFlushResponse { host_id, hostname: host.into(), outcome: Some(outcome) };
        report.add(&mut out, answer).unwrap();
    }
    assert_eq!(report.finish(&mut out, Ok(())).unwrap(), expect_exit);
    expect.assert_eq(&String::from_utf8(out).unwrap());
}

fn one_that_failed() -> Vec<(&'static str, Outcome)> {
    let error = HostError {
        code: 4,
        reason: ErrorReason::HostTimeout.into(),
        message: "no answer in 5s".into(),
        retry_after: None,
    };
    vec![("web-2", Outcome::Flush(flushed(FlushOutcome::Performed))), ("web-1", Outcome::Error(error))]
}

#[test]
fn each_host_says_what_it_flushed_or_why_not() {
    check(
        Format::Ndjson,
        one_that_failed(),
        Exit::Partial,
        &expect![[r#"
        {"host_id":"id-web-2","hostname":"web-2","flush":{"outcome":"performed","cgroup_id":1,"path":"/","flush_ns":81200,"files_ns":18800,"flushed_at":"2026-11-23T08:00:00Z","subsystems":[{"name":"cpu","method":"rstat"},{"name":"memory","method":"file_past_threshold","reason":"memory.stat was read"}]}}
        {"host_id":"id-web-1","hostname":"web-1","error":{"reason":"HOST_TIMEOUT","message":"no answer in 5s","code":4}}
    "#]],
    );
    check(
        Format::Json,
        one_that_failed(),
        Exit::Partial,
        &expect![[r#"
        {"hosts":[{"host_id":"id-web-1","hostname":"web-1","error":{"reason":"HOST_TIMEOUT","message":"no answer in 5s","code":4}},{"host_id":"id-web-2","hostname":"web-2","flush":{"outcome":"performed","cgroup_id":1,"path":"/","flush_ns":81200,"files_ns":18800,"flushed_at":"2026-11-23T08:00:00Z","subsystems":[{"name":"cpu","method":"rstat"},{"name":"memory","method":"file_past_threshold","reason":"memory.stat was read"}]}}],"summary":{"hosts":2,"hosts_complete":1,"hosts_truncated":0,"hosts_failed":1}}
    "#]],
    );
}

#[test]
fn a_host_that_performed_too_many_says_when_to_try_again_and_is_not_whole() {
    let limited = HostFlush {
        outcome: FlushOutcome::RateLimited.into(),
        retry_after: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
        ..HostFlush::default()
    };
    check(
        Format::Ndjson,
        vec![("web-1", Outcome::Flush(limited))],
        Exit::Partial,
        &expect![[r#"
        {"host_id":"id-web-1","hostname":"web-1","flush":{"outcome":"rate_limited","retry_after_ns":250000000}}
    "#]],
    );
}

#[test]
fn a_table_shows_of_each_host_the_flush_that_meets_the_request() {
    let limited = HostFlush { outcome: FlushOutcome::RateLimited.into(), ..HostFlush::default() };
    let answers = [limited, flushed(FlushOutcome::Coalesced), flushed(FlushOutcome::Skipped)];
    let hosts: Vec<_> = (1..)
        .zip(answers)
        .map(|(number, flush)| FleetServiceFlushResponse {
            hostname: format!("web-{number}"),
            outcome: Some(Outcome::Flush(flush)),
            ..FleetServiceFlushResponse::default()
        })
        .collect();
    let mut out = Vec::new();
    table(&hosts, &TimeZone::UTC).write(&mut out).unwrap();
    let expect = expect![[r#"
        HOST   OUTCOME       CGROUP_ID   FLUSH  FLUSHED_AT                     HOW                                   PATH
        web-1  rate_limited          -       -  -                              -                                     -
        web-2  coalesced             1  100 µs  2026-11-23T08:00:00.000+00:00  cpu:rstat memory:file_past_threshold  /
        web-3  skipped               1  100 µs  2026-11-23T08:00:00.000+00:00  cpu:rstat memory:file_past_threshold  /
    "#]];
    expect.assert_eq(&anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string());
}

#[test]
fn where_nothing_has_to_be_flushed_the_answer_is_whole() {
    let nothing = HostFlush { outcome: FlushOutcome::Skipped.into(), ..HostFlush::default() };
    check(
        Format::Ndjson,
        vec![("web-1", Outcome::Flush(nothing))],
        Exit::Complete,
        &expect![[r#"
        {"host_id":"id-web-1","hostname":"web-1","flush":{"outcome":"skipped"}}
    "#]],
    );
}

#[test]
fn a_staleness_is_a_time_with_its_unit() {
    for (text, expect) in
        [("0s", Some(0)), ("500ms", Some(500)), ("2m", Some(120_000)), ("5", None), ("-1s", None)]
    {
        let parsed = parse_staleness(text).ok().map(|time| time.as_millis());
        assert_eq!(parsed, expect, "{text}");
    }
}
