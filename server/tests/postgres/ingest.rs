//! Ticks on their way through a host's stream and the writer, and back out of the history.

use std::time::{Duration, SystemTime};

use cgfleet_model::TimeRange;
use cgfleet_proto::v1::{CgroupSample, GapReason, RemovedCgroup, Workload};
use cgfleet_server::{
    ingest::{IngestError, IngestHandle, IngestWriter, Stored, Tick},
    store::{CgroupSelector, Gap, HistoryEvent, Store, StoreLimits, codec::CgroupKey},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{TestDatabase, at, id, sample, tick},
    interrupting_proxy::{Fault, InterruptingProxy},
};

fn start_writer(store: &Store) -> (IngestHandle, CancellationToken, JoinHandle<()>) {
    let shutdown = CancellationToken::new();
    let (handle, writer) = IngestWriter::new(store.clone(), shutdown.clone());
    (handle, shutdown, tokio::spawn(writer.run()))
}

/// The history of one path of host 1.
async fn history(store: &Store, path: &str, since: SystemTime, until: SystemTime) -> Vec<HistoryEvent> {
    let selector = CgroupSelector::Path { hierarchy_id: 0, path };
    let cgroups = store.find_cgroups(id(1), selector, until, 10).await.unwrap();
    let mut reader = store.history(id(1), cgroups, TimeRange::new(since, until).unwrap());
    let mut events = Vec::new();
    while let Some(page) = reader.next_page().await.unwrap() {
        events.extend(page);
    }
    events
}

fn point(tick_at: SystemTime, sample: CgroupSample) -> HistoryEvent {
    HistoryEvent::Point { tick_at, sample: Box::new(sample) }
}

/// Cgroup 5 is always there and changes in every third tick, 100 + n comes in tick n and stays for 20
/// ticks, and 1,000 to 1,200 never change.
fn busy_tick(sequence: u64) -> Tick {
    let coming_and_going = (sequence.saturating_sub(20)..=sequence).map(|n| sample(100 + n, n * sequence));
    let idle = (1_000..1_200).map(|n| sample(n, n));
    tick(7, sequence, coming_and_going.chain(idle).chain([sample(5, sequence / 3)]).collect())
}

#[tokio::test]
async fn what_is_read_back_is_what_was_stored() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    for sequence in 0..200 {
        let stored = host.store(busy_tick(sequence)).await.unwrap();
        assert_eq!(stored, Stored::Appended { tick_at: at(10 * sequence), gap: None });
    }
    let expect = |path: &str, from, to| -> Vec<HistoryEvent> {
        let of_path = |sequence| busy_tick(sequence).samples.into_iter().find(|sample| sample.path == path);
        (from..to).filter_map(|n| Some(point(at(10 * n), of_path(n)?))).collect()
    };
    let check = async |path: &str, from: u64, to: u64| {
        assert_eq!(history(&store, path, at(10 * from), at(10 * to)).await, expect(path, from, to), "{path}");
    };
    check("/cgroup-5", 0, 200).await;
    check("/cgroup-5", 59, 61).await;
    check("/cgroup-5", 137, 138).await;
    check("/cgroup-1100", 3, 199).await;
    check("/cgroup-150", 0, 200).await;
    assert_eq!(history(&store, "/cgroup-150", at(0), at(2_000)).await.len(), 21);
    assert_eq!(history(&store, "/none", at(0), at(2_000)).await, []);
    assert_eq!(history(&store, "/cgroup-5", at(2_000), at(3_000)).await, []);
    assert_eq!(database.sql("select count(*) from head where keyframe"), "4");
    assert_eq!(database.sql("select count(*) from cgroup"), "401");
    assert_eq!(store.list_hosts(None, 1).await.unwrap(), []);
}

