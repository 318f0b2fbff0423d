//! What becomes of requests after flushes that were performed.

use super::{Verdict::*, *};
use crate::walker::Subsystem;

/// The tree of the cases: 1 is the root, 2 and 3 are below it, 20 below 2, 200 below 20.
const ROOT: &[u64] = &[1];
const A: &[u64] = &[2, 1];
const B: &[u64] = &[3, 1];
const AA: &[u64] = &[20, 2, 1];
const AAA: &[u64] = &[200, 20, 2, 1];

const NEVER: u64 = 0;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn coalesced(flush: u64) -> Verdict<u64> {
    Met(MetBy::Beginning, flush)
}

fn skipped(flush: u64) -> Verdict<u64> {
    Met(MetBy::Staleness, flush)
}

/// A ledger of one flush a second in which these are: (cgroup, began, ended).
fn ledger(started: Instant, performed: &[(u64, u64, u64)]) -> Ledger<u64> {
    let mut ledger = Ledger::new(1);
    for (cgroup_id, began_ms, ended_ms) in performed.iter().copied() {
        ledger.performed(Performed {
            hierarchy_id: 0,
            cgroup_id,
            subsystems: Subsystems::ALL,
            began_at: started + ms(began_ms),
            ended_at: started + ms(ended_ms),
            flush: ended_ms,
        });
    }
    ledger
}

fn demand(started: Instant, asked_ms: u64, staleness_ms: u64) -> FlushDemand {
    FlushDemand { asked_at: started + ms(asked_ms), max_staleness: ms(staleness_ms) }
}

fn asked<'a>(line: &'a [u64], demands: &'a [FlushDemand]) -> Asked<'a> {
    Asked { hierarchy_id: 0, line, subsystems: Subsystems::ALL, demands }
}

/// Flushes of (cgroup, began, ended), then a request for this line that came, and is judged, then.
fn check(
    performed: &[(u64, u64, u64)],
    (line, asked_ms, judged_ms, staleness_ms): (&[u64], u64, u64, u64),
    expect: &Verdict<u64>,
) {
    let started = Instant::now();
    let mut ledger = ledger(started, performed);
    let demands = [demand(started, asked_ms, staleness_ms)];
    let asked = asked(line, &demands);
    let is_met = matches!(expect, Met(..));
    let is_of_use = ledger.is_of_use(0, &demands, started + ms(judged_ms));
    assert!(is_of_use || !is_met, "{asked:?} after {performed:?} is met");
    let verdict = ledger.judge(&asked, started + ms(judged_ms));
    assert_eq!(&verdict, expect, "{asked:?} after {performed:?}");
    let elsewhere = ledger.judge(&Asked { hierarchy_id: 7, ..asked }, started + ms(judged_ms) * 10);
    assert!(matches!(elsewhere, Perform | RateLimited { .. }), "ids are of one hierarchy: {elsewhere:?}");
}

#[test]
fn a_flush_that_began_after_the_request_came_meets_it() {
    check(&[(2, 10, 12)], (A, 10, 12, NEVER), &coalesced(12));
    check(&[(2, 10, 12)], (A, 5, 12, NEVER), &coalesced(12));
    check(&[(2, 10, 12)], (A, 5, 12, 1000), &coalesced(12));
    check(&[(2, 10, 12), (2, 20, 22)], (A, 15, 22, NEVER), &coalesced(22));
}

#[test]
fn a_flush_that_was_under_way_when_the_request_came_does_not() {
    check(&[(2, 10, 12)], (A, 11, 12, NEVER), &Perform);
    check(&[(2, 10, 12), (2, 12, 14)], (A, 13, 14, NEVER), &Perform);
}

#[test]
fn a_flush_that_ended_recently_will_do_where_the_request_says_so() {
    check(&[(2, 10, 12)], (A, 20, 21, 9), &skipped(12));
    check(&[(2, 10, 12)], (A, 20, 22, 9), &Perform);
    check(&[(2, 10, 12)], (A, 20, 21, NEVER), &Perform);
    check(&[(2, 10, 12), (2, 30, 32)], (A, 40, 41, 1000), &skipped(32));
    check(&[], (A, 20, 21, 1000), &Perform);
}

#[test]
fn a_flush_covers_all_below_and_nothing_else() {
    for line in [A, AA, AAA] {
        check(&[(2, 10, 12)], (line, 20, 21, 1000), &skipped(12));
        check(&[(2, 10, 12)], (line, 5, 12, NEVER), &coalesced(12));
    }
    for line in [ROOT, B] {
        check(&[(2, 10, 12)], (line, 20, 21, 1000), &Perform);
        check(&[(2, 10, 12)], (line, 5, 12, NEVER), &Perform);
    }
    check(&[(200, 10, 12)], (AA, 20, 21, 1000), &Perform);
    check(&[(1, 10, 12)], (AAA, 20, 21, 1000), &skipped(12));
}

#[test]
fn the_freshest_that_covers_the_request_meets_it() {
    check(&[(1, 10, 12), (2, 20, 22), (3, 30, 32)], (AA, 40, 41, 1000), &skipped(22));
    check(&[(2, 10, 12), (1, 20, 22), (3, 30, 32)], (AA, 40, 41, 1000), &skipped(22));
    check(&[(2, 10, 12), (1, 20, 22)], (AA, 15, 22, NEVER), &coalesced(22));
}

