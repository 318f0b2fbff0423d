//! What an answer cost its hosts, in one line for people.

use std::collections::BTreeSet;

use cgfleet_proto::v1::WalkSummary;
use jiff::tz::TimeZone;
use prost_types::Timestamp;

use crate::{
    output::table::{elapsed, moment_cell},
    words,
};

/// The cost of all hosts' walks: cgroups add up, of times the longest on one host counts.
#[derive(Debug, Default)]
pub(super) struct Cost {
    hosts: u32,
    engines: BTreeSet<String>,
    cgroups_visited: u64,
    flush_ns_max: u64,
    walk_ns_max: u64,
    cgroup_mutex_held_ns_max: u64,
    unbroken_ns_max: u64,
    files_ns_max: u64,
    /// The oldest moments of all hosts, each by its host's clock.
    read_at: Option<Timestamp>,
    flushed_at: Option<Timestamp>,
    /// Hosts that had the answer from a walk for others.
    shared: u32,
}

impl Cost {
    pub(super) fn add(&mut self, summary: &WalkSummary) {
        self.hosts += 1;
        self.engines.extend(words::walk_engine(summary.engine));
        self.cgroups_visited += summary.cgroups_visited;
        self.flush_ns_max = self.flush_ns_max.max(summary.flush_ns);
        self.walk_ns_max = self.walk_ns_max.max(summary.walk_ns);
        self.cgroup_mutex_held_ns_max = self.cgroup_mutex_held_ns_max.max(summary.cgroup_mutex_held_ns_max);
        self.unbroken_ns_max = self.unbroken_ns_max.max(summary.unbroken_ns_max.unwrap_or_default());
        self.files_ns_max = self.files_ns_max.max(summary.files_ns);
        self.read_at = oldest(self.read_at, summary.read_at);
        self.flushed_at = oldest(self.flushed_at, summary.flushed_at);
        self.shared += u32::from(summary.shared);
    }

    /// The line; `None` if nothing was walked.
    pub(super) fn line(&self, zone: &TimeZone) -> Option<String> {
        if self.hosts == 0 {
            return None;
        }
        let engines: Vec<&str> = self.engines.iter().map(String::as_str).collect();
        let engines = if engines.is_empty() { "unknown".to_owned() } else { engines.join("+") };
        let at_most = if self.hosts == 1 { "" } else { "at most " };
        let times = [
            ("flush", self.flush_ns_max),
            ("walk", self.walk_ns_max),
            ("longest slice", self.unbroken_ns_max),
            ("cgroup_mutex held", self.cgroup_mutex_held_ns_max),
            ("files", self.files_ns_max),
        ];
        // What was not done costs nothing, and is not worth a word.
        let times = times.into_iter().filter(|(_, time_ns)| *time_ns > 0);
        let times: Vec<_> = times.map(|(what, time_ns)| format!("{what} {}", elapsed(time_ns))).collect();
        let line = format!(
            "{engines} engine, {} cgroups visited; {at_most}{}",
            self.cgroups_visited,
            times.join(", ")
        );
        Some([line].into_iter().chain(self.freshness(zone)).collect::<Vec<_>>().join("; "))
    }

    /// How fresh what was read is; `None` if no host says.
    fn freshness(&self, zone: &TimeZone) -> Option<String> {
        let moments = [("read", self.read_at), ("flushed", self.flushed_at)].into_iter();
        let moments = moments.filter_map(|(what, at)| Some(format!("{what} {}", moment_cell(&at?, zone)?)));
        let shared = match (self.shared, self.hosts) {
            (0, _) => None,
            (1, 1) => Some("shared with another request".to_owned()),
            (shared, hosts) => Some(format!("{shared} of {hosts} shared with other requests")),
        };
        let parts: Vec<_> = moments.chain(shared).collect();
        let oldest = if self.hosts == 1 { "" } else { "oldest " };
        (!parts.is_empty()).then(|| format!("{oldest}{}", parts.join(", ")))
    }
}

fn oldest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min_by_key(|moment| (moment.seconds, moment.nanos))
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::WalkEngine;

    use super::*;

    #[test]
    fn cgroups_add_up_and_the_longest_time_counts() {
        let mut cost = Cost::default();
        assert_eq!(cost.line(&TimeZone::UTC), None);
        let summary = |cgroups_visited, flush_ns, walk_ns| WalkSummary {
            engine: WalkEngine::Locked.into(),
            cgroups_visited,
            flush_ns,
            walk_ns,
            cgroup_mutex_held_ns_max: flush_ns + walk_ns,
            ..WalkSummary::default()
        };
        cost.add(&summary(10, 81_200, 1_100_000));
        let one = "locked engine, 10 cgroups visited; flush 81.2 µs, walk 1.10 ms, cgroup_mutex held 1.18 ms";
        assert_eq!(cost.line(&TimeZone::UTC).as_deref(), Some(one));
        cost.add(&summary(5, 0, 2_000_000));
        let two = "locked engine, 15 cgroups visited; at most flush 81.2 µs, walk 2.00 ms, cgroup_mutex held 2.00 ms";
        assert_eq!(cost.line(&TimeZone::UTC).as_deref(), Some(two));
    }

    #[test]
    fn the_oldest_says_how_fresh_all_is() {
        let mut cost = Cost::default();
        let at = |seconds: i64, nanos| Some(Timestamp { seconds: 1_795_420_800 + seconds, nanos });
        let summary = |read_at, flushed_at, shared| WalkSummary {
            engine: WalkEngine::Unlocked.into(),
            walk_ns: 1000,
            read_at,
            flushed_at,
            shared,
            ..WalkSummary::default()
        };
        let check = |cost: &Cost, expect: &str| {
            let line = cost.line(&TimeZone::UTC).unwrap();
            assert_eq!(line.split_once("walk 1.00 µs; ").unwrap().1, expect);
        };
        cost.add(&summary(at(5, 0), None, true));
        check(&cost, "read 2026-11-23T08:00:05.000+00:00, shared with another request");
        cost.add(&summary(at(2, 7_000_000), at(1, 0), false));
        cost.add(&summary(at(2, 9_000_000), at(0, 0), true));
        let expect = "oldest read 2026-11-23T08:00:02.007+00:00, flushed 2026-11-23T08:00:00.000+00:00, \
                      2 of 3 shared with other requests";
        check(&cost, expect);
    }

    #[test]
    fn what_a_walk_did_not_do_is_not_in_the_line() {
        let mut cost = Cost::default();
        cost.add(&WalkSummary {
            engine: WalkEngine::Files.into(),
            cgroups_visited: 3,
            files_ns: 412_000,
            ..WalkSummary::default()
        });
        assert_eq!(
            cost.line(&TimeZone::UTC).as_deref(),
            Some("files engine, 3 cgroups visited; files 412 µs")
        );
    }
}
