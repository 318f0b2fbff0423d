//! Collectors: which there are, switched on and off, and what they counted as groups of samples.
//!
//! Owns what their numbers mean. Must not know how programs are loaded or maps are read: that is
//! `kernel::collectors`.

mod fold;
mod released;

use std::{
    collections::{HashMap, HashSet},
    io,
};

use cgfleet_model::{Collector, MetricSet};
use cgfleet_proto::v1::{self, CgroupSample, CollectorFolding, CollectorState, Source};

use crate::{
    cgroupfs::Hierarchies,
    kernel::{self, CgroupKey, Folding, LoadError, SwitchError, Total},
};
use fold::{Merge, fold};

/// So many rows are looked up one by one; for more, all that there is is read.
const LOOKUPS_MAX: usize = 64;

/// A collector that cannot be asked or switched.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// It cannot be used on this host.
    #[error("collector {collector} cannot be switched on here: {reason}")]
    Unavailable {
        /// Which.
        collector: Collector,
        /// Why.
        reason: String,
    },
    /// The kernel does not switch it.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// Its maps cannot be read.
    #[error("read what collector {collector} counted: {source}")]
    Read {
        /// Which.
        collector: Collector,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The collectors of this host.
#[derive(Debug)]
pub struct Collectors {
    all: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    collector: Collector,
    /// The reason if it cannot be used.
    loaded: Result<kernel::Collector, String>,
}

impl Collectors {
    /// None at all, for this reason.
    pub fn none(reason: &str) -> Self {
        let entry = |collector: &Collector| Entry { collector: *collector, loaded: Err(reason.to_owned()) };
        Self { all: Collector::ALL.iter().map(entry).collect() }
    }

    /// Those that were loaded, with `wanted` switched on. What cgroups counted that were freed while no
    /// agent ran is put to their parents.
    pub fn start(
        loaded: Vec<(&'static str, Result<kernel::Collector, LoadError>)>,
        wanted: &[Collector],
        hierarchies: &Hierarchies,
    ) -> Self {
        let mut loaded: HashMap<_, _> = loaded.into_iter().collect();
        let entry = |collector: &Collector| {
            let found = loaded.remove(collector.name());
            let loaded = match found {
                Some(Ok(loaded)) => prepare(*collector, loaded, hierarchies, wanted.contains(collector)),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("this agent was built without it".to_owned()),
            };
            if let Err(reason) = &loaded {
                tracing::warn!(%collector, reason, "the collector cannot be used");
            }
            Entry { collector: *collector, loaded }
        };
        Self { all: Collector::ALL.iter().map(entry).collect() }
    }

    /// Every collector, as it is now.
    pub fn list(&self) -> Result<Vec<v1::Collector>, CollectorError> {
        self.all.iter().map(Entry::to_wire).collect()
    }

    /// Switches one, and says how it is then.
    pub fn switch(&mut self, collector: Collector, on: bool) -> Result<v1::Collector, CollectorError> {
        let entry = self.all.iter_mut().find(|entry| entry.collector == collector);
        let unavailable = |reason: &str| CollectorError::Unavailable { collector, reason: reason.to_owned() };
        let entry = entry.ok_or_else(|| unavailable("this agent was built without it"))?;
        match (&mut entry.loaded, on) {
            (Ok(loaded), true) => loaded.switch_on()?,
            (Ok(loaded), false) => loaded.switch_off(),
            (Err(reason), true) => return Err(unavailable(reason)),
            (Err(_), false) => {}
        }
        entry.to_wire()
    }

    /// Whether rstat has to be flushed before these are read: also of what was switched off since.
    pub fn needs_flush(&self, metrics: MetricSet) -> bool {
        let is_folded = |entry: &Entry| matches!(&entry.loaded, Ok(loaded) if *loaded.folding() == Folding::Rstat && loaded.is_kept_up());
        self.all.iter().any(|entry| metrics.touches(entry.collector.group()) && is_folded(entry))
    }

    /// Puts what was counted into samples; `flushed_id` is the cgroup that was flushed before, 0 for none.
    /// A collector that cannot be read is left out.
    pub fn fill(&self, samples: &mut [CgroupSample], metrics: MetricSet, flushed_id: u64) {
        for entry in self.all.iter().filter(|entry| metrics.touches(entry.collector.group())) {
            if let Err(error) = entry.fill(samples, metrics, flushed_id) {
                tracing::warn!(collector = %entry.collector, %error, "what it counted cannot be read");
            }
        }
    }
}

/// Sums of the samples' cgroups, and perhaps of others; and which of them are not whole.
fn totals(
    collector: Collector,
    loaded: &kernel::Collector,
    samples: &[CgroupSample],
) -> io::Result<HashMap<CgroupKey, Sums>> {
    if *loaded.folding() == Folding::Rstat {
        let sums = |(key, total): (CgroupKey, Total)| (key, Sums::of(total.is_partial, total.words));
        if samples.len() > LOOKUPS_MAX {
            return Ok(loaded.totals()?.into_iter().map(sums).collect());
        }
        let looked_up = samples.iter().map(key_of).map(|key| Ok((key, loaded.total(key)?)));
        let looked_up: io::Result<Vec<_>> = looked_up.collect();
        let found = looked_up?.into_iter().filter_map(|(key, total)| Some((key, total?)));
        return Ok(found.map(sums).collect());
    }
    let merge = Merge::of(collector);
    let (mut parents, mut counted, mut partial) = (HashMap::new(), HashMap::new(), HashSet::new());
    for (key, total) in loaded.totals()? {
        parents.insert(key, total.parent_id);
        counted.insert(key, total.pending);
        if total.is_partial {
            partial.insert(key);
        }
    }
    for (key, words) in loaded.own(|to, from| merge.add(to, from))? {
        merge.add(counted.entry(key).or_insert_with(|| vec![0; loaded.words()]), &words);
    }
    let folded = fold(merge, counted, &parents);
    Ok(folded.into_iter().map(|(key, words)| (key, Sums::of(partial.contains(&key), words))).collect())
}

/// A collector's numbers of a cgroup and all below it.
struct Sums {
    /// `None`: some events that are missing here may be counted at an ancestor.
    words: Option<Vec<u64>>,
}

impl Sums {
    fn of(is_partial: bool, words: Vec<u64>) -> Self {
        Self { words: (!is_partial).then_some(words) }
    }
}

/// What is known when one collector's numbers are put into samples.
struct Counted {
    collector: Collector,
    metrics: MetricSet,
    source: Source,
    flushed_id: u64,
    is_full: bool,
    words: usize,
}

impl Counted {
    fn fill(&self, sample: &mut CgroupSample, total: Option<&Sums>) {
        let is_root = sample.parent_id == 0;
        if is_root && self.source == Source::Rstat && self.flushed_id != sample.cgroup_id {
            // Its sum waits for a flush of the whole host.
            return;
        }
        match total {
            Some(Sums { words: Some(words) }) => self.set(sample, words),
            Some(Sums { words: None }) => sample.set_overflowed(self.collector, self.source),
            None if !self.counts_everywhere(sample) => {}
            None if self.is_full => sample.set_overflowed(self.collector, self.source),
            None => self.set(sample, &vec![0; self.words]),
        }
    }

    /// Whether a cgroup without events has had none, rather than being none that is counted.
    fn counts_everywhere(&self, sample: &CgroupSample) -> bool {
        match self.collector {
            Collector::Attach => true,
            Collector::Reclaim | Collector::Runqueue => sample.hierarchy_id == 0,
            // Of a cgroup without the io controller, requests are charged to one above.
            Collector::BlockIo => false,
        }
    }

    fn set(&self, sample: &mut CgroupSample, words: &[u64]) {
        let mut words = words.iter().copied();
        let group = self.collector.group();
        for (metric, value) in group.metrics().zip(words.by_ref()) {
            if self.metrics.contains(metric) {
                sample.set_metric(metric, Some(value));
            }
        }
        sample.set_source(group, self.source);
        let mut buckets: Vec<u64> = words.collect();
        if buckets.iter().all(|count| *count == 0) {
            buckets.clear();
        }
        match self.collector {
            Collector::Runqueue => sample.runqueue.iter_mut().for_each(|it| it.buckets.clone_from(&buckets)),
            Collector::BlockIo => sample.block_io.iter_mut().for_each(|it| it.buckets.clone_from(&buckets)),
            Collector::Reclaim | Collector::Attach => {}
        }
    }
}

impl Entry {
    fn fill(&self, samples: &mut [CgroupSample], metrics: MetricSet, flushed_id: u64) -> io::Result<()> {
        let Self { collector, loaded: Ok(loaded) } = self else { return Ok(()) };
        // Of what never counted since the host was started, there is nothing to say.
        if !loaded.is_kept_up() {
            return Ok(());
        }
        let state = loaded.state()?;
        let totals = totals(*collector, loaded, samples)?;
        let counted = Counted {
            collector: *collector,
            metrics,
            source: source(loaded.folding()),
            flushed_id,
            is_full: state.dropped_events > 0,
            words: loaded.words(),
        };
        for sample in samples.iter_mut() {
            counted.fill(sample, totals.get(&key_of(sample)));
        }
        Ok(())
    }

    fn to_wire(&self) -> Result<v1::Collector, CollectorError> {
        let Self { collector, loaded } = self;
        let mut wire = v1::Collector {
            name: collector.name().to_owned(),
            description: collector.description().to_owned(),
            ..v1::Collector::default()
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(reason) => {
                wire.set_state(CollectorState::Unavailable);
                reason.clone_into(&mut wire.reason);
                return Ok(wire);
            }
        };
        let state =
            loaded.state().map_err(|source| CollectorError::Read { collector: *collector, source })?;
        wire.set_state(if loaded.is_on() { CollectorState::On } else { CollectorState::Off });
        match loaded.folding() {
            Folding::Rstat => {
                wire.set_folding(CollectorFolding::Rstat);
                "a program is attached to bpf_rstat_flush".clone_into(&mut wire.folding_reason);
            }
            Folding::Reader(reason) => {
                wire.set_folding(CollectorFolding::Agent);
                wire.folding_reason.clone_from(reason);
            }
        }
        let (bytes, bytes_of_cpu) = loaded.bytes_per_cgroup();
        wire.cgroups = state.cgroups;
        wire.cgroups_peak = state.cgroups_peak;
        wire.cgroups_max = loaded.cgroups_max().into();
        wire.dropped_events = state.dropped_events;
        wire.lost_events = state.lost_events;
        wire.bytes_per_cgroup = bytes as u64;
        wire.bytes_per_cgroup_and_cpu = bytes_of_cpu as u64;
        Ok(wire)
    }
}

fn prepare(
    collector: Collector,
    mut loaded: kernel::Collector,
    hierarchies: &Hierarchies,
    is_wanted: bool,
) -> Result<kernel::Collector, String> {
    let because = |error: io::Error| format!("prepare its maps: {error}");
    for root in roots(hierarchies) {
        loaded.admit_root(root).map_err(because)?;
    }
    let merge = Merge::of(collector);
    released::release(&loaded, merge, hierarchies).map_err(because)?;
    released::settle(&loaded, merge).map_err(because)?;
    let cgroups = loaded.count_cgroups().map_err(because)?;
    if cgroups > roots(hierarchies).count() as u64 {
        loaded.keep_up().map_err(|error| error.to_string())?;
    }
    if is_wanted {
        loaded.switch_on().map_err(|error| error.to_string())?;
    }
    Ok(loaded)
}

/// The roots of all hierarchies; none in a cgroup namespace, where what looks like a root is none.
fn roots(hierarchies: &Hierarchies) -> impl Iterator<Item = CgroupKey> {
    let known = hierarchies.iter().filter(|hierarchy| hierarchy.root_id != 0 && !hierarchies.has_namespace());
    known.map(|hierarchy| CgroupKey { hierarchy_id: hierarchy.id, cgroup_id: hierarchy.root_id })
}

fn source(folding: &Folding) -> Source {
    match folding {
        Folding::Rstat => Source::Rstat,
        Folding::Reader(_) => Source::Fold,
    }
}

fn key_of(sample: &CgroupSample) -> CgroupKey {
    CgroupKey { hierarchy_id: sample.hierarchy_id, cgroup_id: sample.cgroup_id }
}
