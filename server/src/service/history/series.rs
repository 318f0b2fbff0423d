//! Series: which cgroups, in which pages, and in two passes where only the greatest are wanted.

use std::collections::{HashMap, HashSet};

use cgfleet_model::TimeRange;
use cgfleet_proto::v1::ErrorReason;
use cgfleet_rpc::wire_error::WireError;
use tonic::Code;
use uuid::Uuid;

use super::{
    Ended, HistoryLimits, Out, past_limit,
    request::{Cgroups, Question, SeriesQuestion, micros},
    wire::{gap_event, series_events},
};
use crate::{
    history::{Answer, Cgroup, FoundSeries, HostSeries, SeriesKey, SeriesSet, Steps, TooMany, coarsest},
    service::Fleet,
    store::{
        CgroupSelector, Gap, ReadError, SeriesPage, Store, StoredCgroup, codec::CgroupKey, is_rolled_up,
    },
};

/// Cgroups that a host is taken to have where nobody asked.
const CGROUPS_OF_A_HOST: usize = 500;
/// The most hosts that are read together, and the most cgroups, as far as is known.
const HOSTS_TOGETHER_MAX: usize = 256;
const CGROUPS_TOGETHER_MAX: usize = 100_000;
/// The most rows of chunks that a page reads of all its hosts, and of one: it has a row per cgroup and hour,
/// or several where ticks are closer than five seconds.
const PAGE_ROWS_MAX: usize = 200_000;
const PAGE_HOST_ROWS_MAX: usize = 20_000;
const HOUR: i64 = 3_600_000_000;

/// The cgroups that a question chose.
pub(super) struct Chosen {
    /// By host; `None` is every cgroup there is, whose names are not known yet.
    pub(super) cgroups: Option<HashMap<Uuid, Vec<Cgroup>>>,
}

impl Chosen {
    pub(super) async fn find(fleet: &Fleet, question: &Question) -> Result<Self, WireError> {
        let host_ids: Vec<Uuid> = question.hosts.iter().map(|host| host.host_id()).collect();
        let series_max = fleet.history_limits.series_max;
        let limit = u32::try_from(series_max).unwrap_or(u32::MAX).saturating_add(1);
        let until = question.range.until();
        let named = |selector| fleet.store.named_cgroups(&host_ids, selector, until, limit);
        let is_by_cgroup = question.series.as_ref().is_some_and(|series| series.grouping.is_by_cgroup());
        let found = match &question.cgroups {
            Cgroups::Path(path) => named(CgroupSelector::Path { hierarchy_id: 0, path }).await?,
            Cgroups::Key(key) => named(CgroupSelector::Key(*key)).await?,
            Cgroups::All if is_by_cgroup => return Ok(Self { cgroups: None }),
            Cgroups::All => {
                fleet.store.filtered_cgroups(&host_ids, &<_>::default(), in_sight(question), limit).await?
            }
            Cgroups::Filter(filter) => {
                fleet.store.filtered_cgroups(&host_ids, filter, in_sight(question), limit).await?
            }
        };
        if found.len() > series_max {
            return Err(too_many(TooMany { what: "cgroups", limit: series_max }));
        }
        if let (true, Some(name)) = (found.is_empty(), question.cgroups.name()) {
            return Err(not_found(question, &name));
        }
        let mut cgroups: HashMap<Uuid, Vec<Cgroup>> = HashMap::new();
        for StoredCgroup { host_id, identity, names } in found {
            cgroups.entry(host_id).or_default().push(Cgroup { identity, names });
        }
        Ok(Self { cgroups: Some(cgroups) })
    }

    fn of(&self, host_id: Uuid) -> Option<&[Cgroup]> {
        self.cgroups.as_ref().map(|of| of.get(&host_id).map(Vec::as_slice).unwrap_or_default())
    }

    fn count(&self, host_id: Uuid) -> usize {
        self.of(host_id).map_or(CGROUPS_OF_A_HOST, <[Cgroup]>::len)
    }

