//! A subscription to what changes: the request parsed, and the stream of its parts.

use std::{hash::Hasher as _, time::Duration};

use cgfleet_proto::v1::{self, CounterForm as WireForm, ErrorReason, SubscribeResponse, SubscribeSpec};
use cgfleet_rpc::{
    subscription::{self, Subscription},
    wire_error::WireError,
};
use futures::{StreamExt as _, future, stream};
use rustc_hash::FxHasher;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{Agent, Answers, Held, events::Events, stopping, take_place};
use crate::{
    feeds::Listening,
    service::spec::target_or_root,
    stream::{Choice, CounterForm, Followed, Follower, Token},
    walker::{Target, WalkError, WalkSpec},
};

/// Opens a subscription.
pub(super) async fn subscribe(
    agent: &Agent,
    spec: SubscribeSpec,
) -> Result<Answers<SubscribeResponse>, Status> {
    let mut parsed = subscription::parse(&spec)?;
    if spec.every_tick && spec.read_mask.is_none() {
        parsed.metrics = agent.sample_metrics;
    }
    let interval = interval(agent, &parsed)?;
    let target = target_or_root("spec.target", spec.target)?;
    let resumed = token(agent, &spec.resume_token, interval)?;
    let next = spec.every_tick.then(|| first_tick(agent, parsed.start, interval)).transpose()?;
    // Who takes every tick is a server, as who gets whole ones is.
    let places = if spec.every_tick { &agent.tick_subscribers } else { &agent.subscribers };
    let place = take_place(places, agent.subscribers_max)?;
    let listening = agent.feeds.listen(interval, parsed.metrics, true).map_err(WireError::from)?;
    let path = path(agent, &target, resumed.map(|token| (token, &listening))).await?;
    let wanted = Followed {
        choice: Choice::new(path, spec.max_depth),
        workload: parsed.workload,
        metrics: parsed.metrics,
        counters: match parsed.counters {
            WireForm::Unspecified | WireForm::Cumulative => CounterForm::Cumulative,
            WireForm::Delta => CounterForm::Delta,
            WireForm::Rate => CounterForm::Rate,
        },
        dead_band: parsed.dead_band,
    };
    let token = Token {
        agent_epoch: agent.identity.agent_epoch,
        interval,
        feed: listening.feed_number(),
        spec: digest(&wanted),
        sequence: 0,
    };
    let follower = follower(agent, wanted, &listening, resumed, token)?;
    let events = Events::new(agent, follower, token);
    let held = Held { listening, _place: place };
    let changes = stream::unfold((held, events), move |(mut held, mut events)| async move {
        let change = loop {
            if let Some(change) = events.next() {
                break change;
            }
            match (next, events.sequence()) {
                (None, at) => events.advance(&held.listening.after(at).await),
                (Some(NextTick::Newest), None) => events.advance(&held.listening.after(None).await),
                (Some(NextTick::From(first)), None) => {
                    let (first, missed) = held.listening.next(first).await;
                    events.begin_at(&first, missed);
                }
                (Some(_), Some(at)) => {
                    let (next, _) = held.listening.next(at.saturating_add(1)).await;
                    events.advance(&[next]);
                }
            }
        };
        let event = Some(v1::subscribe_response::Event::Change(v1::ChangeEvent { event: Some(change) }));
        Some((SubscribeResponse { event }, (held, events)))
    });
    let changes = changes.take_until(agent.shutdown.clone().cancelled_owned());
    Ok(Box::pin(changes.map(Ok).chain(stream::once(future::ready(Err(stopping().into()))))))
}

/// With what a stream of every tick begins.
#[derive(Clone, Copy)]
enum NextTick {
    Newest,
    From(u64),
}

/// Where to begin. Of another agent process that is the oldest tick that there is.
fn first_tick(agent: &Agent, start: Option<(Uuid, u64)>, interval: Duration) -> Result<NextTick, WireError> {
    let Some((agent_epoch, sequence)) = start else { return Ok(NextTick::Newest) };
    if agent_epoch != agent.identity.agent_epoch {
        return Ok(NextTick::From(0));
    }
    let next = agent.feeds.next_sequence(interval);
    if sequence > next {
        let allowed = format!("at most {next}, the tick that comes next");
        return Err(WireError::invalid_field("spec.start.sequence", sequence, allowed));
    }
    Ok(NextTick::From(sequence))
}

