//! A subscription: every tick of the sampler, or every n-th, as one stream.

use std::{sync::Arc, time::Duration};

use cgfleet_proto::v1::{
    ErrorReason, SampleBatch, SubscribeRequest, SubscribeResponse, TickHeader, subscribe_response::Event,
};
use cgfleet_rpc::wire_error::WireError;
use futures::{StreamExt as _, future, stream};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Code, Status};

use super::{Agent, Answers, BATCH_ROWS};
use crate::{identity::Identity, sampler::Tick};

/// Opens a subscription.
pub(super) fn subscribe(
    agent: &Agent,
    request: &SubscribeRequest,
) -> Result<Answers<SubscribeResponse>, Status> {
    let every = ticks_apart(request.interval.as_ref(), agent.sampler.interval())?;
    let place = Arc::clone(&agent.subscribers).try_acquire_owned().map_err(|_| {
        let message = format!("{} subscriptions are open already (subscribers_max)", agent.subscribers_max);
        WireError::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
            .with("limit", "subscribers_max")
            .with("value", agent.subscribers_max)
    })?;
    let identity = agent.identity.clone();
    let ticks = BroadcastStream::new(agent.sampler.subscribe())
        .take_until(agent.shutdown.clone().cancelled_owned())
        .filter_map(move |tick| future::ready(wanted(tick, every)))
        .flat_map(move |tick| {
            // The place is taken until the stream ends.
            let _ = &place;
            stream::iter(messages(&identity, tick))
        });
    let stopping = WireError::new(Code::Unavailable, ErrorReason::ShuttingDown, "the agent is stopping");
    Ok(Box::pin(ticks.map(Ok).chain(stream::once(future::ready(Err(stopping.into()))))))
}

/// The tick, unless this subscription leaves it out or was too slow for it.
fn wanted(tick: Result<Arc<Tick>, BroadcastStreamRecvError>, every: u64) -> Option<Arc<Tick>> {
    match tick {
        Ok(tick) => tick.sequence.is_multiple_of(every).then_some(tick),
        Err(BroadcastStreamRecvError::Lagged(ticks)) => {
            tracing::debug!(ticks, "a subscriber is too slow and misses ticks");
            None
        }
    }
}

/// How many sample intervals make the interval that was asked for.
fn ticks_apart(asked: Option<&prost_types::Duration>, interval: Duration) -> Result<u64, WireError> {
    let Some(asked) = asked else { return Ok(1) };
    let refused = || {
        let allowed = format!("a whole multiple of the agent's sample_interval, {interval:?}");
        WireError::invalid_field("interval", asked, allowed)
    };
    let nanos = Duration::try_from(*asked).map_err(|_| refused())?.as_nanos();
    if nanos == 0 || !nanos.is_multiple_of(interval.as_nanos()) {
        return Err(refused());
    }
    u64::try_from(nanos / interval.as_nanos()).map_err(|_| refused())
}

/// The messages of a tick, each made as it is sent: the tick is shared, and large.
fn messages(identity: &Identity, tick: Arc<Tick>) -> impl Iterator<Item = SubscribeResponse> + use<> {
    let header = TickHeader {
        host_id: identity.host_id.to_string(),
        boot_id: identity.boot_id.to_string(),
        agent_epoch: identity.agent_epoch.to_string(),
        sequence: tick.sequence,
        boottime_ns: u64::try_from(tick.boottime.as_nanos()).unwrap_or(u64::MAX),
        sampled_at: Some(tick.sampled_at.into()),
    };
    let summary = tick.walked.summary.clone();
    let count = tick.walked.samples.len();
    let batches = (0..count).step_by(BATCH_ROWS).map(move |first| {
        let samples = tick.walked.samples[first..count.min(first + BATCH_ROWS)].to_vec();
        Event::Batch(SampleBatch { samples })
    });
    let events = [Event::Header(header)].into_iter().chain(batches).chain([Event::Summary(summary)]);
    events.map(|event| SubscribeResponse { event: Some(event) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_whole_multiple() {
        let check = |asked_ms: Option<i64>, expect: Option<u64>| {
            let asked = asked_ms.map(|ms| prost_types::Duration {
                seconds: ms / 1000,
                nanos: i32::try_from(ms % 1000).unwrap() * 1_000_000,
            });
            assert_eq!(ticks_apart(asked.as_ref(), Duration::from_millis(200)).ok(), expect, "{asked_ms:?}");
        };
        check(None, Some(1));
        check(Some(200), Some(1));
        check(Some(1000), Some(5));
        check(Some(300), None);
        check(Some(0), None);
        check(Some(-200), None);
    }
}
