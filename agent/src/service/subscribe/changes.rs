//! A subscription to what changes: the request parsed, and the stream of its parts.

use std::time::Duration;

use cgfleet_proto::{
    metrics_of_read_mask,
    v1::{self, CounterForm as WireForm, ErrorReason, SubscribeResponse, SubscribeSpec},
};
use cgfleet_rpc::{duration, wire_error::WireError, workload};
use futures::{StreamExt as _, future, stream};
use tonic::{Code, Status};
use uuid::Uuid;

use super::{Agent, Answers, Held, INTERVAL_MAX, events::Events, stopping, take_place};
use crate::{
    feeds::Listening,
    service::spec::target_or_root,
    stream::{Choice, CounterForm, Followed, Follower, Token},
    walker::{Target, WalkError, WalkSpec},
};

const FORMS: &str = "COUNTER_FORM_UNSPECIFIED (0), COUNTER_FORM_CUMULATIVE (1), COUNTER_FORM_DELTA (2), \
                     COUNTER_FORM_RATE (3)";

/// Opens a subscription.
pub(super) async fn subscribe(
    agent: &Agent,
    spec: SubscribeSpec,
) -> Result<Answers<SubscribeResponse>, Status> {
    let interval = interval(agent, spec.interval)?;
    let token = token(&spec.resume_token, interval, agent.identity.agent_epoch)?;
    let counters = counters(spec.counters)?;
    let wanted = Followed {
        dead_band: dead_band(spec.dead_band, counters)?,
        counters,
        metrics: metrics_of_read_mask(spec.read_mask.as_ref()).map_err(WireError::from)?,
        workload: workload::filter("spec.workload", spec.workload.as_ref())?,
        choice: Choice::new(path(agent, spec.target).await?, spec.max_depth),
    };
    let place = take_place(agent)?;
    let listening = agent.feeds.listen(interval, wanted.metrics, true).map_err(WireError::from)?;
    let follower = follower(agent, wanted, &listening, token)?;
    let events = Events::new(agent, interval, follower);
    let held = Held { listening, _place: place };
    let changes = stream::unfold((held, events), |(mut held, mut events)| async move {
        let change = loop {
            if let Some(change) = events.next() {
                break change;
            }
            events.advance(&held.listening.after(events.sequence()).await?);
        };
        let event = Some(v1::subscribe_response::Event::Change(v1::ChangeEvent { event: Some(change) }));
        Some((SubscribeResponse { event }, (held, events)))
    });
    let changes = changes.take_until(agent.shutdown.clone().cancelled_owned());
    Ok(Box::pin(changes.map(Ok).chain(stream::once(future::ready(Err(stopping().into()))))))
}

/// The follower that begins anew, or goes on behind its token.
fn follower(
    agent: &Agent,
    wanted: Followed,
    listening: &Listening,
    token: Option<Token>,
) -> Result<Follower, WireError> {
    let Some(token) = token else { return Ok(Follower::new(wanted)) };
    let expired = |why: &str| {
        let message = format!("spec.resume_token: {why}: subscribe anew, without it");
        WireError::new(Code::OutOfRange, ErrorReason::ResumeExpired, message)
            .with("field", "spec.resume_token")
    };
    if token.agent_epoch != agent.identity.agent_epoch {
        return Err(expired("the agent was started anew since"));
    }
    let at = listening.get(token.sequence);
    let at =
        at.ok_or_else(|| expired("the agent's history does not reach back to it (history_bytes_max)"))?;
    Ok(Follower::resumed(wanted, at))
}

fn interval(agent: &Agent, asked: Option<prost_types::Duration>) -> Result<Duration, WireError> {
    let Some(_) = asked else { return Ok(agent.sample_interval) };
    let interval = duration::from_zero("spec.interval", asked)?;
    let min = agent.subscribe_interval_min.min(agent.sample_interval);
    let is_whole = interval.subsec_nanos().is_multiple_of(1_000_000);
    if is_whole && (min..=INTERVAL_MAX).contains(&interval) {
        return Ok(interval);
    }
    let allowed = format!("{min:?} (subscribe_interval_min) to 1h, in whole milliseconds");
    Err(WireError::invalid_field("spec.interval", format!("{interval:?}"), allowed))
}

fn token(text: &str, interval: Duration, agent_epoch: Uuid) -> Result<Option<Token>, WireError> {
    if text.is_empty() {
        return Ok(None);
    }
    let refused = |allowed: &str| WireError::invalid_field("spec.resume_token", text, allowed);
    let token: Token = text.parse().map_err(|_| refused("Bookmark.resume_token of an earlier stream"))?;
    // Of another process the interval is that of another configuration, perhaps: such a token has expired.
    if token.agent_epoch == agent_epoch && token.interval != interval {
        return Err(refused("that of a stream with the same spec; this one has another interval"));
    }
    Ok(Some(token))
}

fn counters(wire: i32) -> Result<CounterForm, WireError> {
    match WireForm::try_from(wire) {
        Ok(WireForm::Unspecified | WireForm::Cumulative) => Ok(CounterForm::Cumulative),
        Ok(WireForm::Delta) => Ok(CounterForm::Delta),
        Ok(WireForm::Rate) => Ok(CounterForm::Rate),
        Err(_) => Err(WireError::invalid_field("spec.counters", wire, FORMS)),
    }
}

fn dead_band(asked: f64, counters: CounterForm) -> Result<f64, WireError> {
    let refused = |allowed: &str| Err(WireError::invalid_field("spec.dead_band", asked, allowed));
    match counters {
        _ if !(0.0..=1.0).contains(&asked) => refused("0 to 1"),
        CounterForm::Delta if asked > 0.0 => refused("0 with COUNTER_FORM_DELTA, or another form"),
        _ => Ok(asked),
    }
}

/// The target's path as text. One that is given by path need not exist.
async fn path(agent: &Agent, target: Option<v1::CgroupTarget>) -> Result<String, WireError> {
    let target = target_or_root("spec.target", target)?;
    let of_v2 = "a cgroup of cgroup v2";
    if let Target::Path { hierarchy, .. } = &target
        && !hierarchy.is_empty()
    {
        return Err(WireError::invalid_field("spec.target.hierarchy", hierarchy, of_v2));
    }
    match agent.walker.walk(WalkSpec::alone(target.clone())).await {
        Ok(walked) => match walked.samples.first() {
            Some(sample) if sample.hierarchy_id == 0 => Ok(sample.path.clone()),
            Some(_) => Err(WireError::invalid_field("spec.target.path", target.to_text(), of_v2)),
            None => Err(gone(&target).into()),
        },
        Err(WalkError::NoSuchCgroup { .. }) if matches!(target, Target::Path { .. }) => Ok(target.to_text()),
        Err(error) => Err(error.into()),
    }
}

fn gone(target: &Target) -> WalkError {
    WalkError::NoSuchCgroup { field: "spec.target", target: target.to_text() }
}
