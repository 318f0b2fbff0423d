//! Backups of the private Postgres: written while a server runs and while none does, and read back into a new one.

use std::{fs, fs::File, path::Path};

use cgfleet_server::{
    private_postgres::{PrivatePostgres, backup, restore},
    store::{Store, StoreLimits, TickBatch},
};

use crate::{
    fixture::{id, options, state_dir},
    store::row,
};

async fn start(state_dir: &Path) -> (PrivatePostgres, Store) {
    let postgres = PrivatePostgres::start(&options(state_dir)).await.unwrap();
    let store = Store::connect(&postgres.database(), StoreLimits::default()).await.unwrap();
    (postgres, store)
}

/// The next sequence of host 1, as whoever opens its stream finds it.
async fn next_seq(store: &Store) -> Option<u64> {
    store.open_stream(id(1)).await.unwrap().cursor.map(|cursor| cursor.next_seq)
}

async fn store_tick(store: &Store, sequence: u64) {
    let opened = store.open_stream(id(1)).await.unwrap();
    let mut batch = TickBatch::default();
    assert!(batch.try_push(row(1, opened, sequence)).is_none());
    store.write_batch(&batch).await.unwrap();
}

#[tokio::test]
async fn what_was_backed_up_is_what_is_restored() {
    let dir = state_dir();
    let path = |name: &str| dir.path().join(name);
    let none = backup(&options(&path("")), File::create(path("none")).unwrap()).await.unwrap_err();
    assert!(none.to_string().contains("nothing to back up"), "{none}");

    let (postgres, store) = start(dir.path()).await;
    store_tick(&store, 3).await;
    let bytes = backup(&options(dir.path()), File::create(path("running")).unwrap()).await.unwrap();
    assert_eq!(bytes, fs::metadata(path("running")).unwrap().len());
    store_tick(&store, 4).await;
    store.close().await;
    postgres.stop().await;
    backup(&options(dir.path()), File::create(path("stopped")).unwrap()).await.unwrap();

    let not_empty = restore(&options(dir.path()), File::open(path("running")).unwrap()).await.unwrap_err();
    assert!(not_empty.to_string().contains("move it away"), "{not_empty}");

    for (name, expect) in [("running", 4), ("stopped", 5)] {
        let other = state_dir();
        restore(&options(other.path()), File::open(path(name)).unwrap()).await.unwrap();
        let (postgres, store) = start(other.path()).await;
        assert_eq!(next_seq(&store).await, Some(expect), "{name}");
        // What was restored goes on.
        store_tick(&store, expect).await;
        assert_eq!(next_seq(&store).await, Some(expect + 1), "{name}");
        store.close().await;
        postgres.stop().await;
    }
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_refused_and_leaves_nothing() {
    let dir = state_dir();
    let (postgres, store) = start(dir.path()).await;
    store_tick(&store, 3).await;
    store.close().await;
    postgres.stop().await;
    let whole = dir.path().join("whole");
    backup(&options(dir.path()), File::create(&whole).unwrap()).await.unwrap();
    let bytes = fs::read(&whole).unwrap();
    for (kept, expect) in
        [(0, "pg_restore failed"), (100, "pg_restore failed"), (bytes.len() - 40, "pg_restore failed")]
    {
        let (other, part) = (state_dir(), dir.path().join("part"));
        fs::write(&part, &bytes[..kept]).unwrap();
        let refused =
            restore(&options(other.path()), File::open(&part).unwrap()).await.unwrap_err().to_string();
        assert!(refused.contains(expect) && !refused.contains('\n'), "{kept} bytes: {refused}");
        assert!(!other.path().join("postgres/data").exists(), "{kept} bytes");
    }
}
