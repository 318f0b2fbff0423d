//! A tree of cgroups as a Kubernetes node has it, that counts and churns as time is given to it. Pure: the same seed
//! and the same times give the same tree.

use std::{sync::Arc, time::Duration};

use cgfleet_model::Metric;
use cgfleet_proto::v1::CgroupSample;
use fastrand::Rng;

use super::{
    activity::{Activity, Character, Growth},
    cgroup::Cgroup,
    names::{Quality, container_id, container_path, pod_path, pod_uid},
};

/// A pod's cgroup, the container that holds its namespaces, one that works, and a sidecar.
const CGROUPS_OF_POD: usize = 4;
/// The kernel numbers cgroups of a boot upwards.
const FIRST_ID: u64 = 1;

/// What each cgroup has, and nothing else.
pub const METRICS: [Metric; 16] = [
    Metric::CpuUsage,
    Metric::CpuNrPeriods,
    Metric::CpuNrThrottled,
    Metric::CpuThrottled,
    Metric::MemoryCurrent,
    Metric::MemoryPeak,
    Metric::MemorySwapCurrent,
    Metric::MemoryMax,
    Metric::IoRbytes,
    Metric::IoWbytes,
    Metric::IoRios,
    Metric::IoWios,
    Metric::IoDbytes,
    Metric::IoDios,
    Metric::PidsCurrent,
    Metric::PidsMax,
];

/// What a tree is made of.
#[derive(Debug, Clone, Copy)]
pub struct TreeSpec {
    /// Tells trees from one another.
    pub seed: u64,
    /// How many cgroups there are at any time; 16 at least.
    pub cgroups: usize,
    /// How lively they are.
    pub activity: Activity,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    spec: TreeSpec,
    rng: Rng,
    /// A parent before its children, who are in the order of their making.
    cgroups: Vec<Cgroup>,
    next_id: u64,
    /// Leaves by how often they do something: the sum of weights up to each, and its place.
    odds: Vec<(f64, usize)>,
    /// Pods and services whose turn has not come yet.
    pods_due: f64,
    services_due: f64,
    /// Paths of pods that came, with their uids and their containers' ids, until they are asked for.
    pods_made: Vec<PodMade>,
}

/// A pod as its kubelet knows it.
#[derive(Debug, Clone)]
pub(super) struct PodMade {
    pub(super) uid: String,
    pub(super) container_ids: Vec<String>,
}

impl Tree {
    /// One that was just made.
    pub fn new(spec: TreeSpec) -> Self {
        let mut tree = Self {
            spec,
            rng: Rng::with_seed(spec.seed),
            cgroups: Vec::with_capacity(spec.cgroups),
            next_id: FIRST_ID,
            odds: Vec::new(),
            pods_due: 0.0,
            services_due: 0.0,
            pods_made: Vec::new(),
        };
        let root = tree.add("/".to_owned(), None, false);
        tree.add("/init.scope".to_owned(), Some(root), true);
        let system = tree.add("/system.slice".to_owned(), Some(root), false);
        // Nine that are always there; a tenth are services, and as many more as make up no pod.
        let services = spec.cgroups / 10;
        let pods = spec.cgroups.saturating_sub(9 + services) / CGROUPS_OF_POD;
        let services = spec.cgroups.saturating_sub(9 + pods * CGROUPS_OF_POD);
        for number in 0..services {
            tree.add(format!("/system.slice/service-{number}.service"), Some(system), true);
        }
        let user = tree.add("/user.slice".to_owned(), Some(root), false);
        let session = tree.add("/user.slice/user-1000.slice".to_owned(), Some(user), false);
        tree.add("/user.slice/user-1000.slice/session-1.scope".to_owned(), Some(session), true);
        let kubepods = tree.add(Quality::Guaranteed.slice().to_owned(), Some(root), false);
        tree.add(Quality::BestEffort.slice().to_owned(), Some(kubepods), false);
        tree.add(Quality::Burstable.slice().to_owned(), Some(kubepods), false);
        for number in 0..pods {
            tree.add_pod(Quality::ALL[number % Quality::ALL.len()]);
        }
        tree.weigh();
        tree
    }

