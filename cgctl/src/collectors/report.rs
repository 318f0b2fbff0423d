//! What is said of the hosts' collectors, and of those that could not be switched.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use cgfleet_proto::v1::{
    FleetServiceListCollectorsResponse, HostError, fleet_service_list_collectors_response::Outcome,
};
use serde::Serialize;
use tonic::Code;

use super::{Shown, columns};
use crate::{
    args::Switch,
    error::Error,
    exit::{Exit, HostOutcome, Tally},
    output::{
        Format, conclude,
        json::{self, Failure, OfHost, Summary, write_line},
        note,
        table::{Column, Table},
    },
    words,
};

/// A collector that a host did not switch.
pub(super) struct Failed {
    pub(super) switch: Switch,
    pub(super) error: HostError,
}

impl Failed {
    fn state(&self) -> Option<String> {
        words::collector_state(self.switch.state.into())
    }
}

pub(super) struct Report<W = Box<dyn Write>> {
    out: W,
    format: Format,
    hosts: Vec<FleetServiceListCollectorsResponse>,
    /// By host id.
    failed: HashMap<String, Vec<Failed>>,
    tally: Tally,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W, format: Format) -> Self {
        Self { out, format, hosts: Vec::new(), failed: HashMap::new(), tally: Tally::default() }
    }

    /// Says that a host did not switch a collector; to be said before its collectors are added.
    pub(super) fn switch_failed(&mut self, host_id: String, failed: Failed) {
        self.failed.entry(host_id).or_default().push(failed);
    }

    pub(super) fn add(&mut self, host: FleetServiceListCollectorsResponse) -> io::Result<()> {
        let failed = failed_of(&self.failed, &host);
        self.tally.add(outcome(&host, failed));
        tell(&host, failed);
        if self.format == Format::Ndjson {
            write_line(&mut self.out, &of_host(&host, failed))?;
            self.out.flush()?;
        }
        self.hosts.push(host);
        Ok(())
    }

    pub(super) fn finish(mut self, ended: Result<(), Error>) -> Result<Exit, Error> {
        let broke_off = match ended {
            Ok(()) => None,
            Err(error) if error.is_remote() && !self.hosts.is_empty() => Some(error),
            Err(error) => return Err(error),
        };
        self.hosts.sort_by(|a, b| (&a.hostname, &a.host_id).cmp(&(&b.hostname, &b.host_id)));
        match self.format {
            Format::Table => table(&self.hosts).write(&mut self.out)?,
            Format::Json => {
                let hosts = self.hosts.iter().map(|host| of_host(host, failed_of(&self.failed, host)));
                let document = Document { hosts: hosts.collect(), summary: Summary::from(&self.tally) };
                write_line(&mut self.out, &document)?;
            }
            Format::Ndjson => {}
        }
        self.out.flush()?;
        Ok(conclude(&self.tally, broke_off.as_ref()))
    }
}

/// A line for each failure, unless the host fails in the same way at the next call too.
fn tell(host: &FleetServiceListCollectorsResponse, failed: &[Failed]) {
    let of_list = match &host.outcome {
        Some(Outcome::Error(error)) => Some(error),
        _ => None,
    };
    for one in failed.iter().filter(|one| of_list.is_none_or(|error| error.reason != one.error.reason)) {
        let (collector, state) = (one.switch.collector, one.state().unwrap_or_default());
        let (reason, message) = (json::reason(&one.error), &one.error.message);
        note(&format!("host {}: {collector} not switched {state}: {reason}: {message}", host.hostname));
    }
    if let Some(error) = of_list {
        note(&format!("host {}: {}: {}", host.hostname, json::reason(error), error.message));
    }
}

fn failed_of<'a>(
    failed: &'a HashMap<String, Vec<Failed>>,
    host: &FleetServiceListCollectorsResponse,
) -> &'a [Failed] {
    failed.get(&host.host_id).map(Vec::as_slice).unwrap_or_default()
}

