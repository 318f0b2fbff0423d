//! Subscriptions to many hosts.

use std::{collections::HashMap, sync::Arc};

use cgfleet_proto::v1::{
    ErrorReason, FleetServiceSubscribeRequest, FleetServiceSubscribeResponse, HostPosition, SubscribeSpec,
};
use cgfleet_rpc::{subscription, wire_error::WireError};
use futures::{StreamExt as _, future, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Code;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Answers, Fleet, query::select};
use crate::watch::{Chosen, WAITING_PARTS_MAX, Wanted, watch_all};

pub(super) fn subscribe(
    fleet: &Fleet,
    request: FleetServiceSubscribeRequest,
) -> Result<Answers<FleetServiceSubscribeResponse>, WireError> {
    let spec = checked(request.spec)?;
    let selector = request.hosts.unwrap_or_default();
    let named = select(fleet, &selector)?;
    let is_chosen = |host_id| selector.all || named.iter().any(|host| host.host_id() == host_id);
    let positions = positions(request.positions, is_chosen)?;
    let place = take_place(fleet)?;
    let chosen = if selector.all { Chosen::All(Arc::clone(&fleet.hosts)) } else { Chosen::Some(named) };
    let wanted = Wanted { spec, positions, host_timeout: fleet.host_timeout };
    let (sender, parts) = mpsc::channel(WAITING_PARTS_MAX);
    tokio::spawn(watch_all(chosen, wanted, sender).in_current_span());
    let parts = stream::unfold((parts, place), |(mut parts, place)| async move {
        Some((parts.recv().await?, (parts, place)))
    });
    let parts = parts.take_until(fleet.shutdown.clone().cancelled_owned());
    Ok(Box::pin(parts.map(Ok).chain(stream::once(future::ready(Err(stopping().into()))))))
}

/// Refuses here what every agent would refuse, so that the answer is one error and not a thousand.
fn checked(spec: Option<SubscribeSpec>) -> Result<SubscribeSpec, WireError> {
    let spec = spec.ok_or_else(|| WireError::invalid_field("spec", "", "a subscription's specification"))?;
    if !spec.resume_token.is_empty() {
        let allowed = "empty; positions has one for each host";
        return Err(WireError::invalid_field("spec.resume_token", spec.resume_token, allowed));
    }
    if spec.every_tick {
        let allowed = "false: only an agent's own stream can keep its ticks for who is late";
        return Err(WireError::invalid_field("spec.every_tick", true, allowed));
    }
    subscription::parse(&spec)?;
    Ok(spec)
}

/// The positions by host: of chosen hosts, each once.
fn positions(
    given: Vec<HostPosition>,
    is_chosen: impl Fn(Uuid) -> bool,
) -> Result<HashMap<Uuid, String>, WireError> {
    let mut positions = HashMap::with_capacity(given.len());
    for HostPosition { host_id, resume_token } in given {
        let refused = |allowed| WireError::invalid_field("positions.host_id", &host_id, allowed);
        let id = Uuid::parse_str(&host_id).map_err(|_| refused("a uuid"))?;
        if !is_chosen(id) {
            return Err(refused("the id of a host that hosts chooses"));
        }
        if resume_token.is_empty() {
            let allowed =
                "Bookmark.resume_token of an earlier stream; leave the position out if there is none";
            return Err(WireError::invalid_field("positions.resume_token", "", allowed).with("host", id));
        }
        if positions.insert(id, resume_token).is_some() {
            return Err(refused("each host once"));
        }
    }
    Ok(positions)
}

fn take_place(fleet: &Fleet) -> Result<OwnedSemaphorePermit, WireError> {
    Arc::clone(&fleet.subscriptions).try_acquire_owned().map_err(|_| {
        let message =
            format!("{} subscriptions are open already (subscriptions_max)", fleet.subscriptions_max);
        WireError::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
            .with("limit", "subscriptions_max")
            .with("value", fleet.subscriptions_max)
    })
}

fn stopping() -> WireError {
    WireError::new(Code::Unavailable, ErrorReason::ShuttingDown, "the server is stopping")
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::CgroupTarget;
    use cgfleet_proto::v1::CounterForm;
    use cgfleet_proto::v1::TickPosition;
    use prost_types::FieldMask;

    use super::*;

    /// `expect` is in the refusal; `None` means taken.
    fn check<T: std::fmt::Debug>(parsed: Result<T, WireError>, expect: Option<&str>) {
        match (expect, parsed.map_err(|error| format!("{error:?}"))) {
            (None, Ok(_)) => {}
            (Some(expect), Err(refused)) if refused.contains(expect) => {}
            (expect, parsed) => panic!("{parsed:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn a_specification_that_every_agent_refuses_is_refused_here() {
        let taken = SubscribeSpec::default;
        let interval = |seconds, nanos| {
            let interval = Some(prost_types::Duration { seconds, nanos });
            checked(Some(SubscribeSpec { interval, ..taken() }))
        };
        check(checked(None), Some("spec: "));
        check(checked(Some(taken())), None);
        check(
            checked(Some(SubscribeSpec { resume_token: "t".into(), ..taken() })),
            Some("spec.resume_token"),
        );
        check(checked(Some(SubscribeSpec { every_tick: true, ..taken() })), Some("spec.every_tick"));
        let start = Some(TickPosition::default());
        check(checked(Some(SubscribeSpec { start, ..taken() })), Some("spec.start"));
        check(interval(0, 100_000_000), None);
        check(interval(3600, 0), None);
        for (seconds, nanos) in [(0, 0), (0, 99_000_000), (1, 1), (3600, 1_000_000), (-1, 0)] {
            check(interval(seconds, nanos), Some("spec.interval"));
        }
        let target = Some(CgroupTarget { hierarchy: "memory".into(), ..CgroupTarget::default() });
        check(checked(Some(SubscribeSpec { target, ..taken() })), Some("spec.target.hierarchy"));
        let read_mask = Some(FieldMask { paths: vec!["cpu.nothing".into()] });
        check(checked(Some(SubscribeSpec { read_mask, ..taken() })), Some("read_mask"));
        check(checked(Some(SubscribeSpec { counters: 7, ..taken() })), Some("spec.counters"));
        let banded = |dead_band, counters: CounterForm| {
            checked(Some(SubscribeSpec { dead_band, counters: counters.into(), ..taken() }))
        };
        check(banded(1.0, CounterForm::Rate), None);
        check(banded(0.0, CounterForm::Delta), None);
        check(banded(0.1, CounterForm::Delta), Some("spec.dead_band"));
        for dead_band in [-0.1, 1.1, f64::NAN] {
            check(banded(dead_band, CounterForm::Cumulative), Some("spec.dead_band"));
        }
    }

    #[test]
    fn a_position_is_of_a_chosen_host_and_there_is_one_for_each() {
        let of = |host_id: &str, resume_token: &str| HostPosition {
            host_id: host_id.into(),
            resume_token: resume_token.into(),
        };
        let (chosen, other) = (Uuid::from_u128(7).to_string(), Uuid::from_u128(8).to_string());
        let parse = |given: &[HostPosition]| positions(given.to_vec(), |id| id == Uuid::from_u128(7));
        check(parse(&[]), None);
        check(parse(&[of(&chosen, "t")]), None);
        check(parse(&[of("web-1", "t")]), Some("a uuid"));
        check(parse(&[of(&other, "t")]), Some("that hosts chooses"));
        check(parse(&[of(&chosen, "")]), Some("positions.resume_token"));
        check(parse(&[of(&chosen, "t"), of(&chosen, "u")]), Some("each host once"));
    }
}
