//! Head rows into chunks: each tick exactly once, at any moment.

use std::{sync::Arc, time::Duration};

use cgfleet_proto::v1::{CgroupSample, MemorySample};
use cgfleet_server::{
    compaction::{CompactionProgress, Compactor},
    store::{Store, StoreLimits},
};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{TestDatabase, at, id, sample},
    heads::{HeadWriter, Points, Source, check_points, points_of, usec, watermark},
    interrupting_proxy::{Fault, InterruptingProxy},
};

pub(crate) fn compactor(store: &Store) -> Compactor {
    Compactor::new(store.clone(), 1, Arc::new(CompactionProgress::default()), CancellationToken::new())
}

/// Cgroup 5 is always there, 10,000 to 10,050 never change, 100 + n comes in tick n and stays for 20 ticks; 7 is there in
/// every second minute, and has memory in every third tick.
fn busy(sequence: u64) -> Vec<CgroupSample> {
    let coming_and_going = (sequence.saturating_sub(20)..=sequence).map(|n| sample(100 + n, n * sequence));
    let idle = (10_000..10_050).map(|n| sample(n, n));
    let memory = MemorySample { current_bytes: Some(4_096 * sequence), ..MemorySample::default() };
    let now_and_then = (sequence / 6).is_multiple_of(2).then(|| CgroupSample {
        memory: sequence.is_multiple_of(3).then(|| memory.into()),
        ..sample(7, sequence)
    });
    coming_and_going.chain(idle).chain(now_and_then).chain([sample(5, sequence / 3)]).collect()
}

/// Writes ticks of boot 1, ten seconds apart; the first of each hour is a few milliseconds late.
async fn write(writer: &mut HeadWriter, sequences: std::ops::Range<u64>) -> Points {
    let mut points = Points::new();
    for sequence in sequences {
        let at_usec = usec(10 * sequence) + i64::from(sequence.is_multiple_of(360)) * 3_000;
        writer.write(at_usec, Source { boot: 1, epoch: 7, sequence }, &busy(sequence)).await;
        points.extend(points_of(at_usec, 1, &busy(sequence)));
    }
    points
}

#[tokio::test]
async fn an_hour_that_is_over_becomes_chunks() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    let mut expect = write(&mut writer, 0..360).await;
    let mut compactor = compactor(&store);
    assert_eq!(compactor.round(at(3_600)).await.unwrap(), 0);
    assert_eq!(watermark(&database, 1), None);

    expect.extend(write(&mut writer, 360..725).await);
    assert_eq!(compactor.round(at(7_250)).await.unwrap(), 2);
    assert_eq!(watermark(&database, 1), Some(usec(7_190)));
    check_points(&database, 1, &expect);
    assert_eq!(compactor.round(at(7_250)).await.unwrap(), 0);
    let rows = "select count(*), count(*) filter (where cgroup_id = 0), min(first_at) at time zone 'UTC',
                       max(last_at) at time zone 'UTC' from chunk";
    // An hour: 51 that do not change or hardly, 7, and one row of all that were there for a while.
    assert_eq!(database.sql(rows), "106|2|2025-11-08 12:00:00.003|2025-11-08 13:59:50");
    let partitions = "select string_agg(inhrelid::regclass::text, ' ' order by inhrelid::regclass::text) from pg_inherits
                      where inhparent in ('chunk'::regclass, 'rollup_minute'::regclass, 'rollup_hour'::regclass) and inhrelid::regclass::text ~ '_202'";
    assert_eq!(
        database.sql(partitions),
        "chunk_20251108 chunk_20251109 rollup_hour_20251101 rollup_hour_20251201 rollup_minute_20251108 rollup_minute_20251109"
    );
    // The head may go: nothing that a reader needs is in it but the last ticks.
    database.sql("delete from head where tick_at < '2025-11-08 14:00:00+00'");
    check_points(&database, 1, &expect);
}