#[tokio::test]
async fn a_cgroup_is_found_by_id_in_every_boot() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    host.store(tick(7, 0, vec![sample(5, 10)])).await.unwrap();
    let renamed = CgroupSample { path: "/other".to_owned(), ..sample(5, 1) };
    let after_reboot = Tick { boot_id: id(2), ..tick(8, 1, vec![renamed.clone()]) };
    host.store(after_reboot).await.unwrap();

    let selector = CgroupSelector::Key(CgroupKey { hierarchy_id: 0, cgroup_id: 5 });
    let found = store.find_cgroups(id(1), selector, at(100), 10).await.unwrap();
    let paths: Vec<_> = found.iter().map(|cgroup| (cgroup.boot_id, cgroup.path.as_str())).collect();
    assert_eq!(paths, [(id(2), "/other"), (id(1), "/cgroup-5")]);
    let mut reader = store.history(id(1), found, TimeRange::new(at(0), at(100)).unwrap());
    let gap = Gap { after_at: at(0), before_at: at(10), reason: GapReason::AgentRestarted };
    let expect = vec![point(at(0), sample(5, 10)), HistoryEvent::Gap(gap), point(at(10), renamed)];
    assert_eq!(reader.next_page().await.unwrap(), Some(expect));
    assert_eq!(reader.next_page().await.unwrap(), None);
}

#[tokio::test]
async fn gaps_stand_where_ticks_are_missing() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    let mut store_one = async |epoch, sequence: u64| {
        let tick = tick(epoch, sequence, vec![sample(5, sequence)]);
        match host.store(tick).await.unwrap() {
            Stored::Appended { gap, .. } => Some(gap),
            Stored::Duplicate => None,
        }
    };
    assert_eq!(store_one(7, 3).await, Some(None));
    assert_eq!(store_one(7, 4).await, Some(None));
    assert_eq!(store_one(7, 4).await, None);
    assert_eq!(store_one(7, 9).await, Some(Some(GapReason::NotReceived)));
    assert_eq!(store_one(8, 20).await, Some(Some(GapReason::AgentRestarted)));

    let points =
        |range: &[u64]| -> Vec<_> { range.iter().map(|&n| point(at(10 * n), sample(5, n))).collect() };
    let lost = HistoryEvent::Gap(Gap { after_at: at(40), before_at: at(90), reason: GapReason::NotReceived });
    let restarted =
        HistoryEvent::Gap(Gap { after_at: at(90), before_at: at(200), reason: GapReason::AgentRestarted });
    let all = history(&store, "/cgroup-5", at(0), at(1_000)).await;
    let expect = [points(&[3, 4]), vec![lost.clone()], points(&[9]), vec![restarted.clone()], points(&[20])];
    assert_eq!(all, expect.concat());
    // A gap shows wherever it and the range overlap, with no point in the range too.
    assert_eq!(history(&store, "/cgroup-5", at(50), at(60)).await, std::slice::from_ref(&lost));
    assert_eq!(history(&store, "/cgroup-5", at(91), at(150)).await, std::slice::from_ref(&restarted));
    assert_eq!(history(&store, "/cgroup-5", at(80), at(90)).await, [lost]);
    assert_eq!(history(&store, "/cgroup-5", at(90), at(91)).await, [points(&[9]), vec![restarted]].concat());
    let keyframes =
        database.sql("select string_agg(sequence::text, ' ' order by tick_at) from head where keyframe");
    assert_eq!(keyframes, "3 9 20");
}

/// Cgroup 5 grows, as told by changes.
fn changes(sequence: u64, samples: Vec<CgroupSample>, removed: Vec<RemovedCgroup>) -> Tick {
    Tick { is_whole: false, missed: false, removed, ..tick(7, sequence, samples) }
}

fn removed(sample: CgroupSample, removed_at: Option<SystemTime>) -> RemovedCgroup {
    RemovedCgroup {
        sample: Some(sample),
        created_at: removed_at.map(|_| at(1).into()),
        removed_at: removed_at.map(Into::into),
        ..RemovedCgroup::default()
    }
}

