//! Flush: the request parsed, and what is told of how it was met.

use std::time::Duration;

use cgfleet_proto::v1::{
    self, AgentServiceFlushRequest, AgentServiceFlushResponse, FlushOutcome, FlushScope as WireScope,
};
use cgfleet_rpc::{duration, wire_error::WireError};

use super::spec;
use crate::walker::{FlushAnswer, FlushMethod, FlushScope, FlushSpec, FlushedSubsystem, FlushedSubtree};

const SCOPES: &str = "FLUSH_SCOPE_UNSPECIFIED (0), FLUSH_SCOPE_SUBTREE (1), FLUSH_SCOPE_ANCESTORS (2)";

/// Parses what to flush, and how long ago a flush may have ended that will do.
pub(super) fn spec_of(request: AgentServiceFlushRequest) -> Result<(FlushSpec, Duration), WireError> {
    let AgentServiceFlushRequest { target, scope, max_staleness } = request;
    let scope = match WireScope::try_from(scope) {
        Ok(WireScope::Unspecified | WireScope::Subtree) => FlushScope::Subtree,
        Ok(WireScope::Ancestors) => FlushScope::Ancestors,
        Err(_) => return Err(WireError::invalid_field("scope", scope, SCOPES)),
    };
    let max_staleness = duration::from_zero("max_staleness", max_staleness)?;
    Ok((FlushSpec { target: spec::target_or_root("target", target)?, scope }, max_staleness))
}

/// What is told, without the host.
pub(super) fn response(answer: &FlushAnswer) -> AgentServiceFlushResponse {
    let (outcome, flush, retry_after) = match answer {
        FlushAnswer::Performed(flush) => (FlushOutcome::Performed, Some(flush), None),
        FlushAnswer::Coalesced(flush) => (FlushOutcome::Coalesced, Some(flush), None),
        FlushAnswer::Skipped(flush) => (FlushOutcome::Skipped, flush.as_ref(), None),
        FlushAnswer::RateLimited { retry_after } => (FlushOutcome::RateLimited, None, Some(*retry_after)),
    };
    let flush = flush.map(|flush| of_flush(flush)).unwrap_or_default();
    let retry_after = retry_after.and_then(|retry_after| retry_after.try_into().ok());
    AgentServiceFlushResponse { outcome: outcome.into(), retry_after, ..flush }
}

fn of_flush(flush: &FlushedSubtree) -> AgentServiceFlushResponse {
    AgentServiceFlushResponse {
        cgroup_id: flush.cgroup_id,
        path: flush.path.clone(),
        flush_ns: flush.flush_ns,
        flushed_at: Some(flush.flushed_at.into()),
        subsystems: flush.subsystems.iter().map(subsystem).collect(),
        files_ns: u64::try_from(flush.files.as_nanos()).unwrap_or(u64::MAX),
        ..AgentServiceFlushResponse::default()
    }
}

fn subsystem(flushed: &FlushedSubsystem) -> v1::FlushedSubsystem {
    let method = match flushed.method {
        FlushMethod::Rstat => v1::FlushMethod::Rstat,
        FlushMethod::File => v1::FlushMethod::File,
        FlushMethod::FilePastThreshold => v1::FlushMethod::FilePastThreshold,
        FlushMethod::NotFlushed => v1::FlushMethod::NotFlushed,
    };
    let (name, reason) = (flushed.subsystem.name().to_owned(), flushed.reason.clone());
    v1::FlushedSubsystem { name, method: method.into(), reason }
}