#[tokio::test]
async fn what_a_silent_host_left_becomes_chunks_and_it_may_come_back() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    let mut expect = write(&mut writer, 0..47).await;
    let mut compactor = compactor(&store);
    assert_eq!(compactor.round(at(460) + Duration::from_mins(20)).await.unwrap(), 0);
    assert_eq!(compactor.round(at(460) + Duration::from_mins(31)).await.unwrap(), 1);
    assert_eq!(watermark(&database, 1), Some(usec(460)));
    check_points(&database, 1, &expect);
    // What waited in a buffer follows the last tick, as a delta.
    expect.extend(write(&mut writer, 47..400).await);
    assert_eq!(database.sql("select keyframe from head where sequence = 47"), "f");
    assert_eq!(compactor.round(at(4_000)).await.unwrap(), 1);
    assert_eq!(watermark(&database, 1), Some(usec(3_590)));
    check_points(&database, 1, &expect);
}

#[tokio::test]
async fn a_reboot_ends_a_window() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    let mut expect = Points::new();
    for sequence in 0..400 {
        let boot = 1 + u128::from(sequence >= 100);
        let samples = [sample(5, sequence % 100), sample(6, 1)];
        writer.write(usec(10 * sequence), Source { boot, epoch: 7 + boot, sequence }, &samples).await;
        expect.extend(points_of(usec(10 * sequence), boot, &samples));
    }
    assert_eq!(compactor(&store).round(at(4_000)).await.unwrap(), 2);
    check_points(&database, 1, &expect);
    let boots = "select count(*), count(distinct boot_id), count(distinct first_at) from chunk";
    assert_eq!(database.sql(boots), "4|2|2");
    assert_eq!(database.sql("select count(*), count(distinct boot_id) from rollup_hour"), "4|2");
}

#[tokio::test]
async fn two_compactors_at_once_store_each_tick_once() {
    let database = TestDatabase::create();
    let (one, other) = (database.store().await, database.store().await);
    let mut expect = Vec::new();
    for host in 1..=6 {
        let mut writer = HeadWriter::open(&one, host).await;
        expect.push(write(&mut writer, 200..365).await);
    }
    let (mut one, mut other) = (compactor(&one), compactor(&other));
    let (one, other) = tokio::join!(one.round(at(3_650)), other.round(at(3_650)));
    assert_eq!(one.unwrap() + other.unwrap(), 6);
    for (host, expect) in (1..=6).zip(expect) {
        check_points(&database, host, &expect);
    }
    let rollups = "select count(*), count(distinct (host_id, cgroup_id)) from rollup_hour";
    assert_eq!(database.sql(rollups), database.sql("select count(*), count(distinct (host_id, cgroup_id)) from (select distinct host_id, cgroup_id from cgroup where first_tick_at < '2025-11-08 13:00+00') as c"));
}

#[tokio::test]
async fn a_compactor_that_is_cut_off_anywhere_stores_all_or_nothing() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    let expect = write(&mut writer, 300..365).await;
    let rollups = |database: &TestDatabase| database.sql("select count(*) from rollup_hour");
    let mut outcomes = [0, 0];
    for messages in 1.. {
        let proxy = InterruptingProxy::start(database.socket_dir());
        let through = database.database_at(proxy.socket_dir());
        let cut_off = Store::connect(&through, StoreLimits::default()).await.unwrap();
        let mut compactor = compactor(&cut_off);
        proxy.cut_after(messages);
        let round = compactor.round(at(3_650)).await;
        let was_cut = proxy.cut_off();
        check_points(&database, 1, &expect);
        let compacted = watermark(&database, 1).is_some();
        assert_eq!(compacted, rollups(&database) != "0", "cut off at message {messages}");
        outcomes[usize::from(compacted)] += 1;
        if !was_cut {
            assert_eq!(round.unwrap(), 1);
            break;
        }
        // As it was, for the next cut.
        database.sql(
            "delete from compaction; delete from chunk; delete from rollup_hour; delete from rollup_minute",
        );
    }
    // Before the commit at every message of it, and behind it.
    assert!(outcomes[0] >= 10 && outcomes[1] >= 1, "{outcomes:?}");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_done_twice() {
    let database = TestDatabase::create();
    let proxy = InterruptingProxy::start(database.socket_dir());
    let store =
        Store::connect(&database.database_at(proxy.socket_dir()), StoreLimits::default()).await.unwrap();
    // The first host's round makes partitions, which commits too.
    for host in [1, 2] {
        let mut writer = HeadWriter::open(&store, host).await;
        let expect = write(&mut writer, 300..365).await;
        let progress = Arc::new(CompactionProgress::default());
        let mut compactor = Compactor::new(store.clone(), 1, Arc::clone(&progress), CancellationToken::new());
        if host == 2 {
            proxy.inject(&[Fault::AfterCommit]);
        }
        assert_eq!(compactor.round(at(3_650)).await.unwrap(), u64::from(host == 1));
        assert_eq!((proxy.faults_left(), progress.counts().failures), (0, u64::from(host == 2)));
        assert_eq!(watermark(&database, host), Some(usec(3_590)));
        assert_eq!(self::compactor(&store).round(at(3_650)).await.unwrap(), 0);
        check_points(&database, host, &expect);
    }
}

