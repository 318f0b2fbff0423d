//! Ticks while Postgres is away: into the spool, and from it into the store, in order and once.

use std::{path::Path, sync::Arc, time::Duration};

use cgfleet_proto::v1::CgroupSample;
use cgfleet_server::{
    ingest::{HostIngest, IngestError, IngestHandle, IngestWriter, Spooling, Stored, Tick},
    spool::{Spool, SpoolLimits, StateSpace},
    store::{Store, StoreLimits},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{TestDatabase, at, id, sample, tick},
    interrupting_proxy::InterruptingProxy,
};

/// A writer with a spool, before a database that can be cut off.
struct Server {
    handle: IngestHandle,
    spool: Arc<Spool>,
    shutdown: CancellationToken,
    writer: JoinHandle<()>,
}

impl Server {
    async fn start(database: &TestDatabase, proxy: &InterruptingProxy, dir: &Path, bytes_max: u64) -> Self {
        let limits = StoreLimits { acquire_timeout: Duration::from_millis(300), ..StoreLimits::default() };
        let store = Store::connect(&database.database_at(proxy.socket_dir()), limits).await.unwrap();
        let limits = SpoolLimits { bytes_max, space: StateSpace::new(dir.to_owned(), 0) };
        let (spool, damage) = Spool::open(dir, limits).unwrap();
        assert_eq!(damage, []);
        let spool = Arc::new(spool);
        let spooling =
            Spooling { spool: Some(Arc::clone(&spool)), after: Duration::from_millis(50), store_space: None };
        let shutdown = CancellationToken::new();
        let (handle, writer) = IngestWriter::spooling(store, spooling, shutdown.clone());
        Self { handle, spool, shutdown, writer: tokio::spawn(writer.run()) }
    }

    /// Ends it, and lets go of the spool.
    async fn stop(self) {
        self.shutdown.cancel();
        self.writer.await.unwrap();
        drop(self.handle);
        let spool = Arc::into_inner(self.spool);
        assert!(spool.is_some(), "somebody has the spool still");
    }

    async fn drained(&self) {
        let mut changes = self.spool.changes();
        while self.spool.held().is_some() {
            changes.changed().await.unwrap();
        }
    }
}

async fn fixture() -> (TestDatabase, InterruptingProxy, TempDir) {
    let database = TestDatabase::create();
    database.store().await.close().await;
    let proxy = InterruptingProxy::start(database.socket_dir());
    (database, proxy, tempfile::tempdir_in("/tmp").unwrap())
}

fn tick_of(sequence: u64) -> Tick {
    tick(7, sequence, vec![sample(5, sequence), sample(100 + sequence, 1)])
}

async fn store(host: &mut HostIngest, sequence: u64) {
    let stored = host.store(tick_of(sequence)).await.unwrap();
    assert_eq!(stored, Stored::Appended { tick_at: at(10 * sequence), gap: None });
}

/// What is stored: sequences by host in the order of time, all rows, and rows of gaps.
fn stored(database: &TestDatabase) -> String {
    database.sql(
        "select string_agg(line, '; ' order by line) from (
             select right(host_id::text, 1) || ': ' || string_agg(sequence::text, ' ' order by tick_at) as line
             from head
             group by host_id
             union all
             select 'gaps: ' || count(*) from gap
         ) as lines",
    )
}

