//! Ticks with times of one's own choice, through the server's own ingest: hours of data without waiting for them.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use cgfleet_model::{Metric, MetricSet};
use cgfleet_proto::v1::CgroupSample;
use cgfleet_server::{
    ingest::{IngestHandle, IngestWriter, Tick},
    store::{Database, HostRecord, Store, StoreLimits},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    psql::Psql,
    victoria::{Series, Victoria},
    wide::WideCopy,
};
use crate::bench::Bench;

/// What the private Postgres listens on, in its socket's name.
const PORT: u16 = 5432;
/// Points that are held of each series, until they are sent on.
const COLUMN_POINTS: usize = 360;

/// Writes to the store beside the server.
pub(super) struct Filler<'a> {
    bench: &'a Bench,
    store: Store,
    handle: IngestHandle,
    shutdown: CancellationToken,
}

/// A host's ticks.
pub(super) struct HostTicks<'a> {
    pub(super) hostname: &'a str,
    /// Its number in the wide table.
    pub(super) number: i32,
    pub(super) first_at: SystemTime,
    pub(super) interval: Duration,
}

/// Who else gets the same.
#[derive(Default)]
pub(super) struct Others<'a, 'b> {
    pub(super) victoria: Option<&'a Victoria>,
    pub(super) wide: Option<&'a mut WideCopy<'b>>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(bench: &'a Bench, psql: &Psql) -> Result<Self> {
        let database = Database::Socket {
            socket_dir: psql.socket_dir().to_owned(),
            port: PORT,
            role: "cgfleet".to_owned(),
            name: "cgfleet".to_owned(),
        };
        let shutdown = CancellationToken::new();
        let store = bench.block_on(Store::connect(&database, StoreLimits::default()))?;
        let (handle, writer) = IngestWriter::new(store.clone(), shutdown.clone());
        bench.spawn(writer.run());
        Ok(Self { bench, store, handle, shutdown })
    }

    /// Stores a host's ticks, and gives them to the others; how many samples there were.
    pub(super) fn host(
        &self,
        host: &HostTicks<'_>,
        ticks: impl Iterator<Item = Vec<CgroupSample>>,
        mut others: Others<'_, '_>,
    ) -> Result<u64> {
        let (host_id, boot_id, agent_epoch) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::now_v7());
        let record = HostRecord {
            host_id,
            boot_id,
            agent_epoch,
            hostname: host.hostname.to_owned(),
            // Nobody is there: this host was.
            address: "127.0.0.1:1".to_owned(),
            kernel_release: "simulated".to_owned(),
            agent_version: "simulated".to_owned(),
        };
        self.bench.block_on(self.store.register_host(&record))?;
        let mut ingest = self.bench.block_on(self.handle.open(host_id))?;
        let mut columns = Columns::default();
        let mut count = 0;
        for (sequence, samples) in (0_u64..).zip(ticks) {
            self.bench.pause(Duration::ZERO)?;
            let since = host.interval * u32::try_from(sequence)?;
            let at = host.first_at + since;
            count += samples.len() as u64;
            let at_usec = i64::try_from(at.duration_since(SystemTime::UNIX_EPOCH)?.as_micros())?;
            if let Some(wide) = &mut others.wide {
                wide.add(host.number, at_usec, samples.iter())?;
            }
            if let Some(victoria) = others.victoria {
                columns.add(at_usec / 1000, &samples);
                if columns.points >= COLUMN_POINTS {
                    columns.send(victoria, host.hostname)?;
                }
            }
            let boottime = Duration::from_secs(1000) + since;
            let tick = Tick {
                agent_epoch,
                sequence,
                boot_id,
                boottime,
                sampled_at: at,
                sent_boottime: boottime,
                received_at: at,
                missed: false,
                is_whole: true,
                samples,
                removed: Vec::new(),
            };
            self.bench.block_on(async {
                while !ingest.has_room() {
                    ingest.settle().await?;
                }
                ingest.submit(tick)
            })?;
        }
        while ingest.is_underway() {
            self.bench.block_on(ingest.settle())?;
        }
        if let Some(victoria) = others.victoria {
            columns.send(victoria, host.hostname)?;
        }
        Ok(count)
    }
}

impl Drop for Filler<'_> {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Values of a metric, each with its time in milliseconds since the Unix epoch.
type Points = Vec<(i64, u64)>;

/// A host's values by series.
#[derive(Default)]
struct Columns {
    /// By cgroup: its path, and points of each metric that it has.
    cgroups: HashMap<u64, (String, HashMap<Metric, Points>)>,
    points: usize,
}

impl Columns {
    fn add(&mut self, at_ms: i64, samples: &[CgroupSample]) {
        self.points += 1;
        for sample in samples {
            let new = || (sample.path.clone(), HashMap::new());
            let (_, metrics) = self.cgroups.entry(sample.cgroup_id).or_insert_with(new);
            for metric in MetricSet::all().iter() {
                if let Some(value) = sample.metric(metric) {
                    metrics.entry(metric).or_insert_with(Vec::new).push((at_ms, value));
                }
            }
        }
    }

    fn send(&mut self, victoria: &Victoria, host: &str) -> Result<()> {
        let mut import = victoria.import();
        for (path, metrics) in self.cgroups.values() {
            for (metric, points) in metrics {
                import.add(&Series { metric: metric.name(), host, path, points })?;
            }
        }
        import.finish().context("import into victoria-metrics")?;
        *self = Self::default();
        Ok(())
    }
}
