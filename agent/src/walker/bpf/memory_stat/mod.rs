//! Which place of the kernel's arrays is which key of memory.stat.
//!
//! Up to 6.1 a state's place is its number; by 6.12 the arrays are compact, and a table of the kernel's
//! says which place an item has. So there are several readings of what the kernel tells, and each is
//! tried against the memory.stat of cgroups that exist: one that is right throughout is taken. Where none
//! can be tried (no table without CONFIG_KALLSYMS_ALL), an item's place is the only one at which the
//! numbers of all these cgroups are. What is not certain has no place, and is read from the file.
//!
//! Pure: knows neither files nor BPF.

mod items;
mod places;

use std::fmt;

use cgfleet_ebpf::abi::{self, cg_memory_stat};
use cgfleet_model::{Metric, MetricGroup, MetricSet};

use items::{Array, ITEMS, Item};
pub(super) use places::Observation;
use places::{FlushThreshold, Reading};

use crate::kernel::Facts;

/// How the places of items came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::walker) enum Method {
    /// They did not.
    #[default]
    None,
    /// By what the kernel says, verified.
    Kernel,
    /// By comparison alone.
    Calibration,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not found",
            Self::Kernel => "told by the kernel and verified against memory.stat",
            Self::Calibration => "found by calibration against memory.stat",
        })
    }
}

/// Where each item is.
#[derive(Debug, Clone, Default)]
pub(in crate::walker) struct MemoryStatIndex {
    /// By `cg_memory_item`.
    places: Vec<Option<usize>>,
    /// Items that this kernel has not at all.
    missing: Vec<abi::cg_memory_item>,
    /// Metrics that no memory.stat shows here: the kernel has numbers for some that it was built without.
    unshown: MetricSet,
    states: Method,
    events: Method,
}

impl MemoryStatIndex {
    /// Finds the places with the help of what was observed of some cgroups.
    pub(super) fn find(facts: &Facts, observations: &[Observation], cpus: usize) -> Self {
        let threshold = FlushThreshold::of_cpus(cpus);
        let (state_words, event_words) = facts.array_lengths();
        let of_array = |array, words, table, is_direct| {
            let items: Vec<(&Item, usize)> = ITEMS
                .iter()
                .filter(|item| item.array == array)
                .filter_map(|item| Some((item, facts.item(item.item)?)))
                .collect();
            let readings = Reading::all(table, is_direct);
            places::find(&items, &readings, words, observations, threshold)
        };
        let (states, state_places) = of_array(Array::State, state_words, facts.state_table(), true);
        let (events, event_places) = of_array(Array::Event, event_words, facts.events_table(), false);
        let mut places = vec![None; ITEMS.len()];
        for (item, place) in state_places.into_iter().chain(event_places) {
            places[item as usize] = Some(place);
        }
        let missing = ITEMS.iter().map(|item| item.item).filter(|item| facts.item(*item).is_none()).collect();
        Self { places, missing, unshown: places::unshown(observations), states, events }
    }

    /// The value of a metric, in its unit; `None` if it has no place.
    pub(super) fn value(&self, metric: Metric, stat: &cg_memory_stat) -> Option<u64> {
        if self.unshown.contains(metric) {
            return None;
        }
        let mut sum = None;
        for item in self.items_of(metric) {
            let number = number_at(stat, item.array, (*self.places.get(item.item as usize)?)?)?;
            let so_far: u64 = sum.unwrap_or_default();
            sum = Some(so_far.saturating_add(number.saturating_mul(item.unit.size())));
        }
        sum
    }

    /// The metrics of memory.stat that have a place.
    pub(in crate::walker) fn metrics(&self) -> MetricSet {
        let has_place = |item: &Item| self.places.get(item.item as usize).copied().flatten().is_some();
        let is_known = |metric: &Metric| {
            let mut items = self.items_of(*metric).peekable();
            items.peek().is_some() && items.all(has_place)
        };
        let known: MetricSet = MetricGroup::MemoryStat.metrics().filter(is_known).collect();
        known.without(self.unshown)
    }

    /// The metrics that this kernel's memory.stat does not show, and that are not given therefore.
    pub(in crate::walker) fn unshown(&self) -> MetricSet {
        self.unshown
    }

    /// How the place of a metric became known.
    pub(in crate::walker) fn method_of(&self, metric: Metric) -> Method {
        match self.items_of(metric).next().map(|item| item.array) {
            Some(Array::State) => self.states,
            Some(Array::Event) => self.events,
            None => Method::None,
        }
    }

    /// How the places became known: of states, and of events.
    pub(super) fn methods(&self) -> (Method, Method) {
        (self.states, self.events)
    }

    /// The items that make up a metric on this kernel.
    fn items_of(&self, metric: Metric) -> impl Iterator<Item = &'static Item> {
        ITEMS.iter().filter(move |item| item.metric == metric && !self.missing.contains(&item.item))
    }
}

/// The number at a place; what the kernel counted below zero for a moment is zero, as in memory.stat.
fn number_at(stat: &cg_memory_stat, array: Array, place: usize) -> Option<u64> {
    match array {
        Array::State => stat.state.get(place).map(|state| u64::try_from(*state).unwrap_or_default()),
        Array::Event => stat.events.get(place).copied(),
    }
}
