//! The store alone: hosts, batches, and what is refused.

use std::time::Duration;

use cgfleet_server::store::{
    Cursor, Database, HostRecord, OpenedStream, Store, StoreLimits, TickBatch, TickRow, WriteOutcome,
    codec::{Frame, HeadEncoder},
};

use crate::fixture::{TestDatabase, at, id, sample};

fn host(number: u128, hostname: &str) -> HostRecord {
    HostRecord {
        host_id: id(number),
        boot_id: id(1),
        agent_epoch: id(2),
        hostname: hostname.to_owned(),
        address: "10.0.0.1:7443".to_owned(),
        kernel_release: "6.1.0".to_owned(),
        agent_version: "0.1.0".to_owned(),
    }
}

/// A keyframe of epoch 7.
pub(crate) fn row(host: u128, opened: OpenedStream, sequence: u64) -> TickRow {
    let encoded = HeadEncoder::default().encode(&[sample(5, sequence)], Frame::Keyframe).unwrap();
    TickRow {
        host_id: id(host),
        fence: opened.fence,
        follows: opened.cursor,
        agent_epoch: id(7),
        sequence,
        boot_id: id(1),
        tick_at: at(10 * sequence),
        sampled_at: at(10 * sequence),
        frame: encoded.frame,
        cgroup_count: encoded.cgroup_count,
        payload: encoded.payload,
        is_fresh: true,
        new_cgroups: Vec::new(),
        names: Vec::new(),
        gone: Vec::new(),
        gap: None,
    }
}

fn batch(rows: impl IntoIterator<Item = TickRow>) -> TickBatch {
    let mut batch = TickBatch::default();
    for row in rows {
        assert!(batch.try_push(row).is_none());
    }
    batch
}

#[tokio::test]
async fn only_what_is_new_of_a_host_is_written() {
    let database = TestDatabase::create();
    let store = database.store().await;
    assert!(store.register_host(&host(1, "web")).await.unwrap());
    assert!(!store.register_host(&host(1, "web")).await.unwrap());
    let before = store.list_hosts(None, 10).await.unwrap();
    let moved = HostRecord { address: "10.0.0.2:7443".to_owned(), ..host(1, "web") };
    assert!(store.register_host(&moved).await.unwrap());
    let after = store.list_hosts(None, 10).await.unwrap();
    assert_eq!(after[0].record, moved);
    assert_eq!(after[0].first_seen_at, before[0].first_seen_at);
    assert!(after[0].registered_at > before[0].registered_at);
    assert_eq!(after[0].last_tick_at, None);
}

#[tokio::test]
async fn hosts_are_listed_in_pages_by_name_then_id() {
    let database = TestDatabase::create();
    let store = database.store().await;
    for (number, hostname) in [(5, "b"), (4, "b"), (3, "a"), (2, "B"), (1, "ä")] {
        store.register_host(&host(number, hostname)).await.unwrap();
    }
    let (mut after, mut listed) = (None::<(String, uuid::Uuid)>, Vec::new());
    loop {
        let from = after.as_ref().map(|(hostname, host_id)| (hostname.as_str(), *host_id));
        let page = store.list_hosts(from, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.record.hostname.clone(), last.record.host_id));
        listed.extend(page.iter().map(|host| host.record.host_id));
    }
    assert_eq!(listed, [2, 3, 4, 5, 1].map(id));
}

#[tokio::test]
async fn a_batch_written_twice_is_stored_once() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let opened = store.open_stream(id(1)).await.unwrap();
    assert_eq!(opened.cursor, None);
    let batch = batch([row(1, opened, 3)]);
    assert_eq!(store.write_batch(&batch).await.unwrap(), [WriteOutcome::Stored]);
    assert_eq!(store.write_batch(&batch).await.unwrap(), [WriteOutcome::AlreadyStored]);
    assert_eq!(database.stored_rows(), "1|0|0");
    let cursor = store.open_stream(id(1)).await.unwrap().cursor;
    assert_eq!(cursor, Some(Cursor { epoch: id(7), next_seq: 4, last_tick_at: at(30) }));
}

#[tokio::test]
async fn each_host_of_a_batch_has_its_own_outcome() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let mut opened = Vec::new();
    for host in 1..=4 {
        opened.push(store.open_stream(id(host)).await.unwrap());
    }
    store.write_batch(&batch([row(2, opened[1], 0)])).await.unwrap();
    store.open_stream(id(3)).await.unwrap();
    let elsewhere = Cursor { epoch: id(7), next_seq: 9, last_tick_at: at(0) };
    let lost_the_cursor = OpenedStream { cursor: Some(elsewhere), ..opened[3] };
    let never_opened = row(5, opened[0], 0);
    let rows = [row(1, opened[0], 0), row(2, opened[1], 0), row(3, opened[2], 0), row(4, lost_the_cursor, 9)];
    let expect = {
        use WriteOutcome::{AlreadyStored, Fenced, Stored};
        [Stored, AlreadyStored, Fenced, Fenced, Fenced]
    };
    let outcomes = store.write_batch(&batch(rows.into_iter().chain([never_opened]))).await.unwrap();
    assert_eq!(outcomes, expect);
    assert_eq!(database.sql("select count(*), count(distinct host_id) from head"), "2|2");
}

