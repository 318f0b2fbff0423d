//! Scenario `stream`: how long a change takes from the kernel to a subscriber, beside a bare tonic stream of the
//! same bytes, and what each further subscriber costs the agent.

mod bare;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    SubscribeRequest, SubscribeResponse, SubscribeSpec, change_event::Event, subscribe_response,
};
use prost::Message as _;
use prost_types::FieldMask;
use tonic::Streaming;

use super::{
    Bench, Figure, Row,
    figure::p99,
    process::Process,
    trees::{Grown, Shape},
};
use crate::{
    daemon::{Daemon, Start},
    walk::by_path,
};
use bare::Bare;

/// With its top, 100 rows, of which a worker in the lowest cgroup changes all.
const CHAIN: Shape = Shape { name: "100 rows", below_top: 99, is_chain: true, rounds: 12 };
const INTERVAL: Duration = Duration::from_millis(100);
/// Of each round.
const TICKS: usize = 25;
const P50_REACH: f64 = 2.0;
const P99_REACH: f64 = 4.0;
const OURS: &str = "from the end of the kernel's read to the client";
const BARE: &str = "a bare tonic stream of the same bytes";
const EXTRA_SUBSCRIBERS: u32 = 64;

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut grown = CHAIN.grow()?;
    let lowest = grown.directories.last().context("no chain")?.clone();
    let below = lowest.strip_prefix(grown.tree.directory(""))?.display().to_string();
    grown.tree.work_in(&below)?;
    let start = Start::agent()?
        .flag("--sample-interval", "100ms")
        .flag("--subscribers-max", "256")
        .flag("--log", "info");
    let agent = bench.block_on(start.start())?;
    let mut rows = latency(bench, &agent, &grown)?;
    rows.push(extra_subscriber(bench, &agent, &grown)?);
    Ok(rows)
}

/// Both streams by turns.
fn latency(bench: &Bench, agent: &Daemon, grown: &Grown) -> Result<Vec<Row>> {
    let mut changes = bench.block_on(Changes::subscribe(agent, grown))?;
    let (message, _) = bench.block_on(changes.next())?;
    println!("a message of {} bytes every {INTERVAL:?}", message.encoded_len());
    let bare = Bare::start(message, INTERVAL)?;
    let mut bare = bench.block_on(bare.subscribe())?;
    let rounds = bench.rounds(CHAIN.rounds, || {
        bench.block_on(async {
            let mut times = Times::default();
            // What came while the other one was measured is not as fresh as it was.
            changes.skip_late().await?;
            for _ in 0..TICKS {
                times.ours.push(micros(changes.next().await?.1));
            }
            bare.skip_late(INTERVAL).await?;
            for _ in 0..TICKS {
                times.bare.push(micros(bare.next().await?));
            }
            Ok(times)
        })
    })?;
    let (ours, bare): (Vec<_>, Vec<_>) = rounds.into_iter().map(|times| (times.ours, times.bare)).unzip();
    let (ours, bare) = (Distribution::of(OURS, &ours), Distribution::of(BARE, &bare));
    Ok(vec![
        bare.p50.row(),
        ours.p50.row_against(&bare.p50).reach(P50_REACH),
        bare.p99.row(),
        ours.p99.row_against(&bare.p99).reach(P99_REACH),
    ])
}

/// What one round measured.
#[derive(Default)]
struct Times {
    ours: Vec<f64>,
    bare: Vec<f64>,
}

/// The middle of each round, and what one of a hundred exceeds in all of them.
struct Distribution {
    p50: Figure,
    p99: Figure,
}

