//! Which cgroups make one series.

use std::collections::HashMap;

use cgfleet_model::{Metric, MetricGroup};
use uuid::Uuid;

use crate::store::{CgroupIdentity, WorkloadNames};

/// A cgroup as series are made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Which, and where.
    pub identity: CgroupIdentity,
    /// What runs in it.
    pub names: WorkloadNames,
}

/// What the cgroups of a series have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// The host.
    Host,
    /// All: each cgroup is a series.
    Cgroup,
    /// The path.
    Path,
    /// The pod.
    Pod,
    /// The pod's namespace.
    Namespace,
    /// The container.
    Container,
    /// The systemd unit.
    Unit,
    /// The systemd slice.
    Slice,
}

/// All of what they have in common; nothing is one series of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouping(pub Vec<GroupBy>);

/// What the cgroups of one series have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// The host.
    pub host_id: Option<Uuid>,
    /// The path; not where the cgroup is given and its path not known yet.
    pub path: Option<String>,
    /// The cgroup: boot, hierarchy and id.
    pub cgroup: Option<(Uuid, u32, u64)>,
    /// The pod: namespace and name, or the uid.
    pub pod: Option<(String, String)>,
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The container.
    pub container: Option<String>,
    /// The systemd unit.
    pub unit: Option<String>,
    /// The systemd slice.
    pub slice: Option<String>,
}

/// A cgroup's part in a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Which series, among those of the host.
    pub series: usize,
    /// Of which metrics it counts.
    pub counts: Counts,
}

/// Of which metrics a cgroup counts in a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Of all.
    Always,
    /// It is the root, and others are in the series: of metrics that the root has.
    OnRoot,
    /// The root is in the series too: of metrics that the root does not have.
    NotOnRoot,
}

/// What the real root has: of the other files the kernel says that they are not on the root (CFTYPE_NOT_ON_ROOT in
/// mm/memcontrol.c, kernel/cgroup/pids.c).
const ON_ROOT: [MetricGroup; 7] = [
    MetricGroup::Cpu,
    MetricGroup::MemoryStat,
    MetricGroup::Io,
    MetricGroup::Reclaim,
    MetricGroup::Attach,
    MetricGroup::Runqueue,
    MetricGroup::BlockIo,
];

impl Counts {
    /// Whether a metric of the cgroup counts.
    pub(super) fn of(self, metric: Metric) -> bool {
        let is_on_root = ON_ROOT.contains(&metric.info().group);
        match self {
            Self::Always => true,
            Self::OnRoot => is_on_root,
            Self::NotOnRoot => !is_on_root,
        }
    }
}

impl Grouping {
    /// Whether each cgroup is a series of its own.
    pub fn is_by_cgroup(&self) -> bool {
        self.0.contains(&GroupBy::Cgroup)
    }

    /// Whether a series has cgroups of one host only.
    pub fn is_by_host(&self) -> bool {
        self.is_by_cgroup() || self.0.contains(&GroupBy::Host)
    }

    /// Whether it takes names to tell what series a cgroup belongs to.
    pub fn needs_names(&self) -> bool {
        !self.is_by_cgroup()
    }

    /// The series of a cgroup of a host; `None` if it has not what series are made by.
    pub fn key_of(&self, host_id: Uuid, cgroup: &Cgroup) -> Option<SeriesKey> {
        let names = &cgroup.names;
        let mut key = SeriesKey::default();
        for by in &self.0 {
            match by {
                GroupBy::Host => key.host_id = Some(host_id),
                GroupBy::Cgroup => {
                    let identity = &cgroup.identity;
                    key.host_id = Some(host_id);
                    key.path = Some(identity.path.clone());
                    key.cgroup = Some((identity.boot_id, identity.key.hierarchy_id, identity.key.cgroup_id));
                }
                GroupBy::Path => key.path = Some(cgroup.identity.path.clone()),
                GroupBy::Pod => key.pod = Some(pod_of(names)?),
                GroupBy::Namespace => key.namespace = Some(names.pod_namespace.clone()?),
                GroupBy::Container => {
                    key.container =
                        Some(names.container_name.clone().or_else(|| names.container_id.clone())?);
                }
                GroupBy::Unit => key.unit = Some(names.systemd_unit.clone()?),
                GroupBy::Slice => key.slice = Some(names.systemd_slice.clone()?),
            }
        }
        Some(key)
    }

    /// The series of a host's cgroups, and which cgroup is in which. Of cgroups in one series that lie within each
    /// other only the topmost is: what is measured includes what is below.
    pub fn members(&self, host_id: Uuid, cgroups: &[Cgroup]) -> (Vec<SeriesKey>, Vec<Option<Member>>) {
        let mut series: HashMap<SeriesKey, usize> = HashMap::new();
        let mut of_series: Vec<Vec<usize>> = Vec::new();
        for (place, cgroup) in cgroups.iter().enumerate() {
            let Some(key) = self.key_of(host_id, cgroup) else { continue };
            let next = series.len();
            let number = *series.entry(key).or_insert(next);
            of_series.resize(series.len(), Vec::new());
            of_series[number].push(place);
        }
        let mut members = vec![None; cgroups.len()];
        for (number, places) in of_series.iter().enumerate() {
            for (place, counts) in topmost(cgroups, places) {
                members[place] = Some(Member { series: number, counts });
            }
        }
        let mut keys = vec![SeriesKey::default(); series.len()];
        for (key, number) in series {
            keys[number] = key;
        }
        (keys, members)
    }
}

fn pod_of(names: &WorkloadNames) -> Option<(String, String)> {
    match (&names.pod_namespace, &names.pod_name) {
        (Some(namespace), Some(name)) => Some((namespace.clone(), name.clone())),
        _ => Some((String::new(), names.pod_uid.clone()?)),
    }
}

/// Those that lie in no other of them, within one boot.
fn topmost(cgroups: &[Cgroup], places: &[usize]) -> Vec<(usize, Counts)> {
    let boot_of = |place: usize| cgroups[place].identity.boot_id;
    let path_of = |place: usize| cgroups[place].identity.path.as_str();
    let mut sorted = places.to_vec();
    // By their parts: a cgroup's descendants follow it at once.
    sorted.sort_by(|one, other| {
        boot_of(*one)
            .cmp(&boot_of(*other))
            .then_with(|| path_of(*one).split('/').cmp(path_of(*other).split('/')))
    });
    let is_root = |place: usize| path_of(place) == "/";
    let mut found: Vec<(usize, Counts)> = Vec::new();
    let (mut root, mut above): (Option<usize>, Option<usize>) = (None, None);
    for place in sorted {
        if root.is_some_and(|root: usize| boot_of(found[root].0) != boot_of(place)) {
            root = None;
        }
        if is_root(place) {
            root = Some(found.len());
            found.push((place, Counts::Always));
            continue;
        }
        if above
            .is_some_and(|above| boot_of(above) == boot_of(place) && lies_in(path_of(place), path_of(above)))
        {
            continue;
        }
        above = Some(place);
        match root {
            Some(root) => {
                found[root].1 = Counts::OnRoot;
                found.push((place, Counts::NotOnRoot));
            }
            None => found.push((place, Counts::Always)),
        }
    }
    found
}

/// Whether a path is below another.
fn lies_in(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}
