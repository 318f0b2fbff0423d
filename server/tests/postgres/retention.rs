//! What is old goes, what is needed stays, and nobody waits for it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_server::{
    compaction::{Retention, RetentionLimits, RetentionProgress},
    store::{DropOutcome, Partition, Store, Tier},
};
use tokio_util::sync::CancellationToken;

use crate::{
    compaction::compactor,
    fixture::{TestDatabase, at, id, sample},
    heads::{HeadWriter, Points, Source, check_points, points_of, usec},
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

const LIMITS: RetentionLimits = RetentionLimits {
    head: HOUR,
    chunks: Duration::from_hours(3 * 24),
    minutes: Duration::from_hours(10 * 24),
    hours: Duration::from_hours(100 * 24),
    disk_budget_bytes: None,
};

fn retention(store: &Store, limits: RetentionLimits) -> (Retention, Arc<RetentionProgress>) {
    let progress = Arc::new(RetentionProgress::default());
    (Retention::new(store.clone(), limits, None, Arc::clone(&progress), CancellationToken::new()), progress)
}

async fn dropped(retention: &Retention, now: SystemTime) -> String {
    let dropped = retention.round(now).await.unwrap();
    dropped.iter().map(Partition::name).collect::<Vec<_>>().join(" ")
}

/// Ticks a minute apart.
async fn write(writer: &mut HeadWriter, sequences: std::ops::Range<u64>) -> Points {
    let mut points = Points::new();
    for sequence in sequences {
        let samples = [sample(5, sequence), sample(6, 1)];
        writer.write(usec(60 * sequence), Source { boot: 1, epoch: 1, sequence }, &samples).await;
        points.extend(points_of(usec(60 * sequence), 1, &samples));
    }
    points
}

#[tokio::test]
async fn a_partition_goes_when_it_is_old_and_every_host_is_past_it() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let (mut one, mut other) = (HeadWriter::open(&store, 1).await, HeadWriter::open(&store, 2).await);
    let expect = [write(&mut one, 0..125).await, write(&mut other, 0..65).await];
    let (retention, progress) = retention(&store, LIMITS);
    // Nothing is compacted, and stays whatever its age; what was made ahead is empty.
    assert_eq!(dropped(&retention, at(5 * 3_600)).await, "head_2025110815");
    assert_eq!(progress.needed(), 3);
    // One host is two hours further, the other one hour and some minutes.
    let mut compactor = compactor(&store);
    assert_eq!(compactor.round(at(66 * 60)).await.unwrap(), 2 + 1);
    assert_eq!(dropped(&retention, at(2 * 3_600 - 1)).await, "");
    assert_eq!(dropped(&retention, at(2 * 3_600)).await, "head_2025110812");
    assert_eq!(dropped(&retention, at(5 * 3_600)).await, "");
    assert_eq!(progress.needed(), 2);
    check_points(&database, 1, &expect[0]);
    check_points(&database, 2, &expect[1]);
    // Silent for long enough: what they left is compacted too.
    assert_eq!(compactor.round(at(5 * 3_600)).await.unwrap(), 1 + 1);
    assert_eq!(dropped(&retention, at(5 * 3_600)).await, "head_2025110813 head_2025110814");
    check_points(&database, 1, &expect[0]);
    check_points(&database, 2, &expect[1]);
    assert_eq!(progress.dropped(), 4);
    assert_eq!(dropped(&retention, at(0) + 3 * DAY).await, "");
    assert_eq!(dropped(&retention, at(12 * 3_600) + 3 * DAY).await, "chunk_20251108");
    assert_eq!(dropped(&retention, at(12 * 3_600) + 10 * DAY).await, "chunk_20251109 rollup_minute_20251108");
    assert_eq!(database.sql("select count(*) > 0 from cgroup_hour"), "t");
    assert_eq!(
        dropped(&retention, at(0) + 365 * DAY).await,
        "rollup_minute_20251109 rollup_hour_20251101 rollup_hour_20251201"
    );
}

#[tokio::test]
async fn who_would_build_upon_a_dropped_tick_begins_anew() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    write(&mut writer, 0..5).await;
    assert_eq!(compactor(&store).round(at(3_600)).await.unwrap(), 1);
    let (retention, _) = retention(&store, LIMITS);
    assert_eq!(dropped(&retention, at(3 * 3_600)).await, "head_2025110812 head_2025110813");
    let fence = format!("select fence from ingest_cursor where host_id = '{}'", id(1));
    assert_eq!(database.sql(&fence), "2");
    // Opened again it writes what waited, beginning with a keyframe; its partition is made again.
    let mut writer = HeadWriter::open(&store, 1).await;
    let expect = write(&mut writer, 5..10).await;
    assert_eq!(database.sql("select sequence, keyframe from head order by 1 limit 1"), "5|t");
    assert_eq!(compactor(&store).round(at(3 * 3_600)).await.unwrap(), 1);
    database.sql("delete from chunk where last_at <= '2025-11-08 12:04:00+00'; delete from head");
    check_points(&database, 1, &expect);
}