/// The follower that begins anew, or goes on behind the token that it brought; `token` is what this
/// subscription's are like.
fn follower(
    agent: &Agent,
    wanted: Followed,
    listening: &Listening,
    resumed: Option<Token>,
    token: Token,
) -> Result<Follower, WireError> {
    let Some(resumed) = resumed else { return Ok(Follower::new(wanted)) };
    if resumed.feed == token.feed && resumed.spec != token.spec {
        let allowed = "that of a stream with the same spec; leave it out to begin anew";
        return Err(WireError::invalid_field("spec.resume_token", resumed, allowed));
    }
    let at = listening.get(resumed.sequence).filter(|_| resumed.feed == token.feed);
    let at =
        at.ok_or_else(|| expired("the agent's history does not reach back to it (history_bytes_max)"))?;
    Ok(Follower::resumed(wanted, at, |path| agent.workloads.of(path)))
}

fn expired(why: &str) -> WireError {
    let message = format!("spec.resume_token: {why}: subscribe anew, without it");
    WireError::new(Code::OutOfRange, ErrorReason::ResumeExpired, message).with("field", "spec.resume_token")
}

/// Tells what is wanted from anything else; in one process the same is told the same.
fn digest(wanted: &Followed) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(format!("{wanted:?}").as_bytes());
    hasher.finish()
}

fn interval(agent: &Agent, parsed: &Subscription) -> Result<Duration, WireError> {
    let Some(interval) = parsed.interval else { return Ok(agent.sample_interval) };
    let min = agent.subscribe_interval_min.min(agent.sample_interval);
    if interval >= min {
        return Ok(interval);
    }
    let allowed = format!("{min:?} (subscribe_interval_min) to 1h");
    Err(WireError::invalid_field("spec.interval", format!("{interval:?}"), allowed))
}

/// Where to go on, if the request says so.
fn token(agent: &Agent, text: &str, interval: Duration) -> Result<Option<Token>, WireError> {
    if text.is_empty() {
        return Ok(None);
    }
    let refused = |allowed: &str| WireError::invalid_field("spec.resume_token", text, allowed);
    let token: Token = text.parse().map_err(|_| refused("Bookmark.resume_token of an earlier stream"))?;
    // Before its interval: that of the agent's configuration may be another one since.
    if token.agent_epoch != agent.identity.agent_epoch {
        return Err(expired("the agent was started anew since"));
    }
    if token.interval != interval {
        return Err(refused("that of a stream with the same spec; this one has another interval"));
    }
    Ok(Some(token))
}

/// The target's path as text. One that is given by path need not exist; one by id may be gone since the
/// snapshot where the stream goes on.
async fn path(
    agent: &Agent,
    target: &Target,
    resumed: Option<(Token, &Listening)>,
) -> Result<String, WireError> {
    if let (Target::Id(cgroup_id), Some((token, listening))) = (target, resumed) {
        let at = listening.get(token.sequence);
        if let Some(row) = at.as_ref().and_then(|at| at.row(*cgroup_id)) {
            return Ok(row.sample.path.clone());
        }
    }
    match agent.walker.walk(WalkSpec::alone(target.clone())).await {
        Ok(walked) => match walked.samples.first() {
            Some(sample) if sample.hierarchy_id == 0 => Ok(sample.path.clone()),
            Some(_) => {
                let of_v2 = "a cgroup of cgroup v2";
                Err(WireError::invalid_field("spec.target.path", target.to_text(), of_v2))
            }
            None => Err(gone(target).into()),
        },
        Err(WalkError::NoSuchCgroup { .. }) if matches!(target, Target::Path { .. }) => Ok(normal(target)),
        Err(error) => Err(error.into()),
    }
}

/// A path as its cgroup will have it.
fn normal(target: &Target) -> String {
    let text = target.to_text();
    let names = text.split('/').filter(|name| !name.is_empty() && *name != ".");
    let path: String = names.flat_map(|name| ["/", name]).collect();
    if path.is_empty() { "/".to_owned() } else { path }
}

fn gone(target: &Target) -> WalkError {
    WalkError::NoSuchCgroup { field: "spec.target", target: target.to_text() }
}