    /// Hosts that are read together.
    fn batches(&self, host_ids: &[Uuid]) -> Vec<Vec<Uuid>> {
        let mut batches: Vec<Vec<Uuid>> = Vec::new();
        let mut cgroups = 0;
        for host_id in host_ids {
            let count = self.count(*host_id);
            if count == 0 {
                continue;
            }
            let fits = |batch: &&mut Vec<Uuid>| {
                batch.len() < HOSTS_TOGETHER_MAX && cgroups + count <= CGROUPS_TOGETHER_MAX
            };
            if let Some(batch) = batches.last_mut().filter(fits) {
                batch.push(*host_id);
                cgroups += count;
            } else {
                batches.push(vec![*host_id]);
                cgroups = count;
            }
        }
        batches
    }
}

/// What a range touches, the steps around it included.
fn in_sight(question: &Question) -> TimeRange {
    let steps = question.series.as_ref().map(|series| series.steps);
    let moment = |at: i64| std::time::UNIX_EPOCH + std::time::Duration::from_micros(at.max(0).unsigned_abs());
    let widened = steps.and_then(|steps| TimeRange::new(moment(steps.since()), moment(steps.until())).ok());
    widened.unwrap_or(question.range)
}

fn not_found(question: &Question, name: &str) -> WireError {
    let whose = match question.hosts.as_slice() {
        [host] => format!("host {}", host.record().hostname),
        hosts => format!("any of {} hosts", hosts.len()),
    };
    let message =
        format!("nothing is stored of cgroup {name} on {whose}; `cgctl query` lists those it has now");
    WireError::new(Code::NotFound, ErrorReason::CgroupNotFound, message)
        .with("field", "target")
        .with("value", name)
}

/// Answers with series.
pub(super) async fn answer(
    store: &Store,
    limits: HistoryLimits,
    question: &Question,
    asked: &SeriesQuestion,
    chosen: Chosen,
    out: &mut Out,
) -> Result<(), Ended> {
    let mut hosts: Vec<(String, Uuid)> =
        question.hosts.iter().map(|host| (host.record().hostname, host.host_id())).collect();
    hosts.sort();
    let host_ids: Vec<Uuid> = hosts.iter().map(|(_, host_id)| *host_id).collect();
    let mut pass = Pass {
        store,
        limits,
        asked,
        hostnames: hosts.into_iter().map(|(hostname, host_id)| (host_id, hostname)).collect(),
        chosen,
        wanted: None,
    };
    if let Some(cgroups) = &pass.chosen.cgroups {
        out.progress.chose(cgroups.values().map(Vec::len).sum());
    }
    if asked.top.is_some() && asked.steps.count() > 1 {
        // First the totals of all, then the steps of the greatest: so the steps of the others are never held.
        let totals = pass.read(&host_ids, asked.steps.as_whole(), out, Part::Totals).await?;
        out.progress.found(totals.series_found);
        let host_ids = pass.narrow(&host_ids, &totals).await?;
        let values = pass.read(&host_ids, asked.steps, out, Part::Values).await?;
        return pass.tell(values, out).await;
    }
    let told = pass.read(&host_ids, asked.steps, out, Part::All).await?;
    out.progress.found(told.series_found);
    pass.tell(told, out).await
}

/// What a way through all hosts is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The answer, at once.
    All,
    /// Which series are the greatest.
    Totals,
    /// The values of these.
    Values,
}

/// A way through all hosts.
struct Pass<'a> {
    store: &'a Store,
    limits: HistoryLimits,
    asked: &'a SeriesQuestion,
    hostnames: HashMap<Uuid, String>,
    chosen: Chosen,
    /// The series that a first pass found to be the greatest; `None` is all.
    wanted: Option<HashSet<(SeriesKey, cgfleet_model::Metric)>>,
}

