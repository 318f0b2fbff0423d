//! `cgctl query`: what cgroups are doing now, on one host, many or all.

mod answer;
mod cost;
mod writer;

use std::{collections::HashMap, io::Write};

use cgfleet_proto::v1::{
    CgroupOrder, HierarchyJoin, HostResult, QueryRequest, WalkEnd, WalkEngine, WalkSpec,
    host_result::Outcome, query_response::Event,
};
use jiff::tz::TimeZone;
use tonic::Code;

use crate::{
    Calls,
    args::{Answerer, QueryArgs},
    error::{Error, again},
    exit::{Exit, HostOutcome, Tally},
    output::{Format, conclude, json, note, stdout},
    words,
};
use answer::Answer;
use cost::Cost;
use writer::Writer;

pub(crate) async fn run(args: QueryArgs, calls: &Calls) -> Result<Exit, Error> {
    let (format, columns) = (args.output.format, args.fields.columns());
    let spec = WalkSpec {
        target: args.target,
        order: CgroupOrder::from(args.order).into(),
        read_mask: args.fields.read_mask(format),
        limit: args.limit.unwrap_or_default(),
        stop_at: args.stop_at,
        engine: args.engine.map_or(WalkEngine::Unspecified, WalkEngine::from).into(),
        max_depth: args.max_depth,
        stop_when: args.stop_when.map(words::condition),
        join: args.join.map_or(HierarchyJoin::Unspecified, HierarchyJoin::from).into(),
        workload: args.workload.into_filter(),
        max_staleness: args.freshness.max_staleness(),
        flush: args.freshness.flush(),
    };
    let mut answer = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => Answer::of_agent(&calls.agent(&address)?, spec).await?,
        Answerer::Server(hosts) => {
            let server = calls.server()?;
            // A result brings its host's name, but ndjson names the rows that come before it.
            let hostnames = if format == Format::Ndjson { server.hostnames().await? } else { HashMap::new() };
            let host_timeout = args.host_timeout.to_proto();
            let request = QueryRequest { hosts: Some(hosts), spec: Some(spec), host_timeout };
            Answer::of_server(&server, request, hostnames).await?
        }
    };
    let hostnames = std::mem::take(&mut answer.hostnames);
    let mut report = Report {
        writer: Writer::new(stdout(format), format, columns, hostnames),
        tally: Tally::default(),
        cost: Cost::default(),
        rows: false,
    };
    match report.take(&mut answer).await {
        Ok(()) => report.finish(None),
        Err(error) if error.is_remote() => report.finish(Some(error)),
        Err(error) => Err(error),
    }
}

/// What is said of an answer while it comes and when it is over.
struct Report<W> {
    writer: Writer<W>,
    tally: Tally,
    cost: Cost,
    /// Whether any row came.
    rows: bool,
}

impl<W: Write> Report<W> {
    /// Takes the answer to its end.
    async fn take(&mut self, answer: &mut Answer) -> Result<(), Error> {
        while let Some(event) = answer.next().await? {
            match event {
                Event::Samples(samples) => {
                    self.rows |= !samples.samples.is_empty();
                    self.writer.rows(samples)?;
                }
                Event::Result(result) => self.host(result)?,
                Event::Summary(_) => return Ok(()),
            }
        }
        Err(answer.link.cut_short())
    }

    fn host(&mut self, result: HostResult) -> Result<(), Error> {
        self.tally.add(outcome_of(&result));
        if let Some(Outcome::Summary(summary)) = &result.outcome {
            self.cost.add(summary);
        }
        if let Some(trouble) = trouble_of(&result) {
            let host = if result.hostname.is_empty() { &result.host_id } else { &result.hostname };
            note(&format!("host {host}: {trouble}"));
        }
        self.writer.host(result)
    }

    /// Prints what was collected and how it ended; an answer that broke off is still printed as
    /// far as it came.
    fn finish(self, mut broke_off: Option<Error>) -> Result<Exit, Error> {
        if let Some(error) = broke_off.take_if(|_| !self.rows && self.tally.hosts() == 0) {
            return Err(error);
        }
        self.writer.finish(&self.tally)?;
        if let Some(cost) = self.cost.line(&TimeZone::system()) {
            note(&cost);
        }
        Ok(conclude(&self.tally, broke_off.as_ref()))
    }
}