impl Distribution {
    fn of(what: &str, rounds: &[Vec<f64>]) -> Self {
        let figure =
            |which: &str, values| Figure::new(format!("{}: {what}, {which}", CHAIN.name), "us", values);
        let p50 = figure("p50", rounds.iter().map(|round| median(round.clone())).collect());
        let p99 = figure("p99 of all rounds", vec![p99(rounds.concat())]);
        Self { p50, p99 }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time of the agent with one subscriber, and with many.
fn extra_subscriber(bench: &Bench, agent: &Daemon, grown: &Grown) -> Result<Row> {
    let process = Process::new(agent.pid());
    let on_cpu = || anyhow::Ok(process.cpu_time()?.values().sum::<Duration>());
    let mut one = bench.block_on(Changes::subscribe(agent, grown))?;
    let rounds = bench.rounds(CHAIN.rounds / 2, || {
        let mut spent = [Duration::ZERO; 2];
        for (subscribers, spent) in [0, EXTRA_SUBSCRIBERS].into_iter().zip(&mut spent) {
            bench.block_on(one.take(1))?;
            let extra = (0..subscribers).map(|_| {
                let mut changes = bench.block_on(Changes::subscribe(agent, grown))?;
                Ok(bench.spawn(async move { changes.take(usize::MAX).await }))
            });
            let extra = extra.collect::<Result<Vec<_>>>()?;
            // Those who begin are sent everything at first.
            bench.block_on(one.take(2))?;
            let before = on_cpu()?;
            bench.block_on(one.take(TICKS))?;
            *spent = on_cpu()?.saturating_sub(before);
            extra.iter().for_each(tokio::task::JoinHandle::abort);
        }
        let rows =
            f64::from(CHAIN.cgroups()) * f64::from(EXTRA_SUBSCRIBERS) * f64::from(u32::try_from(TICKS)?);
        let extra = spent[1].as_secs_f64() - spent[0].as_secs_f64();
        Ok(extra * 1e9 / rows)
    })?;
    Ok(Figure::new(format!("{}: each row to each further subscriber", CHAIN.name), "ns", rounds).row())
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A subscription to the chain.
struct Changes {
    stream: Streaming<SubscribeResponse>,
    rows: usize,
}

impl Changes {
    async fn subscribe(agent: &Daemon, grown: &Grown) -> Result<Self> {
        let spec = SubscribeSpec {
            target: Some(by_path(grown.tree.path(""))),
            read_mask: Some(FieldMask { paths: vec!["cpu.usage_usec".to_owned()] }),
            ..SubscribeSpec::default()
        };
        let request = SubscribeRequest { interval: None, changes: Some(spec) };
        let mut changes = Self {
            stream: agent.agent()?.subscribe(request).await?.into_inner(),
            rows: grown.directories.len(),
        };
        while !matches!(changes.event().await?.1, Event::Synced(_)) {}
        Ok(changes)
    }

    async fn event(&mut self) -> Result<(SubscribeResponse, Event)> {
        let message = self.stream.message().await?.context("the stream ended")?;
        match &message.event {
            Some(subscribe_response::Event::Change(change)) => {
                let event = change.event.clone().context("an empty change")?;
                Ok((message, event))
            }
            other => anyhow::bail!("not a change: {other:?}"),
        }
    }

    /// The next message of all rows, and how long it took since the kernel had read them.
    async fn next(&mut self) -> Result<(SubscribeResponse, Duration)> {
        let mut whole = None;
        loop {
            let (message, event) = self.event().await?;
            match event {
                Event::Update(batch) if batch.samples.len() == self.rows => {
                    whole = Some((message, SystemTime::now()));
                }
                Event::Bookmark(bookmark) => {
                    ensure!(bookmark.merged_ticks == 0, "ticks came merged");
                    let Some((message, received_at)) = whole.take() else { continue };
                    let summary = bookmark.summary.context("no summary")?;
                    let read_at = SystemTime::try_from(summary.read_at.context("no read_at")?)?;
                    let read = read_at + Duration::from_nanos(summary.walk_ns);
                    return Ok((message, received_at.duration_since(read)?));
                }
                _ => whole = None,
            }
        }
    }

    /// Takes so many ticks, whatever is in them.
    async fn take(&mut self, ticks: usize) -> Result<()> {
        for _ in 0..ticks {
            while !matches!(self.event().await?.1, Event::Bookmark(_)) {}
        }
        Ok(())
    }

    /// Takes what waits, until one comes that was waited for.
    async fn skip_late(&mut self) -> Result<()> {
        loop {
            let asked = std::time::Instant::now();
            self.take(1).await?;
            if asked.elapsed() > INTERVAL / 4 {
                return Ok(());
            }
        }
    }
}