#[tokio::test]
async fn changes_are_stored_as_whole_ticks_are() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    let refused = host.store(changes(0, vec![sample(5, 0)], Vec::new())).await;
    assert!(matches!(refused, Err(IngestError::NothingToChange { sequence: 0, .. })), "{refused:?}");
    host.store(tick(7, 0, vec![sample(5, 0), sample(6, 0)])).await.unwrap();
    for sequence in 1..130 {
        assert!(host.submit(changes(sequence, vec![sample(5, sequence)], Vec::new())).unwrap());
        // A host's ticks do not wait for each other.
        if !host.has_room() {
            host.settle().await.unwrap();
        }
    }
    // The link was cut: what comes behind it is whole, and against what is stored a delta.
    host.begin_stream();
    host.store(tick(7, 130, vec![sample(5, 130), sample(6, 0)])).await.unwrap();
    let expect: Vec<_> = (0..131).map(|n| point(at(10 * n), sample(5, n))).collect();
    assert_eq!(history(&store, "/cgroup-5", at(0), at(2_000)).await, expect);
    assert_eq!(history(&store, "/cgroup-6", at(0), at(2_000)).await.len(), 131);
    assert_eq!(database.sql("select count(*) filter (where keyframe) from head"), "3");
    // What the agent did not take is no gap of the stream's.
    let stored = host.store(changes(135, vec![sample(5, 135)], Vec::new())).await.unwrap();
    assert!(matches!(stored, Stored::Appended { gap: Some(GapReason::NotTaken), .. }), "{stored:?}");
}

#[tokio::test]
async fn what_a_cgroup_used_in_the_end_is_its_last_point() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    host.store(tick(7, 0, vec![sample(5, 10), sample(6, 10), sample(7, 10)])).await.unwrap();
    let seen = Some(at(3));
    let gone = vec![removed(sample(5, 15), seen), removed(sample(6, 10), None), removed(sample(8, 3), seen)];
    host.store(changes(1, Vec::new(), gone)).await.unwrap();
    host.store(changes(2, vec![sample(7, 11), sample(6, 12)], Vec::new())).await.unwrap();
    host.store(changes(3, Vec::new(), vec![removed(sample(7, 11), None)])).await.unwrap();
    let points = async |path: &str| history(&store, path, at(0), at(1_000)).await;
    assert_eq!(points("/cgroup-5").await, [point(at(0), sample(5, 10)), point(at(10), sample(5, 15))]);
    assert_eq!(points("/cgroup-8").await, [point(at(10), sample(8, 3))], "it lived between two ticks");
    // One that was only missing, and is met again.
    assert_eq!(
        points("/cgroup-6").await,
        [(0, 10), (20, 12), (30, 12)].map(|(second, usage)| point(at(second), sample(6, usage)))
    );
    let life = "select string_agg(concat_ws(' ', cgroup_id, extract(epoch from first_tick_at - '2025-11-08 12:00:00Z')::int,
                    extract(epoch from last_tick_at - '2025-11-08 12:00:00Z')::int, created_at is not null), '|'
                    order by cgroup_id) from cgroup";
    assert_eq!(database.sql(life), "5 0 10 t|6 0 f|7 0 20 f|8 10 10 t");
}

#[tokio::test]
async fn who_opens_a_stream_finds_out_what_is_gone_and_what_it_is_called() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let named = |cgroup_id, pod_name: &str| {
        let workload = Workload { pod_name: pod_name.to_owned(), ..Workload::default() };
        CgroupSample { workload: Some(Box::new(workload)), ..sample(cgroup_id, 1) }
    };
    let mut host = handle.open(id(1)).await.unwrap();
    host.store(tick(7, 0, vec![sample(4, 1), named(5, ""), sample(6, 1)])).await.unwrap();
    host.store(changes(1, vec![named(5, "web-0")], Vec::new())).await.unwrap();
    let dimension = "select string_agg(concat_ws(' ', cgroup_id, pod_name, last_tick_at is null), '|'
                         order by cgroup_id, first_tick_at) from cgroup";
    assert_eq!(database.sql(dimension), "4 t|5 web-0 t|6 t");
    let mut host = handle.open(id(1)).await.unwrap();
    host.store(tick(7, 2, vec![named(5, "web-0"), named(6, "db-0")])).await.unwrap();
    assert_eq!(database.sql(dimension), "4 f|5 web-0 t|6 db-0 t");
    // Another boot: the same ids are other cgroups.
    host.store(Tick { boot_id: id(2), ..tick(8, 0, vec![sample(6, 1)]) }).await.unwrap();
    assert_eq!(database.sql(dimension), "4 f|5 web-0 f|6 db-0 f|6 t");
    assert_eq!(database.sql("select count(distinct last_tick_at) from cgroup"), "2");
}