/// How a host's result counts. A target that is gone counts as one that is not found: whether the
/// cgroup was removed just before the walk or just after its lookup makes no difference to anybody.
fn outcome_of(result: &HostResult) -> HostOutcome {
    match &result.outcome {
        Some(Outcome::Summary(summary)) => match summary.end() {
            WalkEnd::Complete | WalkEnd::Limit | WalkEnd::StopAt | WalkEnd::StopWhen => HostOutcome::Whole,
            WalkEnd::TargetGone => HostOutcome::Failed(Exit::of_failure(Code::NotFound)),
            WalkEnd::Truncated | WalkEnd::Unspecified => HostOutcome::Cut,
        },
        Some(Outcome::Error(error)) if result.rows == 0 => {
            HostOutcome::Failed(Exit::of_failure(Code::from(error.code)))
        }
        _ => HostOutcome::Failed(Exit::Partial),
    }
}

/// Why a host's answer is not what was asked for, in one line.
fn trouble_of(result: &HostResult) -> Option<String> {
    match result.outcome.as_ref() {
        Some(Outcome::Summary(summary)) => match summary.end() {
            WalkEnd::Complete | WalkEnd::Limit | WalkEnd::StopAt | WalkEnd::StopWhen => None,
            WalkEnd::TargetGone => Some("the cgroup was removed before the walk could read it".to_owned()),
            WalkEnd::Truncated => Some(format!("the answer is cut by {}", summary.truncated_by)),
            WalkEnd::Unspecified => {
                Some("the walk ended in a way that this version does not know".to_owned())
            }
        },
        Some(Outcome::Error(error)) => {
            Some(format!("{}: {}{}", json::reason(error), error.message, again(json::retry_after(error))))
        }
        None => Some("the server gave no result".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{ErrorReason, HostError, WalkSummary};

    use super::*;

    #[test]
    fn a_host_that_says_when_to_try_again_is_quoted() {
        let error = HostError {
            code: Code::ResourceExhausted as i32,
            reason: ErrorReason::FlushRateLimited.into(),
            message: "too many".into(),
            retry_after: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
        };
        let result = HostResult { outcome: Some(Outcome::Error(error)), ..HostResult::default() };
        let expect = "FLUSH_RATE_LIMITED: too many; try again in 250 ms";
        assert_eq!(trouble_of(&result).as_deref(), Some(expect));
        assert_eq!(outcome_of(&result), HostOutcome::Failed(Exit::Partial));
    }

    #[test]
    fn a_host_counts_by_how_its_walk_ended() {
        let check = |rows, outcome, expect| {
            let result = HostResult { rows, outcome, ..HostResult::default() };
            assert_eq!(outcome_of(&result), expect, "{result:?}");
            assert_eq!(trouble_of(&result).is_none(), expect == HostOutcome::Whole, "{result:?}");
        };
        let ended =
            |end: WalkEnd| Some(Outcome::Summary(WalkSummary { end: end.into(), ..WalkSummary::default() }));
        let failed = |code: Code| {
            let reason = ErrorReason::HostTimeout.into();
            Some(Outcome::Error(HostError {
                code: code as i32,
                reason,
                message: "late".into(),
                retry_after: None,
            }))
        };
        check(9, ended(WalkEnd::Complete), HostOutcome::Whole);
        check(1, ended(WalkEnd::Limit), HostOutcome::Whole);
        check(1, ended(WalkEnd::StopAt), HostOutcome::Whole);
        check(1, ended(WalkEnd::StopWhen), HostOutcome::Whole);
        check(9, ended(WalkEnd::Truncated), HostOutcome::Cut);
        check(0, ended(WalkEnd::TargetGone), HostOutcome::Failed(Exit::Usage));
        check(0, failed(Code::DeadlineExceeded), HostOutcome::Failed(Exit::Unreachable));
        check(5, failed(Code::DeadlineExceeded), HostOutcome::Failed(Exit::Partial));
        check(0, failed(Code::InvalidArgument), HostOutcome::Failed(Exit::Usage));
        check(0, None, HostOutcome::Failed(Exit::Partial));
    }
}
