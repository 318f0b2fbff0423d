//! Messages of an answer, and what its summary counts.

use std::collections::{BTreeMap, HashMap};

use cgfleet_proto::v1::{
    HistoryAggregation, HistoryGap, HistorySeries, HistorySummary, HistoryTier, HistoryTierRead,
    HistoryValue, HistoryValues, Workload, query_history_response::Event,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::request::{Question, micros};
use crate::{
    history::{Aggregation, FoundSeries, Point},
    store::{Gap, StoredCgroup, Tier, TierRead, WorkloadNames},
};

/// The most values or points in one message.
pub(super) const VALUES_MAX: usize = 1_000;

/// What was read and told so far.
pub(super) struct Progress {
    begun: Instant,
    tiers: BTreeMap<Tier, TierRead>,
    summary: HistorySummary,
}

impl Progress {
    pub(super) fn new(begun: Instant, question: &Question) -> Self {
        let asked = [question.range.since(), question.range.until()].map(micros);
        let [since, until] =
            question.series.as_ref().map_or(asked, |of| [of.steps.since(), of.steps.until()]);
        let summary = HistorySummary {
            hosts: u32::try_from(question.hosts.len()).unwrap_or(u32::MAX),
            since: Some(timestamp(since)),
            until: Some(timestamp(until)),
            ..HistorySummary::default()
        };
        Self { begun, tiers: BTreeMap::new(), summary }
    }

    pub(super) fn read(&mut self, tiers: Vec<TierRead>) {
        for read in tiers {
            let known = self.tiers.entry(read.tier).or_insert(TierRead { rows: 0, ..read });
            known.rows += read.rows;
            known.since = known.since.min(read.since);
            known.until = known.until.max(read.until);
        }
    }

    pub(super) fn chose(&mut self, cgroups: usize) {
        self.summary.cgroups =
            self.summary.cgroups.saturating_add(u32::try_from(cgroups).unwrap_or(u32::MAX));
    }

    pub(super) fn found(&mut self, series: usize) {
        let series = u32::try_from(series).unwrap_or(u32::MAX);
        self.summary.series_found = self.summary.series_found.saturating_add(series);
    }

    /// Counts a series, and gives its number.
    pub(super) fn tell(&mut self, series: &FoundSeries) -> u32 {
        self.summary.series = self.summary.series.saturating_add(1);
        self.summary.resets += series.resets;
        self.summary.series
    }

    pub(super) fn summary(&self) -> HistorySummary {
        let tiers = self.tiers.values().map(|read| HistoryTierRead {
            tier: tier(read.tier).into(),
            rows: read.rows,
            since: Some(timestamp(read.since)),
            until: Some(timestamp(read.until)),
        });
        HistorySummary {
            tiers: tiers.collect(),
            request_ns: u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
            ..self.summary.clone()
        }
    }
}

fn tier(tier: Tier) -> HistoryTier {
    match tier {
        Tier::Head => HistoryTier::Head,
        Tier::Chunk => HistoryTier::Chunk,
        Tier::RollupMinute => HistoryTier::RollupMinute,
        Tier::RollupHour => HistoryTier::RollupHour,
    }
}

/// A series and its values. What it is called comes from what is known of the cgroup, if it is of one.
pub(super) fn series_events(
    number: u32,
    series: &FoundSeries,
    hostnames: &HashMap<Uuid, String>,
    cgroup: Option<&StoredCgroup>,
) -> Vec<Event> {
    let key = &series.key;
    let host = key.host_id;
    let path = cgroup.map(|cgroup| cgroup.identity.path.clone()).or_else(|| key.path.clone());
    let told = HistorySeries {
        series: number,
        metric: series.measure.metric.name().to_owned(),
        aggregation: aggregation(series.measure.aggregation).into(),
        unit: series.measure.unit(),
        host_id: host.map(|host| host.to_string()).unwrap_or_default(),
        hostname: host.and_then(|host| hostnames.get(&host).cloned()).unwrap_or_default(),
        cgroup_id: key.cgroup.map(|(.., cgroup_id)| cgroup_id).unwrap_or_default(),
        path: path.unwrap_or_default(),
        workload: cgroup.map_or_else(|| workload_of_key(series), |cgroup| workload(&cgroup.names)),
        cgroups: series.cgroups,
        total: series.total,
    };
    let values = series.points.chunks(VALUES_MAX).map(|points| {
        Event::Values(HistoryValues { series: number, values: points.iter().map(value).collect() })
    });
    std::iter::once(Event::Series(told)).chain(values).collect()
}

fn value(point: &Point) -> HistoryValue {
    HistoryValue { from: Some(timestamp(point.from)), value: point.value, reset: point.reset, gap: point.gap }
}

fn workload_of_key(series: &FoundSeries) -> Option<Workload> {
    let key = &series.key;
    let mut workload = Workload {
        pod_namespace: key.namespace.clone().unwrap_or_default(),
        container_name: key.container.clone().unwrap_or_default(),
        systemd_unit: key.unit.clone().unwrap_or_default(),
        systemd_slice: key.slice.clone().unwrap_or_default(),
        ..Workload::default()
    };
    if let Some((namespace, pod)) = &key.pod {
        if namespace.is_empty() {
            workload.pod_uid.clone_from(pod);
        } else {
            (workload.pod_namespace, workload.pod_name) = (namespace.clone(), pod.clone());
        }
    }
    (workload != Workload::default()).then_some(workload)
}

/// What runs in a cgroup; `None` if nothing is known.
pub(super) fn workload(names: &WorkloadNames) -> Option<Workload> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let workload = Workload {
        pod_namespace: text(&names.pod_namespace),
        pod_name: text(&names.pod_name),
        pod_uid: text(&names.pod_uid),
        container_name: text(&names.container_name),
        container_id: text(&names.container_id),
        runtime: text(&names.runtime),
        systemd_unit: text(&names.systemd_unit),
        systemd_slice: text(&names.systemd_slice),
    };
    (workload != Workload::default()).then_some(workload)
}

fn aggregation(aggregation: Aggregation) -> HistoryAggregation {
    match aggregation {
        Aggregation::Last => HistoryAggregation::Last,
        Aggregation::Mean => HistoryAggregation::Mean,
        Aggregation::Max => HistoryAggregation::Max,
        Aggregation::Min => HistoryAggregation::Min,
        Aggregation::Sum => HistoryAggregation::Sum,
        Aggregation::Rate => HistoryAggregation::Rate,
        Aggregation::Percentile(95) => HistoryAggregation::P95,
        Aggregation::Percentile(99) => HistoryAggregation::P99,
        Aggregation::Percentile(_) => HistoryAggregation::P50,
    }
}

/// A gap of a host.
pub(super) fn gap_event(gap: Gap, host_id: Uuid, hostname: &str) -> Event {
    Event::Gap(HistoryGap {
        after: Some(gap.after_at.into()),
        before: Some(gap.before_at.into()),
        reason: gap.reason.into(),
        host_id: host_id.to_string(),
        hostname: hostname.to_owned(),
    })
}

pub(super) fn timestamp(micros: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    }
}
