//! What came of each host behind its last bookmark: it counts when the next one comes, and if the stream breaks
//! before, it is void and comes again (docs/adr/0020-a-client-has-its-positions.md).
//!
//! Must not know how anything is printed.

use std::{collections::BTreeMap, mem};

use cgfleet_proto::v1::{
    FleetServiceSubscribeResponse, change_event, fleet_service_subscribe_response::Event,
};

/// What waits for its bookmark, by host id.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<String, Vec<FleetServiceSubscribeResponse>>);

impl Held {
    /// Takes in a part; gives what counts now, in the order in which it came.
    pub(super) fn take(&mut self, part: FleetServiceSubscribeResponse) -> Vec<FleetServiceSubscribeResponse> {
        let counts = match &part.event {
            // The end of a stream or the begin of another, which starts behind a bookmark or with a snapshot.
            Some(Event::Host(_)) => {
                self.0.remove(&part.host_id);
                return vec![part];
            }
            Some(Event::Change(change)) => matches!(
                change.event,
                Some(change_event::Event::Synced(_) | change_event::Event::Bookmark(_))
            ),
            None => return Vec::new(),
        };
        let waiting = self.0.entry(part.host_id.clone()).or_default();
        waiting.push(part);
        if counts { mem::take(waiting) } else { Vec::new() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use cgfleet_proto::v1::{
        Bookmark, CgroupSample, ChangeEvent, HostChange, HostChangeKind, Lost, RemovedBatch, RemovedCgroup,
        SampleBatch, Synced,
    };
    use change_event::Event::{Removed, Snapshot, Update};

    use super::*;

    /// What comes of a host, in a word; any other is the token of a bookmark.
    pub(in crate::watch) fn part(host_id: &str, word: &str) -> FleetServiceSubscribeResponse {
        let sample = || CgroupSample { cgroup_id: 42, path: "/a".into(), ..CgroupSample::default() };
        let rows = || SampleBatch { samples: vec![sample()] };
        let removed = RemovedCgroup { sample: Some(sample()), ..RemovedCgroup::default() };
        let host = |kind: HostChangeKind| Event::Host(HostChange { kind: kind.into(), error: None });
        let mark = |token: &str| Bookmark { resume_token: token.into(), ..Bookmark::default() };
        let change = |event| Event::Change(ChangeEvent { event: Some(event) });
        let event = match word {
            "joined" => host(HostChangeKind::Joined),
            "lost" => host(HostChangeKind::Lost),
            "back" => host(HostChangeKind::Back),
            "relist" => host(HostChangeKind::Relist),
            "snapshot" => change(Snapshot(rows())),
            "update" => change(Update(rows())),
            "removed" => change(Removed(RemovedBatch { cgroups: vec![removed] })),
            "missing" => change(change_event::Event::Lost(Lost { removed_cgroups: 3 })),
            "synced" => change(change_event::Event::Synced(Synced { bookmark: Some(mark("synced")) })),
            token => change(change_event::Event::Bookmark(mark(token))),
        };
        let (host_id, hostname) = (host_id.to_owned(), format!("{host_id}-name"));
        FleetServiceSubscribeResponse { host_id, hostname, event: Some(event) }
    }

    /// What comes, and behind it what counts from then on.
    fn check(steps: &[(&str, &str, &[&str])]) {
        let mut held = Held::default();
        for (host_id, word, expect) in steps {
            let expect: Vec<_> = expect.iter().map(|word| part(host_id, word)).collect();
            assert_eq!(held.take(part(host_id, word)), expect, "{host_id} {word}");
        }
    }

    #[test]
    fn a_tick_counts_when_its_bookmark_comes() {
        check(&[
            ("a", "joined", &["joined"]),
            ("a", "snapshot", &[]),
            ("a", "snapshot", &[]),
            ("a", "synced", &["snapshot", "snapshot", "synced"]),
            ("a", "bookmark", &["bookmark"]),
            ("a", "missing", &[]),
            ("a", "update", &[]),
            ("a", "removed", &[]),
            ("a", "bookmark", &["missing", "update", "removed", "bookmark"]),
            ("a", "bookmark", &["bookmark"]),
        ]);
    }

    #[test]
    fn what_a_stream_broke_off_is_void() {
        check(&[
            ("a", "joined", &["joined"]),
            ("a", "snapshot", &[]),
            ("a", "lost", &["lost"]),
            ("a", "relist", &["relist"]),
            ("a", "snapshot", &[]),
            ("a", "synced", &["snapshot", "synced"]),
            ("a", "missing", &[]),
            ("a", "update", &[]),
            ("a", "lost", &["lost"]),
            ("a", "back", &["back"]),
            ("a", "removed", &[]),
            ("a", "bookmark", &["removed", "bookmark"]),
            ("a", "update", &[]),
            ("a", "relist", &["relist"]),
            ("a", "synced", &["synced"]),
        ]);
    }

    #[test]
    fn each_host_has_ticks_of_its_own() {
        check(&[
            ("a", "update", &[]),
            ("b", "removed", &[]),
            ("a", "bookmark", &["update", "bookmark"]),
            ("a", "update", &[]),
            ("a", "lost", &["lost"]),
            ("b", "bookmark", &["removed", "bookmark"]),
        ]);
    }
}