#[tokio::test]
async fn nothing_is_built_upon_a_tick_that_was_refused() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    let bad = CgroupSample { path: "/not\0fine".to_owned(), ..sample(9, 1) };
    for tick in [
        tick(7, 0, vec![sample(5, 0)]),
        changes(1, vec![sample(5, 1)], Vec::new()),
        changes(2, vec![bad], Vec::new()),
        changes(3, vec![sample(5, 3)], Vec::new()),
    ] {
        assert!(host.submit(tick).unwrap());
    }
    let mut outcomes = Vec::new();
    while host.is_underway() {
        outcomes.push(host.settle().await);
    }
    assert!(
        outcomes[..2].iter().all(|outcome| matches!(outcome, Ok(Stored::Appended { .. }))),
        "{outcomes:?}"
    );
    assert!(matches!(outcomes[2], Err(IngestError::Refused { sequence: 2, .. })), "{outcomes:?}");
    assert!(matches!(outcomes[3], Err(IngestError::Fenced { .. })), "{outcomes:?}");
    let mut host = handle.open(id(1)).await.unwrap();
    let next = Tick { missed: true, ..tick(7, 3, vec![sample(5, 3)]) };
    let stored = host.store(next).await.unwrap();
    assert!(matches!(stored, Stored::Appended { gap: Some(GapReason::NotReceived), .. }), "{stored:?}");
    let points = history(&store, "/cgroup-5", at(0), at(1_000)).await;
    let points = points.into_iter().filter(|event| matches!(event, HistoryEvent::Point { .. }));
    assert_eq!(points.collect::<Vec<_>>(), [0, 1, 3].map(|n| point(at(10 * n), sample(5, n))));
}

#[tokio::test]
async fn the_newest_opener_writes_and_the_others_store_nothing() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut old = handle.open(id(1)).await.unwrap();
    old.store(tick(7, 0, vec![sample(5, 0)])).await.unwrap();
    let mut new = handle.open(id(1)).await.unwrap();
    let fenced = old.store(tick(7, 1, vec![sample(5, 1), sample(6, 1)])).await;
    assert!(matches!(fenced, Err(IngestError::Fenced { .. })), "{fenced:?}");
    assert_eq!(database.stored_rows(), "1|1|0");
    // The new one is offered the last tick again, and goes on where the old one was.
    assert_eq!(new.store(tick(7, 0, vec![sample(5, 0)])).await.unwrap(), Stored::Duplicate);
    let stored = new.store(tick(7, 1, vec![sample(5, 1)])).await.unwrap();
    assert!(matches!(stored, Stored::Appended { gap: None, .. }), "{stored:?}");
    assert_eq!(database.sql("select count(*), count(*) filter (where keyframe) from head"), "2|2");
}

#[tokio::test]
async fn a_tick_whose_commit_is_uncertain_is_stored_once() {
    let database = TestDatabase::create();
    database.store().await;
    let proxy = InterruptingProxy::start(database.socket_dir());
    let store =
        Store::connect(&database.database_at(proxy.socket_dir()), StoreLimits::default()).await.unwrap();
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    // The first tick makes partitions, which commits too.
    host.store(tick(7, 0, vec![sample(5, 0)])).await.unwrap();
    for (sequence, faults) in [
        (1, &[Fault::AfterCommit][..]),
        (2, &[Fault::BeforeCommit]),
        (3, &[Fault::BeforeCommit, Fault::AfterCommit, Fault::AfterCommit]),
        (4, &[]),
    ] {
        proxy.inject(faults);
        let stored = host.store(tick(7, sequence, vec![sample(5, sequence)])).await.unwrap();
        assert_eq!(stored, Stored::Appended { tick_at: at(10 * sequence), gap: None });
        assert_eq!(proxy.faults_left(), 0);
    }
    let expect: Vec<_> = (0..5).map(|n| point(at(10 * n), sample(5, n))).collect();
    assert_eq!(history(&store, "/cgroup-5", at(0), at(100)).await, expect);
    assert_eq!(database.stored_rows(), "5|1|0");
}