#[tokio::test]
async fn readers_find_each_tick_once_while_hosts_are_compacted() {
    let database = Arc::new(TestDatabase::create());
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    let expect = Arc::new(write(&mut writer, 300..1_090).await);
    let compacting = tokio::spawn(async move {
        let mut compactor = compactor(&store);
        compactor.round(at(10_900)).await.unwrap()
    });
    let mut reads = 0;
    while !compacting.is_finished() || reads == 0 {
        let database = Arc::clone(&database);
        let expect = Arc::clone(&expect);
        tokio::task::spawn_blocking(move || check_points(&database, 1, &expect)).await.unwrap();
        reads += 1;
    }
    assert_eq!(compacting.await.unwrap(), 3);
}

#[tokio::test]
async fn a_damaged_tick_does_not_hold_up_the_others() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    let mut expect = write(&mut writer, 0..365).await;
    database.sql(
        "update head set payload = set_byte(payload, 20, get_byte(payload, 20) # 1) where sequence = 70",
    );
    assert_eq!(compactor(&store).round(at(3_650)).await.unwrap(), 1);
    // Of the damaged one and those that build upon it, up to the next keyframe.
    expect.retain(|(_, _, at_usec), _| !(usec(700)..usec(1_200)).contains(at_usec));
    database.sql("delete from head where tick_at < '2025-11-08 13:00:00+00'");
    check_points(&database, 1, &expect);
    // One of a newer version is not given up.
    let mut writer = HeadWriter::open(&store, 2).await;
    write(&mut writer, 0..365).await;
    database.sql(&format!(
        "update head set payload = set_byte(payload, 0, 15) where sequence = 70 and host_id = '{}'",
        id(2)
    ));
    let progress = Arc::new(CompactionProgress::default());
    let mut compactor = Compactor::new(store.clone(), 1, Arc::clone(&progress), CancellationToken::new());
    assert_eq!(compactor.round(at(3_650)).await.unwrap(), 0);
    assert_eq!(progress.counts().failures, 1);
    assert_eq!(watermark(&database, 2), None);
}

#[tokio::test]
async fn lag_is_what_is_stored_and_not_compacted() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    write(&mut writer, 0..365).await;
    let progress = Arc::new(CompactionProgress::default());
    let mut compactor = Compactor::new(store.clone(), 1, Arc::clone(&progress), CancellationToken::new());
    compactor.round(at(3_650)).await.unwrap();
    assert_eq!(progress.lag_of(id(1)), Duration::from_secs(50));
    assert_eq!((progress.lag_max(), progress.lag_of(id(2))), (Duration::from_secs(50), Duration::ZERO));
    let counts = progress.counts();
    assert_eq!((counts.windows, counts.ticks, counts.failures), (1, 360, 0));
    assert_eq!(counts.samples, u64::try_from((0..360).map(|n| busy(n).len()).sum::<usize>()).unwrap());
}
