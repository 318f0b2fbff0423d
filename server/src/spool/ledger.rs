//! What the spool holds, by host. Pure.

use std::{collections::HashMap, time::SystemTime};

use uuid::Uuid;

/// Ticks of one host, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub ticks: u64,
    /// None of them is older, by the server's clock.
    pub since: SystemTime,
}

/// Counts what comes and goes. What goes came first of its host.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    hosts: HashMap<Uuid, Held>,
    ticks: u64,
}

impl Ledger {
    pub(super) fn add(&mut self, host_id: Uuid, tick_at: SystemTime) {
        let held = self.hosts.entry(host_id).or_insert(Held { ticks: 0, since: tick_at });
        held.ticks += 1;
        self.ticks += 1;
    }

    /// The host's first tick has gone.
    pub(super) fn remove(&mut self, host_id: Uuid, tick_at: SystemTime) {
        let Some(held) = self.hosts.get_mut(&host_id) else { return };
        held.ticks -= 1;
        held.since = held.since.max(tick_at);
        self.ticks -= 1;
        if held.ticks == 0 {
            self.hosts.remove(&host_id);
        }
    }

    /// Nothing is left, whatever was counted: what was damaged is not known by host.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn of(&self, host_id: Uuid) -> Option<Held> {
        self.hosts.get(&host_id).copied()
    }

    pub(super) fn all(&self) -> Option<Held> {
        let since = self.hosts.values().map(|held| held.since).min()?;
        Some(Held { ticks: self.ticks, since })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_came_and_did_not_go_is_held() {
        let (at, id) = (|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), Uuid::from_u128);
        let mut ledger = Ledger::default();
        for (host, tick) in [(1, 10), (2, 11), (1, 20), (1, 30)] {
            ledger.add(id(host), at(tick));
        }
        let check = |ledger: &Ledger, host: Option<u128>, expect: Option<(u64, u64)>| {
            let expect = expect.map(|(ticks, since)| Held { ticks, since: at(since) });
            assert_eq!(host.map_or_else(|| ledger.all(), |host| ledger.of(id(host))), expect, "{host:?}");
        };
        check(&ledger, Some(1), Some((3, 10)));
        check(&ledger, Some(3), None);
        check(&ledger, None, Some((4, 10)));
        ledger.remove(id(1), at(10));
        ledger.remove(id(2), at(11));
        ledger.remove(id(1), at(20));
        check(&ledger, Some(2), None);
        check(&ledger, None, Some((1, 20)));
        ledger.remove(id(1), at(30));
        ledger.remove(id(1), at(40));
        check(&ledger, None, None);
        assert!(ledger.is_empty() && ledger.ticks == 0);
    }
}