/// A host that did not switch what it was told to has failed, whatever it lists.
fn outcome(host: &FleetServiceListCollectorsResponse, failed: &[Failed]) -> HostOutcome {
    let exit = |error: &HostError| Exit::of_failure(Code::from(error.code));
    let of_list = match &host.outcome {
        Some(Outcome::Collectors(_)) => None,
        Some(Outcome::Error(error)) => Some(exit(error)),
        None => Some(Exit::Partial),
    };
    let mut exits = failed.iter().map(|one| exit(&one.error)).chain(of_list);
    let Some(first) = exits.next() else { return HostOutcome::Whole };
    HostOutcome::Failed(if exits.all(|exit| exit == first) { first } else { Exit::Partial })
}

fn table(hosts: &[FleetServiceListCollectorsResponse]) -> Table {
    let mut table = Table::new([Column::text("HOST")].into_iter().chain(columns()));
    for host in hosts {
        let Some(Outcome::Collectors(listed)) = &host.outcome else { continue };
        for collector in &listed.collectors {
            table.row([Some(host.hostname.clone())].into_iter().chain(Shown::from(collector).cells()));
        }
    }
    table
}

#[derive(Serialize)]
struct Document<'a> {
    hosts: Vec<OfHost<'a, Answer<'a>>>,
    summary: Summary,
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    listed: Option<Listed<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_switched: Vec<NotSwitched<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Listed<'a> {
    Collectors(Vec<Shown<'a>>),
    Error(Failure<'a>),
}

#[derive(Serialize)]
struct NotSwitched<'a> {
    collector: &'static str,
    state: Option<String>,
    #[serde(flatten)]
    error: Failure<'a>,
}

fn of_host<'a>(host: &'a FleetServiceListCollectorsResponse, failed: &'a [Failed]) -> OfHost<'a, Answer<'a>> {
    let listed = host.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Collectors(listed) => {
            Listed::Collectors(listed.collectors.iter().map(Shown::from).collect())
        }
        Outcome::Error(error) => Listed::Error(error.into()),
    });
    let not_switched = failed.iter().map(|one| NotSwitched {
        collector: one.switch.collector.name(),
        state: one.state(),
        error: Failure::from(&one.error),
    });
    let value = Answer { listed, not_switched: not_switched.collect() };
    OfHost { host_id: &host.host_id, hostname: Some(&host.hostname), value }
}

#[cfg(test)]
mod tests {
    use cgfleet_model::Collector;
    use cgfleet_proto::v1::{self, CollectorFolding, CollectorState, ErrorReason, HostCollectors};
    use expect_test::{Expect, expect};

    use super::*;

    fn error(code: Code, reason: ErrorReason, message: &str) -> HostError {
        HostError { code: code.into(), reason: reason.into(), message: message.into(), retry_after: None }
    }

    fn unreachable() -> HostError {
        error(Code::Unavailable, ErrorReason::HostUnreachable, "connection refused")
    }

    fn unavailable() -> HostError {
        error(Code::FailedPrecondition, ErrorReason::CollectorUnavailable, "no tracepoint")
    }

    fn host(hostname: &str, outcome: Outcome) -> FleetServiceListCollectorsResponse {
        let host_id = format!("id-{hostname}");
        FleetServiceListCollectorsResponse { host_id, hostname: hostname.into(), outcome: Some(outcome) }
    }

    fn two_collectors() -> Outcome {
        let reclaim = v1::Collector {
            name: "reclaim".into(),
            state: CollectorState::On.into(),
            folding: CollectorFolding::Rstat.into(),
            folding_reason: "fentry of bpf_rstat_flush".into(),
            cgroups: 12,
            cgroups_peak: 40,
            cgroups_max: 16_384,
            dropped_events: 3,
            lost_events: 2,
            bytes_per_cgroup: 96,
            bytes_per_cgroup_and_cpu: 64,
            description: "Direct reclaim.".into(),
            ..v1::Collector::default()
        };
        let runqueue = v1::Collector {
            name: "runqueue".into(),
            state: CollectorState::Unavailable.into(),
            reason: "no tracepoint".into(),
            ..v1::Collector::default()
        };
        Outcome::Collectors(HostCollectors { collectors: vec![reclaim, runqueue] })
    }