#[tokio::test]
async fn above_the_budget_the_finest_goes_first() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    write(&mut writer, 0..130).await;
    write(&mut writer, 1_500..1_510).await;
    compactor(&store).round(at(1_510 * 60)).await.unwrap();
    let now = at(1_510 * 60);
    let bytes = store.database_bytes().await.unwrap();
    let unlimited = RetentionLimits { head: 30 * DAY, ..LIMITS };
    let budget = |bytes| RetentionLimits { disk_budget_bytes: Some(bytes), ..unlimited };
    assert_eq!(dropped(&retention(&store, budget(bytes)).0, now).await, "");
    assert_eq!(dropped(&retention(&store, budget(bytes - 1)).0, now).await, "head_2025110812");
    // As much as there is to drop: not what is being written, nor what is not compacted, nor hours.
    let expect = "head_2025110813 head_2025110814 head_2025110815 chunk_20251108 rollup_minute_20251108";
    assert_eq!(dropped(&retention(&store, budget(1)).0, now).await, expect);
    assert_eq!(database.sql("select count(*) from head"), "10");
    assert_eq!(database.sql("select count(*) > 0 from rollup_hour"), "t");
}

#[tokio::test]
async fn a_table_in_use_is_not_waited_for_by_writers() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    write(&mut writer, 0..65).await;
    compactor(&store).round(at(65 * 60)).await.unwrap();
    // A reader that does not end: the lock cannot be had, and writers that come meanwhile are let pass again and again.
    let reader = database.read_on("head");
    let old = Partition::of(Tier::Head, at(0));
    let dropping = tokio::spawn({
        let store = store.clone();
        async move { store.drop_partition(&old).await.unwrap() }
    });
    let begun = std::time::Instant::now();
    write(&mut writer, 65..80).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!dropping.is_finished());
    drop(reader);
    assert_eq!(dropping.await.unwrap(), DropOutcome::Dropped);
}

#[tokio::test]
async fn cgroups_of_which_nothing_is_kept_are_forgotten() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut writer = HeadWriter::open(&store, 1).await;
    write(&mut writer, 0..65).await;
    database.sql("update cgroup set last_tick_at = '2025-11-08 12:30+00' where cgroup_id = 5");
    database.sql("insert into gap values ('00000000-0000-0000-0000-000000000001', '2025-11-08 12:00+00', '2025-11-08 12:01+00', 'not_received')");
    compactor(&store).round(at(5 * 3_600)).await.unwrap();
    let (retention, progress) = retention(&store, LIMITS);
    retention.prune(at(0) + 90 * DAY).await.unwrap();
    assert_eq!(progress.pruned_cgroups(), 0);
    // Another host goes on, and so does its cgroup; the first went with all it had.
    database.sql(
        "insert into ingest_cursor values ('00000000-0000-0000-0000-000000000002', 1, gen_random_uuid(), 1, '2026-11-07 12:00+00')",
    );
    database.sql(
        "insert into cgroup (host_id, hierarchy_id, cgroup_id, boot_id, parent_id, level, path, first_tick_at)
         values ('00000000-0000-0000-0000-000000000002', 0, 9, gen_random_uuid(), 1, 1, '/nine', '2025-11-08 12:00+00')",
    );
    retention.round(at(0) + 365 * DAY).await.unwrap();
    retention.prune(at(0) + 365 * DAY).await.unwrap();
    assert_eq!(progress.pruned_cgroups(), 2);
    assert_eq!(database.sql("select cgroup_id, (select count(*) from gap) from cgroup"), "9|0");
}

#[tokio::test]
async fn people_read_the_views_and_nothing_else() {
    let database = TestDatabase::create();
    database.store().await;
    // In another database of the same cluster, the role is there already.
    let other = TestDatabase::create();
    other.store().await;
    for database in [&database, &other] {
        assert_eq!(
            database.sql("select has_table_privilege('cgfleet_reader', 'cgroup_minute', 'select')"),
            "t"
        );
        assert_eq!(
            database.as_reader("select count(*) from cgroup_minute, cgroup_hour, host, cgroup"),
            Ok("0".to_owned())
        );
        for refused in ["select count(*) from head", "delete from host", "select count(*) from ingest_cursor"]
        {
            let error = database.as_reader(refused).unwrap_err();
            assert!(error.contains("permission denied"), "{refused}: {error}");
        }
    }
}
