//! Which hosts are watched, how far each came, and whether that is enough.

use std::collections::BTreeMap;

use cgfleet_proto::v1::{HostChange, HostChangeKind};
use tonic::Code;

use crate::exit::{Exit, HostOutcome, Tally};

/// The hosts that are watched, by id.
#[derive(Debug)]
pub(super) struct Hosts {
    by_id: BTreeMap<String, Host>,
    /// How many ticks are wanted of each.
    ticks: Option<u64>,
    /// Whether any stream was ever open.
    any_opened: bool,
}

#[derive(Debug, Default)]
struct Host {
    ticks: u64,
    /// Why it is lost, if it is.
    lost: Option<Exit>,
    /// Whether a limit cut one of its ticks.
    is_cut: bool,
}

impl Hosts {
    /// These, of which nothing came yet.
    pub(super) fn new<'a>(host_ids: impl Iterator<Item = &'a str>, ticks: Option<u64>) -> Self {
        let by_id = host_ids.map(|host_id| (host_id.to_owned(), Host::default())).collect();
        Self { by_id, ticks, any_opened: false }
    }

    /// Takes in what became of a host's stream.
    pub(super) fn change(&mut self, host_id: &str, change: &HostChange) {
        let host = self.by_id.entry(host_id.to_owned()).or_default();
        let is_lost = change.kind() == HostChangeKind::Lost;
        let code = change.error.as_ref().map_or(Code::Unknown, |error| Code::from(error.code));
        host.lost = is_lost.then(|| Exit::of_failure(code));
        self.any_opened |= !is_lost;
    }

    /// Takes in a whole tick; whether it is the first of the host that is cut.
    pub(super) fn tick(&mut self, host_id: &str, is_cut: bool) -> bool {
        let host = self.by_id.entry(host_id.to_owned()).or_default();
        host.ticks += 1;
        is_cut && !std::mem::replace(&mut host.is_cut, true)
    }

    /// Whether nothing more is to be waited for.
    pub(super) fn is_over(&self) -> bool {
        let mut hosts = self.by_id.values();
        if let Some(ticks) = self.ticks {
            return hosts.all(|host| host.ticks >= ticks || host.lost.is_some());
        }
        // All that there is refuses what was asked for: no time mends that.
        !self.any_opened && !self.by_id.is_empty() && hosts.all(|host| host.lost == Some(Exit::Usage))
    }

    /// How many hosts came how far.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for host in self.by_id.values() {
            tally.add(match host.lost {
                _ if host.is_cut => HostOutcome::Cut,
                _ if self.ticks.is_some_and(|ticks| host.ticks >= ticks) => HostOutcome::Whole,
                Some(exit) if host.ticks == 0 => HostOutcome::Failed(exit),
                _ => HostOutcome::Failed(Exit::Partial),
            });
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::HostError;

    use super::*;

    #[derive(Clone, Copy)]
    enum Comes {
        Opened(&'static str),
        Lost(&'static str, Code),
        Tick(&'static str),
    }
    use Comes::{Lost, Opened, Tick};

    fn check(ticks: Option<u64>, comes: &[Comes], expect: Option<Exit>) {
        let mut hosts = Hosts::new(["a", "b"].into_iter(), ticks);
        for comes in comes {
            assert!(!hosts.is_over(), "before the end");
            match *comes {
                Opened(host) => {
                    let kind = HostChangeKind::Joined.into();
                    hosts.change(host, &HostChange { kind, error: None });
                }
                Lost(host, code) => {
                    let error = Some(HostError { code: code as i32, ..HostError::default() });
                    hosts.change(host, &HostChange { kind: HostChangeKind::Lost.into(), error });
                }
                Tick(host) => assert!(!hosts.tick(host, false)),
            }
        }
        assert_eq!(hosts.is_over().then(|| hosts.tally().exit()), expect);
    }

    #[test]
    fn so_many_ticks_are_awaited_of_every_host_that_is_there() {
        let (down, bad) = (Code::Unavailable, Code::InvalidArgument);
        check(Some(1), &[], None);
        check(Some(1), &[Opened("a"), Tick("a"), Opened("b")], None);
        check(Some(1), &[Opened("a"), Opened("b"), Tick("a"), Tick("b")], Some(Exit::Complete));
        check(Some(2), &[Opened("a"), Opened("b"), Tick("a"), Tick("a"), Tick("b")], None);
        check(Some(1), &[Opened("a"), Tick("a"), Lost("b", down)], Some(Exit::Partial));
        check(Some(1), &[Lost("a", down), Lost("b", down)], Some(Exit::Unreachable));
        check(Some(1), &[Lost("a", down), Opened("a"), Lost("b", down)], None);
        check(Some(1), &[Lost("a", bad), Lost("b", bad)], Some(Exit::Usage));
    }

    #[test]
    fn a_watch_without_end_ends_only_if_every_host_refuses_it() {
        let (down, bad) = (Code::Unavailable, Code::InvalidArgument);
        check(None, &[Lost("a", bad)], None);
        check(None, &[Lost("a", bad), Lost("b", bad)], Some(Exit::Usage));
        check(None, &[Lost("a", bad), Lost("b", down)], None);
        check(None, &[Opened("a"), Lost("a", bad), Lost("b", bad)], None);
        check(None, &[Opened("a"), Tick("a"), Opened("b"), Tick("b")], None);
    }

    #[test]
    fn a_cut_tick_is_told_once_for_each_host() {
        let mut hosts = Hosts::new(["a"].into_iter(), Some(2));
        assert!(hosts.tick("a", true));
        assert!(!hosts.tick("a", true));
        assert_eq!(hosts.tally().exit(), Exit::Partial);
    }
}