impl Pass<'_> {
    /// Reads all that there is. Series that are whole after some hosts are told at once if they may be, where all
    /// are wanted; where the greatest are, only these are held.
    async fn read(
        &self,
        host_ids: &[Uuid],
        steps: Steps,
        out: &mut Out,
        part: Part,
    ) -> Result<Answer, Ended> {
        let HistoryLimits { values_max, series_max } = self.limits;
        let top = self.asked.top.filter(|_| self.wanted.is_none());
        let mut set =
            SeriesSet::new(self.asked.measures.clone(), steps, self.asked.top, values_max, series_max);
        let is_by_host = self.asked.grouping.is_by_host();
        for batch in self.chosen.batches(host_ids) {
            for host in self.read_batch(&batch, steps, out, part).await? {
                if self.chosen.cgroups.is_none() && part != Part::Values {
                    out.progress.chose(host.members());
                }
                host.finish(&mut set).map_err(too_many)?;
                if is_by_host && top.is_some() && set.is_crowded() {
                    set.keep_top();
                }
            }
            if is_by_host && top.is_some() {
                set.keep_top();
            } else if is_by_host && part == Part::All && self.asked.top.is_none() {
                let told = set.drain();
                out.progress.found(told.series_found);
                self.tell(told, out).await?;
            }
        }
        Ok(set.drain())
    }

    /// Reads some hosts, page by page.
    async fn read_batch(
        &self,
        batch: &[Uuid],
        steps: Steps,
        out: &mut Out,
        part: Part,
    ) -> Result<Vec<HostSeries>, Ended> {
        let (measures, grouping) = (&self.asked.measures, &self.asked.grouping);
        let series_max = self.limits.series_max;
        let mut hosts: Vec<HostSeries> = batch
            .iter()
            .map(|host_id| match self.chosen.of(*host_id) {
                Some(cgroups) => HostSeries::new(*host_id, measures, steps, grouping, cgroups, series_max),
                None => HostSeries::open(*host_id, measures, steps, series_max),
            })
            .collect();
        let counts = batch.iter().map(|host_id| self.chosen.count(*host_id));
        let (most, all) = counts.fold((1, 0), |(most, all), count| (count.max(most), count + all));
        let hours = (PAGE_ROWS_MAX / all.max(1)).min(PAGE_HOST_ROWS_MAX / most).max(1);
        let length = i64::try_from(hours).unwrap_or(i64::MAX / HOUR).saturating_mul(HOUR);
        // Totals are of the steps, which may be finer than the range is.
        let tier = coarsest(measures, self.asked.steps, is_rolled_up);
        let mut since = steps.since();
        while since < steps.until() {
            // Pages end with hours, as windows of chunks do.
            let end = since.saturating_add(length).div_euclid(HOUR).saturating_mul(HOUR);
            let until = end.max(since + HOUR.min(length)).min(steps.until());
            let page = SeriesPage { since, until, is_first: since == steps.since(), tier, measures, steps };
            let read = self.store.read_series(hosts, page).await.map_err(read_error)?;
            hosts = read.hosts;
            out.progress.read(read.tiers);
            if part != Part::Values {
                let told = |gap: &Gap| {
                    micros(gap.before_at) > since && (page.is_first || micros(gap.after_at) >= since)
                };
                for (host_id, gap) in read.gaps.into_iter().filter(|(_, gap)| told(gap)) {
                    let hostname = self.hostnames.get(&host_id).map(String::as_str).unwrap_or_default();
                    out.send(gap_event(gap, host_id, hostname)).await?;
                }
            }
            let held: usize = hosts.iter().map(HostSeries::held).sum();
            if held > self.limits.values_max {
                return Err(too_many(TooMany { what: "values", limit: self.limits.values_max }).into());
            }
            since = until;
        }
        Ok(hosts)
    }

    /// Chooses only what is among the greatest; returns the hosts that have it.
    async fn narrow(&mut self, host_ids: &[Uuid], totals: &Answer) -> Result<Vec<Uuid>, Ended> {
        let wanted: HashSet<(SeriesKey, cgfleet_model::Metric)> =
            totals.series.iter().map(|series| (series.key.clone(), series.measure.metric)).collect();
        let keys: HashSet<SeriesKey> = wanted.iter().map(|(key, _)| key.clone()).collect();
        let grouping = &self.asked.grouping;
        if let Some(cgroups) = &mut self.chosen.cgroups {
            for (host_id, of) in &mut *cgroups {
                of.retain(|cgroup| grouping.key_of(*host_id, cgroup).is_some_and(|key| keys.contains(&key)));
            }
        } else {
            let named = self.store.cgroups_by_key(&keys_of(&totals.series)).await?;
            let mut cgroups: HashMap<Uuid, Vec<Cgroup>> = HashMap::new();
            for StoredCgroup { host_id, identity, names } in named {
                cgroups.entry(host_id).or_default().push(Cgroup { identity, names });
            }
            self.chosen.cgroups = Some(cgroups);
        }
        self.wanted = Some(wanted);
        Ok(host_ids.iter().copied().filter(|host_id| self.chosen.count(*host_id) > 0).collect())
    }

    /// Sends series and their values.
    async fn tell(&self, answer: Answer, out: &mut Out) -> Result<(), Ended> {
        let mut series = answer.series;
        if let Some(wanted) = &self.wanted {
            series.retain(|series| {
                let without_path = SeriesKey { path: None, ..series.key.clone() };
                [&series.key, &without_path]
                    .into_iter()
                    .any(|key| wanted.contains(&(key.clone(), series.measure.metric)))
            });
        }
        let named = self.store.cgroups_by_key(&keys_of(&series)).await?;
        let named: HashMap<(Uuid, Uuid, CgroupKey), StoredCgroup> = named
            .into_iter()
            .map(|cgroup| ((cgroup.host_id, cgroup.identity.boot_id, cgroup.identity.key), cgroup))
            .collect();
        if self.asked.top.is_none() {
            // By hosts' names and paths, which only now are known.
            series.sort_by_cached_key(|series| {
                let cgroup = key_of(series).and_then(|key| named.get(&key));
                let host = series.key.host_id.and_then(|host_id| self.hostnames.get(&host_id));
                let path = cgroup.map(|cgroup| cgroup.identity.path.clone()).or(series.key.path.clone());
                (host.cloned(), path, series.key.clone())
            });
        }
        for found in &series {
            let number = out.progress.tell(found);
            let cgroup = key_of(found).and_then(|key| named.get(&key));
            for event in series_events(number, found, &self.hostnames, cgroup) {
                out.send(event).await?;
            }
        }
        Ok(())
    }
}

fn key_of(series: &FoundSeries) -> Option<(Uuid, Uuid, CgroupKey)> {
    let (boot_id, hierarchy_id, cgroup_id) = series.key.cgroup?;
    Some((series.key.host_id?, boot_id, CgroupKey { hierarchy_id, cgroup_id }))
}

fn keys_of(series: &[FoundSeries]) -> Vec<(Uuid, Uuid, CgroupKey)> {
    let keys: HashSet<_> = series.iter().filter_map(key_of).collect();
    keys.into_iter().collect()
}

pub(super) fn too_many(TooMany { what, limit }: TooMany) -> WireError {
    let advice = match what {
        "values" => {
            "ask for longer steps, a shorter time, fewer metrics or fewer cgroups, or for the top of them"
        }
        _ => "choose fewer hosts or cgroups, or group by less",
    };
    let key = if what == "values" { "history_values_max" } else { "history_series_max" };
    past_limit(key, limit, what, advice)
}

fn read_error(error: ReadError) -> WireError {
    match error {
        ReadError::Store(error) => error.into(),
        ReadError::TooMany(error) => too_many(error),
    }
}