    /// Every cgroup, a parent before its children.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &CgroupSample> {
        self.cgroups.iter().map(|cgroup| &*cgroup.sample)
    }

    /// The same, shared: what did not change since this was asked last is the same one.
    pub fn shared(&self) -> Vec<Arc<CgroupSample>> {
        self.cgroups.iter().map(|cgroup| Arc::clone(&cgroup.sample)).collect()
    }

    /// Of how many something changed in the last step.
    pub fn changed(&self) -> usize {
        self.cgroups.iter().filter(|cgroup| cgroup.has_changed).count()
    }

    /// Pods that came since this was asked last.
    pub(super) fn take_pods_made(&mut self) -> Vec<PodMade> {
        std::mem::take(&mut self.pods_made)
    }

    /// Lets so much time pass until the next tick.
    pub fn step(&mut self, elapsed: Duration) {
        for cgroup in &mut self.cgroups {
            cgroup.has_changed = false;
        }
        self.churn(elapsed.as_secs_f64());
        if self.spec.activity.changing >= 1.0 {
            for place in 0..self.odds.len() {
                self.work(self.odds[place].1, elapsed);
            }
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a share is no exact thing")]
        let wanted = self.spec.activity.changing * self.cgroups.len() as f64;
        let mut changed = self.changed();
        // Ancestors change with those below: so many picks may meet some twice.
        for _ in 0..8 * self.cgroups.len() {
            #[allow(clippy::cast_precision_loss, reason = "a share is no exact thing")]
            if changed as f64 >= wanted {
                return;
            }
            let place = self.pick();
            if !self.cgroups[place].has_changed {
                changed += self.work(place, elapsed);
            }
        }
    }

    /// A leaf, one that does much more often than another.
    fn pick(&mut self) -> usize {
        let all = self.odds.last().map_or(0.0, |(sum, _)| *sum);
        let drawn = self.rng.f64() * all;
        let at = self.odds.partition_point(|(sum, _)| *sum <= drawn);
        self.odds.get(at).map_or(0, |(_, place)| *place)
    }

    /// Has a leaf do something; how many cgroups change that had not.
    fn work(&mut self, place: usize, elapsed: Duration) -> usize {
        let cgroup = &self.cgroups[place];
        let memory = cgroup.sample.metric(Metric::MemoryCurrent).unwrap_or_default();
        let pids = cgroup.sample.metric(Metric::PidsCurrent).unwrap_or_default();
        let Some(character) = &cgroup.character else { return 0 };
        let growth = character.work(&mut self.rng, elapsed, memory, pids);
        self.grow(place, &growth)
    }

    /// Counts something in a cgroup and in all above it; how many change that had not.
    fn grow(&mut self, place: usize, growth: &Growth) -> usize {
        let (mut at, mut changed) = (Some(place), 0);
        while let Some(here) = at {
            let cgroup = &mut self.cgroups[here];
            changed += usize::from(!cgroup.has_changed);
            cgroup.grow(growth, here == place);
            at = cgroup.parent;
        }
        changed
    }

    /// Makes a cgroup as the last of its parent's; its place.
    fn add(&mut self, path: String, parent: Option<usize>, is_leaf: bool) -> usize {
        let place = parent.map_or(0, |parent| self.end_of(parent));
        let character = is_leaf.then(|| Character::new(&mut self.rng));
        let growth = character.as_ref().map(Cgroup::first_growth);
        let above = parent.map(|parent| (parent, &*self.cgroups[parent].sample));
        let cgroup = Cgroup::new(self.next_id, path, above, character);
        self.next_id += 1;
        for later in &mut self.cgroups[place..] {
            later.parent = later.parent.map(|parent| if parent >= place { parent + 1 } else { parent });
        }
        self.cgroups.insert(place, cgroup);
        if let Some(growth) = growth {
            self.grow(place, &growth);
        }
        place
    }

    /// The place behind the last of a cgroup's descendants.
    pub(super) fn end_of(&self, place: usize) -> usize {
        let level = self.cgroups[place].sample.level;
        let below = self.cgroups[place + 1..].iter().take_while(|cgroup| cgroup.sample.level > level);
        place + 1 + below.count()
    }

    /// The cgroup at a place.
    pub(super) fn sample(&self, place: usize) -> &CgroupSample {
        &self.cgroups[place].sample
    }

    pub(super) fn parent_of(&self, place: usize) -> Option<usize> {
        self.cgroups[place].parent
    }

    pub(super) fn place_of(&self, path: &str) -> Option<usize> {
        self.cgroups.iter().position(|cgroup| cgroup.sample.path == path)
    }

    fn add_pod(&mut self, quality: Quality) {
        let Some(slice) = self.place_of(quality.slice()) else { return };
        let uid = pod_uid(&mut self.rng);
        let path = pod_path(quality, &uid);
        let pod = self.add(path.clone(), Some(slice), false);
        let containers = (1..CGROUPS_OF_POD).map(|_| {
            let id = container_id(&mut self.rng);
            self.add(container_path(&path, &id), Some(pod), true);
            id
        });
        let container_ids = containers.collect();
        self.pods_made.push(PodMade { uid, container_ids });
    }

    /// Removes a cgroup and all below it.
    fn remove(&mut self, place: usize) {
        let end = self.end_of(place);
        let leaving = self.cgroups[place].last_growth();
        if let Some(parent) = self.cgroups[place].parent {
            self.grow(parent, &leaving);
        }
        self.cgroups.drain(place..end);
        for later in &mut self.cgroups[place..] {
            later.parent =
                later.parent.map(|parent| if parent >= end { parent - (end - place) } else { parent });
        }
    }

    fn churn(&mut self, seconds: f64) {
        self.pods_due += self.spec.activity.pods_replaced_per_second * seconds;
        self.services_due += self.spec.activity.services_restarted_per_second * seconds;
        let is_calm = self.pods_due < 1.0 && self.services_due < 1.0;
        while self.pods_due >= 1.0 {
            self.pods_due -= 1.0;
            self.replace_pod();
        }
        while self.services_due >= 1.0 {
            self.services_due -= 1.0;
            self.restart_service();
        }
        if !is_calm {
            self.weigh();
        }
    }

    fn replace_pod(&mut self) {
        let quality = Quality::ALL[self.rng.usize(..Quality::ALL.len())];
        let slice = quality.slice();
        let is_pod = |cgroup: &Cgroup| {
            let name = cgroup.sample.path.strip_prefix(slice).and_then(|rest| rest.strip_prefix('/'));
            name.is_some_and(|name| name.contains("-pod") && !name.contains('/'))
        };
        let pods: Vec<usize> = (0..self.cgroups.len()).filter(|at| is_pod(&self.cgroups[*at])).collect();
        if pods.is_empty() {
            return;
        }
        let leaving = pods[self.rng.usize(..pods.len())];
        self.remove(leaving);
        self.add_pod(quality);
    }

    fn restart_service(&mut self) {
        let is_service = |cgroup: &Cgroup| cgroup.sample.path.ends_with(".service");
        let services: Vec<usize> =
            (0..self.cgroups.len()).filter(|at| is_service(&self.cgroups[*at])).collect();
        if services.is_empty() {
            return;
        }
        let place = services[self.rng.usize(..services.len())];
        let path = self.cgroups[place].sample.path.clone();
        let parent = self.cgroups[place].parent;
        self.remove(place);
        self.add(path, parent, true);
    }

    /// Draws up the odds, which are of places.
    fn weigh(&mut self) {
        self.odds.clear();
        let mut sum = 0.0;
        for (place, cgroup) in self.cgroups.iter().enumerate() {
            if let Some(character) = &cgroup.character {
                sum += character.weight;
                self.odds.push((sum, place));
            }
        }
    }
}

#[cfg(test)]
mod tests;