#[tokio::test]
async fn a_tick_that_postgres_cannot_hold_does_not_hold_up_the_others() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let with_path = |path: String| tick(7, 0, vec![CgroupSample { path, ..sample(5, 1) }]);
    // No path of a real cgroup, whose names end at a NUL.
    let paths =
        ["/fine".to_owned(), "/not\0fine".to_owned(), format!("/{}", "long/".repeat(1_000)), "/a".to_owned()];
    let stores = paths.clone().into_iter().zip(1..).map(|(path, number)| {
        let (handle, tick) = (handle.clone(), with_path(path));
        tokio::spawn(async move { handle.open(id(number)).await.unwrap().store(tick).await })
    });
    let mut outcomes = Vec::new();
    for store in stores.collect::<Vec<_>>() {
        outcomes.push(store.await.unwrap());
    }
    assert!(matches!(outcomes[1], Err(IngestError::Refused { .. })), "{:?}", outcomes[1]);
    assert!([0, 2, 3].iter().all(|&at| outcomes[at].is_ok()), "{outcomes:?}");
    let selector = CgroupSelector::Path { hierarchy_id: 0, path: &paths[2] };
    assert_eq!(store.find_cgroups(id(3), selector, at(100), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn each_hour_is_a_partition_that_begins_with_a_keyframe() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    // Noon to midnight are 4,320 ticks, an hour is 360.
    for sequence in (0..3).chain(4_315..4_325) {
        host.store(tick(7, sequence, vec![sample(5, sequence)])).await.unwrap();
    }
    let hours = "select string_agg(tableoid::regclass || ' ' || sequence, ' ' order by tick_at) from head where keyframe";
    assert_eq!(database.sql(hours), "head_2025110812 0 head_2025110823 4315 head_2025110900 4320");
    assert_eq!(database.sql("select to_regclass('head_2025110901') is not null"), "t");
    let expect: Vec<_> = (4_318..4_323).map(|n| point(at(10 * n), sample(5, n))).collect();
    assert_eq!(history(&store, "/cgroup-5", at(43_180), at(43_230)).await, expect);
    let expect: Vec<_> = (4_320..4_325).map(|n| point(at(10 * n), sample(5, n))).collect();
    assert_eq!(history(&store, "/cgroup-5", at(43_200) - Duration::from_secs(5), at(50_000)).await, expect);
    // What a server made that knew days only covers its hours.
    database.sql(
        "create table head_20251110 partition of head for values from ('2025-11-10 00:00+00') to ('2025-11-11 00:00+00')",
    );
    host.store(tick(7, 12_960, vec![sample(5, 1)])).await.unwrap();
    assert_eq!(database.sql("select sequence from head_20251110"), "12960");
}

#[tokio::test]
async fn a_damaged_payload_is_named() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, ..) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    host.store(tick(7, 0, vec![sample(5, 0)])).await.unwrap();
    database.sql("update head set payload = set_byte(payload, 2, get_byte(payload, 2) # 1)");
    let mut reader = store.history(id(1), Vec::new(), TimeRange::new(at(0), at(100)).unwrap());
    let error = reader.next_page().await.unwrap_err().to_string();
    assert!(
        error.contains(&id(1).to_string())
            && error.contains("at 2025-11-08T12:00:00.000000Z: payload is damaged"),
        "{error}"
    );
    assert_eq!(reader.next_page().await.unwrap(), None);
}

#[tokio::test]
async fn shutdown_frees_the_streams_that_wait_for_a_dead_store() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (handle, shutdown, writer) = start_writer(&store);
    let mut host = handle.open(id(1)).await.unwrap();
    store.close().await;
    let waiting = tokio::spawn(async move { host.store(tick(7, 0, vec![sample(5, 0)])).await });
    while !waiting.is_finished() {
        shutdown.cancel();
        tokio::task::yield_now().await;
    }
    assert!(matches!(waiting.await.unwrap(), Err(IngestError::WriterStopped)));
    writer.await.unwrap();
}