/// A batch that is put together anew, as from what was kept on disk, may begin with ticks that are stored.
#[tokio::test]
async fn of_a_hosts_ticks_in_a_batch_those_that_are_stored_are_passed_over() {
    use WriteOutcome::{AlreadyStored, Fenced, Stored};
    let database = TestDatabase::create();
    let store = database.store().await;
    let opened = store.open_stream(id(1)).await.unwrap();
    let ticks = |range: std::ops::Range<u64>| {
        range.map(|sequence| {
            let last = sequence.checked_sub(1).map(|last| row(1, opened, last).next());
            TickRow { follows: last, is_fresh: last.is_none(), ..row(1, opened, sequence) }
        })
    };
    assert_eq!(store.write_batch(&batch(ticks(0..3))).await.unwrap(), [Stored; 3]);
    let outcomes = store.write_batch(&batch(ticks(1..5))).await.unwrap();
    assert_eq!(outcomes, [AlreadyStored, AlreadyStored, Stored, Stored]);
    let with_a_hole = batch(ticks(5..6).chain(ticks(7..9)));
    assert_eq!(store.write_batch(&with_a_hole).await.unwrap(), [Stored, Fenced, Fenced]);
    assert_eq!(
        database.sql("select string_agg(sequence::text, ' ' order by tick_at) from head"),
        "0 1 2 3 4 5"
    );
}

#[test]
fn a_batch_is_bounded_and_has_nothing_before_what_forgets_it() {
    let opened = |database: &TestDatabase| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { database.store().await.open_stream(id(1)).await.unwrap() })
    };
    let opened = opened(&TestDatabase::create());
    let follows = |sequence| TickRow { is_fresh: false, ..row(1, opened, sequence) };
    let mut batch = batch([row(1, opened, 0), follows(1)]);
    assert_eq!(batch.try_push(row(1, opened, 2)).map(|row| row.sequence), Some(2));
    assert_eq!(batch.try_push(follows(3)).map(|row| row.sequence), Some(3), "behind what was handed back");
    for host in 2..TickBatch::TICKS_MAX as u128 {
        assert!(batch.try_push(row(host, opened, 0)).is_none());
    }
    assert!(batch.try_push(row(100_000, opened, 0)).is_some());
    let mut large = TickBatch::default();
    assert!(
        large
            .try_push(TickRow { payload: vec![0; TickBatch::PAYLOAD_BYTES_FULL], ..row(1, opened, 0) })
            .is_none()
    );
    assert!(large.try_push(row(2, opened, 0)).is_some());
}

#[tokio::test]
async fn two_stores_may_make_the_same_partition_at_once() {
    let database = TestDatabase::create();
    let (one, other) = (database.store().await, database.store().await);
    let writes = [(one, 1), (other, 2)].map(async |(store, host)| {
        let opened = store.open_stream(id(host)).await.unwrap();
        store.write_batch(&batch([row(host, opened, 0)])).await.unwrap()
    });
    let [one, other] = writes;
    assert_eq!(tokio::join!(one, other), (vec![WriteOutcome::Stored], vec![WriteOutcome::Stored]));
    let partitions = "select string_agg(inhrelid::regclass::text, ' ' order by 1) from pg_inherits
                      where inhparent = 'head'::regclass";
    assert_eq!(database.sql(partitions), "head_2025110812 head_2025110813");
}

#[tokio::test]
async fn a_partition_that_somebody_dropped_is_made_again() {
    let database = TestDatabase::create();
    let store = database.store().await;
    let opened = store.open_stream(id(1)).await.unwrap();
    store.write_batch(&batch([row(1, opened, 0)])).await.unwrap();
    database.sql("drop table head_2025110812");
    let opened = store.open_stream(id(1)).await.unwrap();
    let next = batch([row(1, opened, 1)]);
    let error = store.write_batch(&next).await.unwrap_err();
    assert!(!error.blames_data(), "{error}");
    assert_eq!(store.write_batch(&next).await.unwrap(), [WriteOutcome::Stored]);
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named() {
    let database = TestDatabase::create();
    let limits = StoreLimits { acquire_timeout: Duration::from_secs(1), ..StoreLimits::default() };
    let check = async |database: &Database, expect: &str| {
        let error = Store::connect(database, limits).await.unwrap_err().to_string();
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    };
    check(&Database::url("postgres://me:secret@127.0.0.1:1/fleet"), "fleet at 127.0.0.1:1: ").await;
    check(&Database::url("mysql://me"), "DATABASE_URL is not a Postgres URL").await;
    check(&database.database_at("/nonexistent".as_ref()), "at /nonexistent: ").await;
    database.store().await;
    database.sql(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'of tomorrow', true, '', 0)",
    );
    check(&database.database(), "a newer cgfleet-server made it").await;
}
