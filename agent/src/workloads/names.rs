//! The names of pods and containers that are known, and when to look for those that are not. No I/O, no clock.

use std::time::{Duration, Instant};

use cgfleet_model::Workload;
use rustc_hash::FxHashMap;

use super::kubelet_logs::{Listing, Pod};

/// Listings begin no more often: while many pods start, each walk meets some.
const LISTING_INTERVAL: Duration = Duration::from_secs(2);
/// An unknown pod or container is looked for until a listing began so long after it was met; when it ended does not
/// matter, for it may have been slow. A pod's directory is made after its cgroup; but the container that holds a
/// pod's namespaces has no log, and nobody shall look for that for ever.
const LOOKED_FOR: Duration = Duration::from_secs(30);
/// The most of each kind that are remembered.
const REMEMBERED_MAX: usize = 32_768;

/// Names as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By uid. Those that are gone stay as long as there is room: their cgroups may be there still.
    pods: FxHashMap<String, Pod>,
    /// By id.
    containers: FxHashMap<String, String>,
    /// Uids and ids without names, and when they were met first.
    unknown: FxHashMap<String, Instant>,
    /// When the last listing that is here began.
    listed_at: Option<Instant>,
    /// Whether a listing is due that is not here yet.
    is_awaited: bool,
}

impl Names {
    /// Adds the names to what a path says, as far as they are known. Whether a listing is due: there is a name to be
    /// found, and it is time. Then whoever calls this sees to it that it is taken, and is not told so again before.
    #[must_use]
    pub(super) fn add_to(&mut self, workload: &mut Workload, now: Instant) -> bool {
        let (pod_uid, container_id) = (workload.pod_uid.as_deref(), workload.container_id.as_deref());
        let pod = pod_uid.is_some_and(|uid| !self.pods.contains_key(uid) && self.is_looked_for(uid, now));
        let container =
            container_id.is_some_and(|id| !self.containers.contains_key(id) && self.is_looked_for(id, now));
        let is_time = self.listed_at.is_none_or(|at| now.duration_since(at) >= LISTING_INTERVAL);
        let is_due = (pod || container) && is_time && !self.is_awaited;
        self.is_awaited |= is_due;
        if let Some(pod) = pod_uid.and_then(|uid| self.pods.get(uid)) {
            workload.pod_namespace = Some(pod.namespace.clone());
            workload.pod_name = Some(pod.name.clone());
        }
        workload.container_name = container_id.and_then(|id| self.containers.get(id)).cloned();
        is_due
    }

    fn is_looked_for(&mut self, unknown: &str, now: Instant) -> bool {
        if let Some(met_at) = self.unknown.get(unknown) {
            return self.listed_at.is_none_or(|at| at.duration_since(*met_at) < LOOKED_FOR);
        }
        if self.unknown.len() >= REMEMBERED_MAX {
            self.unknown.clear();
        }
        self.unknown.insert(unknown.to_owned(), now);
        true
    }

