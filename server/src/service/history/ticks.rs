//! Ticks as they were, host by host.

use cgfleet_proto::v1::{HistoryPoint, HistoryPoints, query_history_response::Event};

use super::{
    Ended, Out,
    request::Question,
    series::Chosen,
    wire::{VALUES_MAX, gap_event},
};
use crate::store::{HistoryEvent, Store};

/// Answers with ticks.
pub(super) async fn answer(
    store: &Store,
    question: &Question,
    chosen: Chosen,
    out: &mut Out,
) -> Result<(), Ended> {
    let mut cgroups = chosen.cgroups.unwrap_or_default();
    out.progress.chose(cgroups.values().map(Vec::len).sum());
    for host in &question.hosts {
        let (host_id, hostname) = (host.host_id(), host.record().hostname);
        // A host without any of the cgroups has nothing to say; one that was asked for by name says its gaps.
        let Some(of_host) = cgroups.remove(&host_id) else { continue };
        let identities = of_host.into_iter().map(|cgroup| cgroup.identity).collect();
        let mut reader = store.history(host_id, identities, question.range).of(question.metrics);
        let empty =
            || HistoryPoints { points: Vec::new(), host_id: host_id.to_string(), hostname: hostname.clone() };
        while let Some(page) = reader.next_page().await? {
            out.progress.read(reader.take_reads());
            let mut points = empty();
            for event in page {
                match event {
                    HistoryEvent::Gap(gap) => {
                        send_points(std::mem::replace(&mut points, empty()), out).await?;
                        out.send(gap_event(gap, host_id, &hostname)).await?;
                    }
                    HistoryEvent::Point { tick_at, mut sample } => {
                        sample.keep_only(question.metrics);
                        points
                            .points
                            .push(HistoryPoint { tick_at: Some(tick_at.into()), sample: Some(*sample) });
                        if points.points.len() >= VALUES_MAX {
                            send_points(std::mem::replace(&mut points, empty()), out).await?;
                        }
                    }
                }
            }
            send_points(points, out).await?;
        }
    }
    Ok(())
}

async fn send_points(points: HistoryPoints, out: &mut Out) -> Result<(), Ended> {
    if points.points.is_empty() { Ok(()) } else { out.send(Event::Points(points)).await }
}
