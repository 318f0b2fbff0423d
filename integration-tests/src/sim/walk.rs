//! A walk of a simulated tree, as the agent asks for it.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Instant, SystemTime},
};

use cgfleet_agent::walker::{self, Order, Rows, Target, WalkError, WalkSpec, Walked};
use cgfleet_model::MetricSet;
use cgfleet_proto::v1::{CgroupSample, WalkEnd, WalkEngine, WalkSummary};

use super::{Faults, Tree, faults, kubelet::Kubelet, tree::METRICS};

/// A tree that lives as long as its host is up.
#[derive(Debug)]
pub(super) struct LivingTree {
    tree: Tree,
    kubelet: Kubelet,
    faults: Arc<Faults>,
    metrics: MetricSet,
    /// When all of it was walked last.
    walked_at: Option<Instant>,
}

impl LivingTree {
    pub(super) fn new(mut tree: Tree, mut kubelet: Kubelet, faults: Arc<faults::Faults>) -> io::Result<Self> {
        kubelet.add(tree.take_pods_made())?;
        let metrics = METRICS.into_iter().collect();
        Ok(Self { tree, kubelet, faults, metrics, walked_at: None })
    }

    /// Lets the time pass since the last tick.
    fn live_on(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if let Some(walked_at) = self.walked_at.replace(now) {
            self.tree.step(now.duration_since(walked_at));
            self.kubelet.add(self.tree.take_pods_made())?;
        }
        Ok(())
    }

    fn find(&self, field: &'static str, target: &Target) -> Result<usize, WalkError> {
        let found = match target {
            Target::Id(id) => {
                (0..self.tree.samples().len()).find(|at| self.tree.sample(*at).cgroup_id == *id)
            }
            Target::Path { hierarchy, path } if hierarchy.is_empty() => {
                str::from_utf8(path).ok().and_then(|path| self.tree.place_of(path))
            }
            Target::Path { .. } => None,
        };
        found.ok_or_else(|| WalkError::NoSuchCgroup { field, target: target.to_text() })
    }

    /// Where the walk comes, one after the other, if nothing ends it.
    fn way(&self, start: usize, order: Order) -> Vec<usize> {
        let below = start + 1..self.tree.end_of(start);
        let level = |place: usize| self.tree.sample(place).level;
        match order {
            Order::SelfOnly => vec![start],
            Order::DescendantsPre => (start..below.end).collect(),
            Order::Children => below.filter(|at| level(*at) == level(start) + 1).collect(),
            Order::AncestorsUp => {
                std::iter::successors(Some(start), |place| self.tree.parent_of(*place)).collect()
            }
            Order::DescendantsPost => {
                let mut way = Vec::with_capacity(below.len() + 1);
                let mut open: Vec<usize> = Vec::new();
                for place in start..below.end {
                    while let Some(last) = open.pop_if(|last| level(*last) >= level(place)) {
                        way.push(last);
                    }
                    open.push(place);
                }
                way.extend(open.into_iter().rev());
                way
            }
        }
    }

    fn visit(&self, spec: &WalkSpec) -> Result<(Vec<CgroupSample>, WalkEnd), WalkError> {
        let start = self.find("target", &spec.target)?;
        let stop_at = spec.stop_at.as_ref().map(|target| self.find("stop_at", target)).transpose()?;
        let lowest = spec.max_depth.map(|depth| self.tree.sample(start).level.saturating_add(depth));
        let limit = if spec.limit == 0 { usize::MAX } else { spec.limit as usize };
        let wants_all = self.metrics.without(spec.metrics).is_empty();
        let mut samples = Vec::with_capacity(self.tree.samples().len());
        for place in self.way(start, spec.order) {
            let sample = self.tree.sample(place);
            if lowest.is_some_and(|lowest| sample.level > lowest) {
                continue;
            }
            let mut sample = sample.clone();
            if !wants_all {
                sample.keep_only(spec.metrics);
            }
            samples.push(sample);
            if Some(place) == stop_at {
                return Ok((samples, WalkEnd::StopAt));
            }
            if samples.len() >= limit {
                return Ok((samples, WalkEnd::Limit));
            }
        }
        Ok((samples, WalkEnd::Complete))
    }

    /// What befalls each walk.
    fn suffer(&self) -> Result<(), WalkError> {
        thread::sleep(self.faults.walk_delay());
        let failed = || failed(io::ErrorKind::Interrupted.into());
        if self.faults.takes_walk() { Err(failed()) } else { Ok(()) }
    }
}

fn failed(source: io::Error) -> WalkError {
    WalkError::Reopen { path: "/".to_owned(), source }
}

/// What is told of a walk.
fn summary(began_at: Instant, rows: usize, end: WalkEnd) -> WalkSummary {
    let took = began_at.elapsed();
    WalkSummary {
        engine: WalkEngine::Unlocked.into(),
        end: end.into(),
        cgroups_visited: rows as u64,
        walk_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        read_at: Some((SystemTime::now() - took).into()),
        ..WalkSummary::default()
    }
}

impl walker::Tree for LivingTree {
    fn walk(&mut self, spec: &WalkSpec) -> Result<Walked, WalkError> {
        let began_at = Instant::now();
        self.suffer()?;
        let (samples, end) = self.visit(spec)?;
        let summary = summary(began_at, samples.len(), end);
        Ok(Walked { samples, summary })
    }

    fn read(&mut self, spec: &WalkSpec) -> Result<(Rows, WalkSummary), WalkError> {
        let began_at = Instant::now();
        self.suffer()?;
        self.live_on().map_err(failed)?;
        if self.metrics.without(spec.metrics).is_empty() {
            let samples = self.tree.shared();
            let summary = summary(began_at, samples.len(), WalkEnd::Complete);
            return Ok((Rows::Shared(samples), summary));
        }
        let (samples, end) = self.visit(spec)?;
        let summary = summary(began_at, samples.len(), end);
        Ok((Rows::Made(samples), summary))
    }
}
