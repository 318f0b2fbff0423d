//! A collector as json and as cells, wherever it is shown.

use cgfleet_proto::v1::Collector;
use serde::Serialize;

use crate::{output::table::Column, words};

/// A collector, as JSON.
#[derive(Serialize)]
pub(crate) struct Shown<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    folding: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    folding_reason: &'a str,
    #[serde(flatten)]
    map: Option<Map>,
    description: &'a str,
}

/// What a collector counts in; one that is not loaded has none.
#[derive(Serialize)]
struct Map {
    cgroups: u64,
    cgroups_peak: u64,
    cgroups_max: u64,
    dropped_events: u64,
    lost_events: u64,
    bytes_per_cgroup: u64,
    bytes_per_cgroup_and_cpu: u64,
}

impl<'a> From<&'a Collector> for Shown<'a> {
    fn from(collector: &'a Collector) -> Self {
        Self {
            name: &collector.name,
            state: words::collector_state(collector.state),
            reason: &collector.reason,
            folding: words::collector_folding(collector.folding),
            folding_reason: &collector.folding_reason,
            map: Map::of(collector),
            description: &collector.description,
        }
    }
}

impl Map {
    fn of(collector: &Collector) -> Option<Self> {
        let Collector {
            cgroups,
            cgroups_peak,
            cgroups_max,
            dropped_events,
            lost_events,
            bytes_per_cgroup,
            bytes_per_cgroup_and_cpu,
            ..
        } = *collector;
        (cgroups_max > 0).then_some(Self {
            cgroups,
            cgroups_peak,
            cgroups_max,
            dropped_events,
            lost_events,
            bytes_per_cgroup,
            bytes_per_cgroup_and_cpu,
        })
    }
}

/// The titles of [`Shown::cells`].
pub(crate) fn columns() -> [Column; 9] {
    [
        Column::text("COLLECTOR"),
        Column::text("STATE"),
        Column::text("FOLDING"),
        Column::number("CGROUPS"),
        Column::number("PEAK"),
        Column::number("DROPPED"),
        Column::number("LOST"),
        Column::number("BYTES_PER_CGROUP"),
        Column::text("REASON"),
    ]
}

impl Shown<'_> {
    pub(crate) fn cells(&self) -> [Option<String>; 9] {
        let of_map = |cell: &dyn Fn(&Map) -> String| self.map.as_ref().map(cell);
        let reason = if self.reason.is_empty() { self.folding_reason } else { self.reason };
        [
            Some(self.name.to_owned()),
            self.state.clone(),
            self.folding.clone(),
            of_map(&|map| format!("{}/{}", map.cgroups, map.cgroups_max)),
            of_map(&|map| map.cgroups_peak.to_string()),
            of_map(&|map| map.dropped_events.to_string()),
            of_map(&|map| map.lost_events.to_string()),
            of_map(&|map| format!("{} + {}/CPU", map.bytes_per_cgroup, map.bytes_per_cgroup_and_cpu)),
            Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        ]
    }
}
