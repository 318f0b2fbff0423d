//! Registration, and the list of hosts.

use std::sync::Arc;

use cgfleet_proto::v1::{
    Backlog as WireBacklog, HistoryGap, Host as WireHost, HostBacklog as WireHostBacklog, HostState,
    HostStatus, ListHostsRequest, ListHostsResponse, RegisterHostRequest, RegisterHostResponse,
};
use cgfleet_rpc::wire_error::WireError;
use uuid::Uuid;

use super::Fleet;
use crate::{
    hosts::Host,
    ingest::{Backlog, HostBacklog, keep_ingesting},
    store::HostRecord,
};

/// The most hosts in one answer.
const PAGE_HOSTS_MAX: usize = 1000;
/// The longest text in a registration, in bytes: nothing that names a host is longer.
const TEXT_BYTES_MAX: usize = 255;

pub(super) async fn register(
    fleet: &Fleet,
    request: RegisterHostRequest,
) -> Result<RegisterHostResponse, WireError> {
    let record = record(request.host.unwrap_or_default())?;
    let host = fleet.hosts.register(record).await?;
    if host.claim_stream() {
        tokio::spawn(keep_ingesting(host, fleet.ingest.clone(), fleet.shutdown.clone()));
    }
    Ok(RegisterHostResponse { heartbeat_interval: fleet.hosts.heartbeat_interval().try_into().ok() })
}

fn record(host: WireHost) -> Result<HostRecord, WireError> {
    let uuid = |field, text: &str| match Uuid::parse_str(text) {
        Ok(uuid) if !uuid.is_nil() => Ok(uuid),
        _ => Err(WireError::invalid_field(field, text, "a uuid")),
    };
    let text = |field, text: String| {
        let allowed = (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
        if allowed { Ok(text) } else { Err(WireError::invalid_field(field, text, "1 to 255 bytes of text")) }
    };
    Ok(HostRecord {
        host_id: uuid("host.host_id", &host.host_id)?,
        boot_id: uuid("host.boot_id", &host.boot_id)?,
        agent_epoch: uuid("host.agent_epoch", &host.agent_epoch)?,
        hostname: text("host.hostname", host.hostname)?,
        address: text("host.address", host.address)?,
        kernel_release: text("host.kernel_release", host.kernel_release)?,
        agent_version: text("host.agent_version", host.agent_version)?,
    })
}

pub(super) fn list(fleet: &Fleet, request: &ListHostsRequest) -> Result<ListHostsResponse, WireError> {
    let page_size = match request.page_size as usize {
        0 => PAGE_HOSTS_MAX,
        size @ 1..=PAGE_HOSTS_MAX => size,
        size => return Err(WireError::invalid_field("page_size", size, format!("0 to {PAGE_HOSTS_MAX}"))),
    };
    let after = page_token(&request.page_token)?;
    let place = |host: &Arc<Host>| (host.record().hostname, host.host_id());
    let behind = |host: &Arc<Host>| after.as_ref().is_none_or(|after| place(host) > *after);
    let mut hosts: Vec<Arc<Host>> =
        fleet.hosts.all().into_iter().filter(behind).take(page_size + 1).collect();
    let more = hosts.len() > page_size;
    hosts.truncate(page_size);
    let last = hosts.last().filter(|_| more).map(place);
    Ok(ListHostsResponse {
        hosts: hosts.iter().map(|host| status(fleet, host)).collect(),
        next_page_token: last.map(|(hostname, host_id)| format!("{host_id}/{hostname}")).unwrap_or_default(),
        backlog: Some(backlog(fleet.ingest.backlog())),
    })
}

fn backlog(backlog: Backlog) -> WireBacklog {
    let (failing_since, error) = backlog.failing.map(|failing| (failing.since.into(), failing.error)).unzip();
    WireBacklog {
        failing_since,
        error: error.unwrap_or_default(),
        spooled_ticks: backlog.spooled.map_or(0, |held| held.ticks),
        spooled_since: backlog.spooled.map(|held| held.since.into()),
        spool_bytes: backlog.spool_bytes,
        spool_bytes_max: backlog.spool_bytes_max,
        dropped_ticks: backlog.ticks_dropped,
    }
}

fn host_backlog(backlog: HostBacklog) -> WireHostBacklog {
    WireHostBacklog {
        spooled_ticks: backlog.spooled.map_or(0, |held| held.ticks),
        spooled_since: backlog.spooled.map(|held| held.since.into()),
        waiting_since: backlog.waiting_since.map(Into::into),
        last_gap: backlog.last_gap.map(|gap| HistoryGap {
            after: Some(gap.after_at.into()),
            before: Some(gap.before_at.into()),
            reason: gap.reason.into(),
            ..HistoryGap::default()
        }),
    }
}

/// A page token is the place behind which the page begins.
fn page_token(token: &str) -> Result<Option<(String, Uuid)>, WireError> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token
        .split_once('/')
        .and_then(|(host_id, hostname)| Some((hostname.to_owned(), Uuid::parse_str(host_id).ok()?)));
    let refused =
        || WireError::invalid_field("page_token", token, "empty, or next_page_token of the page before");
    parsed.map(Some).ok_or_else(refused)
}

fn status(fleet: &Fleet, host: &Host) -> HostStatus {
    let record = host.record();
    let up = host.is_up(fleet.hosts.heartbeat_interval());
    HostStatus {
        state: if up { HostState::Up } else { HostState::Lost }.into(),
        heartbeat_at: host.heartbeat_at().map(Into::into),
        last_tick_at: host.last_tick_at().map(Into::into),
        ingest_lag: host.ingest_lag().and_then(|lag| lag.try_into().ok()),
        backlog: Some(host_backlog(fleet.ingest.backlog_of(host.host_id()))),
        compaction_lag: fleet.compaction.lag_of(host.host_id()).try_into().ok(),
        host: Some(WireHost {
            host_id: record.host_id.to_string(),
            boot_id: record.boot_id.to_string(),
            agent_epoch: record.agent_epoch.to_string(),
            hostname: record.hostname,
            address: record.address,
            kernel_release: record.kernel_release,
            agent_version: record.agent_version,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_ours_or_refused() {
        let id = Uuid::from_u128(7);
        assert_eq!(page_token("").unwrap(), None);
        assert_eq!(page_token(&format!("{id}/web/1")).unwrap(), Some(("web/1".to_owned(), id)));
        for bad in ["web", "7/web", "/", &id.to_string()] {
            assert!(page_token(bad).is_err(), "{bad}");
        }
    }
}