#[tokio::test]
async fn an_outage_leaves_no_trace_in_the_store() {
    let (database, proxy, dir) = fixture().await;
    let server = Server::start(&database, &proxy, dir.path(), 1 << 20).await;
    let mut host = server.handle.open(id(1)).await.unwrap();
    let mut other = server.handle.open(id(2)).await.unwrap();
    store(&mut host, 0).await;
    store(&mut other, 0).await;
    // The first tick makes partitions, and may have been spooled for that.
    server.drained().await;
    assert_eq!(server.handle.backlog().failing, None);
    proxy.cut(true);
    for sequence in 1..70 {
        store(&mut host, sequence).await;
    }
    store(&mut other, 1).await;
    let backlog = server.handle.backlog();
    assert!(backlog.failing.is_some() && backlog.spool_bytes > 0, "{backlog:?}");
    assert_eq!(backlog.spooled.map(|held| held.ticks), Some(70));
    let of_host = server.handle.backlog_of(id(1));
    assert_eq!(of_host.spooled.map(|held| (held.ticks, held.since)), Some((69, at(10))));
    assert_eq!(stored(&database), "1: 0; 2: 0; gaps: 0");

    proxy.cut(false);
    // While it is drained, its ticks go behind the others, and another host's go straight.
    store(&mut host, 70).await;
    store(&mut other, 2).await;
    server.drained().await;
    store(&mut host, 71).await;
    let sequences = (0..72).map(|sequence| sequence.to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(stored(&database), format!("1: {sequences}; 2: 0 1 2; gaps: 0"));
    let backlog = server.handle.backlog();
    assert_eq!((backlog.failing, backlog.spooled, backlog.spool_bytes), (None, None, 0));
    assert_eq!(backlog.ticks_dropped, 0);
    // Every cgroup of every tick is known by name.
    assert_eq!(database.sql("select count(*) from cgroup"), "77");
    drop((host, other));
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_starts_stores_what_another_spooled_before_it_opens_the_stream() {
    let (database, proxy, dir) = fixture().await;
    let server = Server::start(&database, &proxy, dir.path(), 1 << 20).await;
    let mut host = server.handle.open(id(1)).await.unwrap();
    store(&mut host, 0).await;
    // The first tick makes partitions, and may have been spooled for that.
    server.drained().await;
    proxy.cut(true);
    for sequence in 1..9 {
        store(&mut host, sequence).await;
    }
    drop(host);
    server.stop().await;
    assert_eq!(stored(&database), "1: 0; gaps: 0");

    proxy.cut(false);
    let server = Server::start(&database, &proxy, dir.path(), 1 << 20).await;
    let mut host = server.handle.open(id(1)).await.unwrap();
    assert_eq!(host.cursor().map(|cursor| cursor.next_seq), Some(9));
    assert_eq!(host.store(tick_of(8)).await.unwrap(), Stored::Duplicate);
    store(&mut host, 9).await;
    assert_eq!(stored(&database), "1: 0 1 2 3 4 5 6 7 8 9; gaps: 0");
    drop(host);
    server.stop().await;
}

#[tokio::test]
async fn what_was_fenced_meanwhile_is_dropped_and_counted_and_the_rest_is_stored() {
    let (database, proxy, dir) = fixture().await;
    let server = Server::start(&database, &proxy, dir.path(), 1 << 20).await;
    let mut host = server.handle.open(id(1)).await.unwrap();
    let mut other = server.handle.open(id(2)).await.unwrap();
    store(&mut host, 0).await;
    // The first tick makes partitions, and may have been spooled for that.
    server.drained().await;
    proxy.cut(true);
    for sequence in 1..4 {
        store(&mut host, sequence).await;
    }
    // No path that Postgres can hold, and what follows it follows nothing.
    let refused = CgroupSample { path: "/not\0fine".to_owned(), ..sample(5, 1) };
    other.store(tick(7, 0, vec![refused])).await.unwrap();
    other.store(tick_of(1)).await.unwrap();
    // Elsewhere, the first host's stream is opened, which the spooled ticks do not know of.
    let elsewhere = database.store().await;
    elsewhere.open_stream(id(1)).await.unwrap();
    proxy.cut(false);
    server.drained().await;
    assert_eq!(server.handle.backlog().ticks_dropped, 5);
    let mut third = server.handle.open(id(3)).await.unwrap();
    store(&mut third, 0).await;
    assert_eq!(stored(&database), "1: 0; 3: 0; gaps: 0");
    for host in [&mut host, &mut other] {
        let fenced = host.store(tick_of(4)).await;
        assert!(matches!(fenced, Err(IngestError::Fenced { .. })), "{fenced:?}");
    }
    let mut host = server.handle.open(id(1)).await.unwrap();
    store(&mut host, 1).await;
}

#[tokio::test]
async fn a_full_spool_slows_the_stream_and_loses_nothing() {
    let (database, proxy, dir) = fixture().await;
    let server = Server::start(&database, &proxy, dir.path(), 3_000).await;
    let mut host = server.handle.open(id(1)).await.unwrap();
    store(&mut host, 0).await;
    // The first tick makes partitions, and may have been spooled for that.
    server.drained().await;
    proxy.cut(true);
    let storing = tokio::spawn(async move {
        for sequence in 1..60 {
            store(&mut host, sequence).await;
        }
    });
    // Until a tick waits that has no place.
    let stalled = async {
        let has_waited = || {
            let waiting = server.handle.backlog_of(id(1)).waiting_since;
            waiting.is_some_and(|since| since.elapsed().unwrap_or_default() > Duration::from_millis(500))
        };
        while !has_waited() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stalled).await.unwrap();
    let held = server.spool.held().map_or(0, |held| held.ticks);
    assert!((3..40).contains(&held) && server.spool.bytes() <= 3_000, "{held} {}", server.spool.bytes());
    assert!(!storing.is_finished());
    proxy.cut(false);
    storing.await.unwrap();
    server.drained().await;
    let sequences = (0..60).map(|sequence| sequence.to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(stored(&database), format!("1: {sequences}; gaps: 0"));
}