    /// Takes a listing that began then.
    pub(super) fn take(&mut self, Listing { pods, containers }: Listing, began_at: Instant) {
        (self.listed_at, self.is_awaited) = (Some(began_at), false);
        if self.pods.len() + pods.len() > REMEMBERED_MAX {
            self.pods.clear();
        }
        if self.containers.len() + containers.len() > REMEMBERED_MAX {
            self.containers.clear();
        }
        self.pods.extend(pods);
        self.containers.extend(containers);
        let Self { pods, containers, unknown, .. } = self;
        unknown.retain(|key, _| !pods.contains_key(key) && !containers.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> (String, Pod) {
        (uid.to_owned(), Pod { namespace: "shop".to_owned(), name: format!("pod-{uid}") })
    }

    fn workload(uid: &str, id: &str) -> Workload {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Workload { pod_uid: given(uid), container_id: given(id), ..Workload::default() }
    }

    fn listing(pods: &[&str], containers: &[&str]) -> Listing {
        let containers = containers.iter().map(|id| ((*id).to_owned(), format!("container-{id}")));
        Listing { pods: pods.iter().map(|uid| pod(uid)).collect(), containers: containers.collect() }
    }

    /// The pod's and the container's name, after so many seconds, and whether a listing was due; it is taken at once,
    /// with these in the directory.
    fn at(
        names: &mut Names,
        started: Instant,
        secs: u64,
        (uid, id): (&str, &str),
        there: (&[&str], &[&str]),
    ) -> (Option<String>, Option<String>, bool) {
        let (mut workload, now) = (workload(uid, id), started + Duration::from_secs(secs));
        let listed = names.add_to(&mut workload, now);
        if listed {
            names.take(listing(there.0, there.1), now);
        }
        (workload.pod_name, workload.container_name, listed)
    }

    #[test]
    fn a_name_is_looked_for_until_it_is_there() {
        let (mut names, started) = (Names::default(), Instant::now());
        let mut check = |secs, asked, there, pod: &str, container: &str, listed| {
            let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let found = at(&mut names, started, secs, asked, there);
            assert_eq!(found, (given(pod), given(container), listed), "{secs} s");
        };
        check(0, ("u", ""), (&[], &[]), "", "", true);
        check(1, ("u", ""), (&["u"], &[]), "", "", false);
        check(2, ("u", ""), (&["u"], &[]), "", "", true);
        check(2, ("u", ""), (&[], &[]), "pod-u", "", false);
        check(4, ("u", "c"), (&["u"], &["c"]), "pod-u", "", true);
        check(4, ("u", "c"), (&[], &[]), "pod-u", "container-c", false);
        // Its directory is gone, and its cgroup not yet.
        check(9, ("v", ""), (&[], &[]), "", "", true);
        check(9, ("u", "c"), (&[], &[]), "pod-u", "container-c", false);
    }

    #[test]
    fn one_listing_is_awaited_at_a_time_and_a_slow_one_ends_no_search() {
        let (mut names, started) = (Names::default(), Instant::now());
        let mut check = |secs, uid, name: Option<&str>, due, taken: Option<&[&str]>| {
            let mut workload = workload(uid, "");
            let found = names.add_to(&mut workload, started + Duration::from_secs(secs));
            assert_eq!((workload.pod_name.as_deref(), found), (name, due), "{secs} s");
            if let Some(pods) = taken {
                names.take(listing(pods, &[]), started);
            }
        };
        check(0, "u", None, true, None);
        check(2, "u", None, false, None);
        check(5, "v", None, false, None);
        // It began before there was a directory for the other one.
        check(60, "u", None, false, Some(&["u"]));
        check(60, "u", Some("pod-u"), false, None);
        check(60, "v", None, true, Some(&["u", "v"]));
        check(60, "v", Some("pod-v"), false, None);
    }

    #[test]
    fn what_has_no_log_is_not_looked_for_for_ever() {
        let (mut names, started) = (Names::default(), Instant::now());
        let listed: Vec<u64> = (0..200)
            .filter(|secs| at(&mut names, started, *secs, ("u", "sandbox"), (&["u"], &[])).2)
            .collect();
        assert_eq!(listed.len(), 16, "every 2 s, up to 30: {listed:?}");
        assert!(at(&mut names, started, 300, ("v", ""), (&[], &[])).2, "another one is");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut names, started) = (Names::default(), Instant::now());
        for round in 0..5 {
            let many: Vec<String> = (0..16_000).map(|number| format!("{round}-{number}")).collect();
            let many: Vec<&str> = many.iter().map(String::as_str).collect();
            at(&mut names, started, round * 10, (&format!("unknown-{round}"), ""), (&many, &many));
        }
        for number in 0..70_000 {
            at(&mut names, started, 100, (&number.to_string(), ""), (&[], &[]));
        }
        for length in [names.pods.len(), names.containers.len(), names.unknown.len()] {
            assert!((1..=REMEMBERED_MAX).contains(&length), "{length}");
        }
    }
}