/// Flushes of what (by bit: cpu, memory, io), one after the other, then a request for that; the number of
/// the flush that meets it.
fn check_subsystems(performed: &[&[Subsystem]], of: &[Subsystem], expect: Option<u64>) {
    let (mut ledger, now) = (Ledger::new(1), Instant::now());
    for (flush, subsystems) in (0..).zip(performed) {
        let subsystems = subsystems.iter().copied().collect();
        let (began_at, ended_at) = (now, now);
        ledger.performed(Performed { hierarchy_id: 0, cgroup_id: 1, subsystems, began_at, ended_at, flush });
    }
    let demands = [FlushDemand { asked_at: now, max_staleness: ms(0) }];
    let asked = Asked { subsystems: of.iter().copied().collect(), ..asked(ROOT, &demands) };
    assert_eq!(ledger.met(&asked, now).map(|(_, flush)| flush), expect, "{of:?} after {performed:?}");
}

#[test]
fn a_flush_of_less_than_is_asked_for_does_not_meet_the_request() {
    use Subsystem::{Cpu, Io, Memory};
    let all = &Subsystem::ALL[..];
    check_subsystems(&[&[Cpu]], &[Cpu], Some(0));
    check_subsystems(&[all], &[Memory], Some(0));
    check_subsystems(&[&[Cpu, Io]], all, None);
    check_subsystems(&[&[Cpu], &[Memory, Io]], all, None);
    check_subsystems(&[all, &[Cpu]], all, Some(0));
    check_subsystems(&[all, &[Cpu]], &[Cpu], Some(1));
    check_subsystems(&[&[Cpu], all], &[Cpu], Some(1));
}

#[test]
fn one_flush_meets_all_or_another_is_performed() {
    let check = |performed: &[(u64, u64, u64)], asked_ms: &[(u64, u64)], expect: &Verdict<u64>| {
        let started = Instant::now();
        let demands: Vec<_> = asked_ms.iter().map(|(at, stale)| demand(started, *at, *stale)).collect();
        let verdict = ledger(started, performed).judge(&asked(A, &demands), started + ms(22));
        assert_eq!(&verdict, expect, "{asked_ms:?} after {performed:?}");
    };
    check(&[(2, 20, 22)], &[(20, 0), (10, 0), (5, 0)], &coalesced(22));
    check(&[(2, 20, 22)], &[(21, 5), (10, 0)], &skipped(22));
    check(&[(2, 20, 22)], &[(21, 0), (10, 0)], &Perform);
    check(&[(2, 20, 22)], &[(10, 0), (21, 0)], &Perform);
}

#[test]
fn where_none_is_left_some_may_still_be_met() {
    let started = Instant::now();
    let mut ledger = ledger(started, &[(2, 20, 22)]);
    let late = [demand(started, 21, 0), demand(started, 10, 0)];
    let now = started + ms(22);
    assert_eq!(ledger.judge(&asked(A, &late[..1]), now), Perform, "and that is the last");
    assert!(matches!(ledger.judge(&asked(A, &late), now), RateLimited { .. }));
    assert_eq!(ledger.met(&asked(A, &late[..1]), now), None);
    assert_eq!(ledger.met(&asked(A, &late[1..]), now), Some((MetBy::Beginning, 22)));
}

#[test]
fn only_flushes_that_are_performed_come_out_of_the_budget() {
    let (mut ledger, started) = (Ledger::new(1), Instant::now());
    let refused = RateLimited { retry_after: ms(1000) };
    let now = [demand(started, 0, 0)];
    assert!(!ledger.is_of_use(0, &now, started), "there is no flush, and the budget is full");
    assert_eq!(ledger.judge(&asked(A, &now), started), Perform);
    ledger.give_back();
    assert_eq!(ledger.judge(&asked(A, &now), started), Perform, "what was given back is there");
    assert!(ledger.is_of_use(7, &now, started), "it is empty");
    let (subsystems, began_at, ended_at) = (Subsystems::ALL, started, started);
    ledger.performed(Performed { hierarchy_id: 0, cgroup_id: 2, subsystems, began_at, ended_at, flush: 7 });
    assert_eq!(ledger.judge(&asked(B, &now), started), refused);
    let later = [demand(started, 1, 500)];
    for _ in 0..100 {
        assert_eq!(ledger.judge(&asked(AAA, &now), started), coalesced(7));
        assert_eq!(ledger.judge(&asked(AA, &later), started + ms(500)), skipped(7));
    }
    assert_eq!(ledger.judge(&asked(AA, &later), started + ms(501)), RateLimited { retry_after: ms(499) });
    assert_eq!(ledger.judge(&asked(B, &now), started + ms(1000)), Perform);
}

#[test]
fn the_oldest_flush_is_forgotten_first() {
    let (mut ledger, now) = (Ledger::new(1), Instant::now());
    let cgroups = 0..=FLUSHES_KEPT_MAX as u64;
    for cgroup_id in cgroups.clone().chain([1]) {
        let (subsystems, began_at, ended_at) = (Subsystems::ALL, now, now);
        let flush = cgroup_id;
        ledger.performed(Performed { hierarchy_id: 0, cgroup_id, subsystems, began_at, ended_at, flush });
    }
    assert_eq!(ledger.performed.len(), FLUSHES_KEPT_MAX);
    let demands = [FlushDemand { asked_at: now, max_staleness: ms(0) }];
    let met = |cgroup_id| ledger.met(&asked(&[cgroup_id], &demands), now).is_some();
    assert_eq!(cgroups.filter(|cgroup_id| !met(*cgroup_id)).collect::<Vec<_>>(), [0]);
}