    /// What is printed, and how it ends, when these hosts did not switch runqueue on, and these answered.
    fn report(format: Format, failed: &[(&str, HostError)], hosts: &[(&str, Outcome)]) -> (String, Exit) {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, format);
        for (hostname, error) in failed {
            let switch = Switch { collector: Collector::Runqueue, state: CollectorState::On };
            report.switch_failed(format!("id-{hostname}"), Failed { switch, error: error.clone() });
        }
        for (hostname, outcome) in hosts {
            report.add(host(hostname, outcome.clone())).unwrap();
        }
        let exit = report.finish(Ok(())).unwrap();
        (anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string(), exit)
    }

    #[test]
    fn each_host_shows_its_collectors_or_why_not() {
        let check = |format, expect: &Expect| {
            let hosts = [("web-2", two_collectors()), ("web-1", Outcome::Error(unreachable()))];
            let (text, exit) = report(format, &[("web-2", unavailable())], &hosts);
            assert_eq!(exit, Exit::Partial);
            expect.assert_eq(&text);
        };
        check(
            Format::Table,
            &expect![[r#"
                HOST   COLLECTOR  STATE        FOLDING   CGROUPS  PEAK  DROPPED  LOST  BYTES_PER_CGROUP  REASON
                web-2  reclaim    on           rstat    12/16384    40        3     2       96 + 64/CPU  fentry of bpf_rstat_flush
                web-2  runqueue   unavailable  -               -     -        -     -                 -  no tracepoint
            "#]],
        );
        check(
            Format::Json,
            &expect![[r#"
                {"hosts":[{"host_id":"id-web-1","hostname":"web-1","error":{"reason":"HOST_UNREACHABLE","message":"connection refused","code":14}},{"host_id":"id-web-2","hostname":"web-2","collectors":[{"name":"reclaim","state":"on","folding":"rstat","folding_reason":"fentry of bpf_rstat_flush","cgroups":12,"cgroups_peak":40,"cgroups_max":16384,"dropped_events":3,"lost_events":2,"bytes_per_cgroup":96,"bytes_per_cgroup_and_cpu":64,"description":"Direct reclaim."},{"name":"runqueue","state":"unavailable","reason":"no tracepoint","description":""}],"not_switched":[{"collector":"runqueue","state":"on","reason":"COLLECTOR_UNAVAILABLE","message":"no tracepoint","code":9}]}],"summary":{"hosts":2,"hosts_complete":0,"hosts_truncated":0,"hosts_failed":2}}
            "#]],
        );
        check(
            Format::Ndjson,
            &expect![[r#"
                {"host_id":"id-web-2","hostname":"web-2","collectors":[{"name":"reclaim","state":"on","folding":"rstat","folding_reason":"fentry of bpf_rstat_flush","cgroups":12,"cgroups_peak":40,"cgroups_max":16384,"dropped_events":3,"lost_events":2,"bytes_per_cgroup":96,"bytes_per_cgroup_and_cpu":64,"description":"Direct reclaim."},{"name":"runqueue","state":"unavailable","reason":"no tracepoint","description":""}],"not_switched":[{"collector":"runqueue","state":"on","reason":"COLLECTOR_UNAVAILABLE","message":"no tracepoint","code":9}]}
                {"host_id":"id-web-1","hostname":"web-1","error":{"reason":"HOST_UNREACHABLE","message":"connection refused","code":14}}
            "#]],
        );
    }

    #[test]
    fn a_host_that_did_not_switch_has_failed() {
        let check = |failed: &[(&str, HostError)], outcome: Outcome, expect| {
            assert_eq!(report(Format::Json, failed, &[("a", outcome)]).1, expect, "{failed:?}");
        };
        check(&[], two_collectors(), Exit::Complete);
        check(&[], Outcome::Error(unreachable()), Exit::Unreachable);
        check(&[("a", unavailable())], two_collectors(), Exit::Partial);
        check(&[("a", unreachable())], Outcome::Error(unreachable()), Exit::Unreachable);
        check(&[("a", unavailable())], Outcome::Error(unreachable()), Exit::Partial);
        let refused = error(Code::InvalidArgument, ErrorReason::InvalidField, "unknown collector");
        check(&[("a", refused)], two_collectors(), Exit::Usage);
        check(&[("b", unavailable())], two_collectors(), Exit::Complete);
    }
}
