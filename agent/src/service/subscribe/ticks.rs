//! A subscription to whole ticks: every one of the agent's own interval, or every n-th.

use std::{sync::Arc, time::Duration};

use cgfleet_model::MetricSet;
use cgfleet_proto::v1::{SampleBatch, SubscribeResponse, TickHeader, subscribe_response::Event};
use cgfleet_rpc::wire_error::WireError;
use futures::{StreamExt as _, future, stream};
use tonic::Status;

use super::{Agent, Answers, Held, stopping, take_place};
use crate::{identity::Identity, service::BATCH_ROWS, stream::Snapshot};

/// Opens a subscription.
pub(super) fn subscribe(
    agent: &Agent,
    interval: Option<&prost_types::Duration>,
) -> Result<Answers<SubscribeResponse>, Status> {
    let every = ticks_apart(interval, agent.sample_interval)?;
    let place = take_place(&agent.tick_subscribers, agent.subscribers_max)?;
    let (identity, metrics) = (agent.identity.clone(), agent.sample_metrics);
    let listening = agent.feeds.listen(agent.sample_interval, metrics, false).map_err(WireError::from)?;
    let held = Held { listening, _place: place };
    let ticks = stream::unfold((held, None), move |(mut held, last)| async move {
        let snapshot = next(&mut held, last, every).await;
        let sequence = snapshot.sequence;
        Some((snapshot, (held, Some(sequence))))
    });
    let messages = ticks
        .take_until(agent.shutdown.clone().cancelled_owned())
        .flat_map(move |snapshot| stream::iter(messages(&identity, snapshot, metrics)));
    Ok(Box::pin(messages.map(Ok).chain(stream::once(future::ready(Err(stopping().into()))))))
}

/// The next tick behind `last` that this subscription wants, of those that are still there.
async fn next(held: &mut Held, mut last: Option<u64>, every: u64) -> Arc<Snapshot> {
    loop {
        let newer = held.listening.after(last).await;
        last = newer.last().map(|newest| newest.sequence);
        if let Some(wanted) = newer.into_iter().find(|snapshot| snapshot.sequence.is_multiple_of(every)) {
            return wanted;
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
fn messages(
    identity: &Identity,
    tick: Arc<Snapshot>,
    metrics: MetricSet,
) -> impl Iterator<Item = SubscribeResponse> + use<> {
    let header = TickHeader {
        host_id: identity.host_id.to_string(),
        boot_id: identity.boot_id.to_string(),
        agent_epoch: identity.agent_epoch.to_string(),
        sequence: tick.sequence,
        boottime_ns: u64::try_from(tick.boottime.as_nanos()).unwrap_or(u64::MAX),
        sampled_at: Some(tick.sampled_at.into()),
    };
    let summary = tick.summary.clone();
    let count = tick.met().len();
    let batches = (0..count).step_by(BATCH_ROWS).map(move |first| {
        let rows = &tick.met()[first..count.min(first + BATCH_ROWS)];
        let mut samples: Vec<_> = rows.iter().map(|row| (*row.sample).clone()).collect();
        if tick.metrics != metrics {
            // Somebody else of this interval wants more.
            for sample in &mut samples {
                sample.keep_only(metrics);
            }
        }
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
