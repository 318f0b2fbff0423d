//! The private Postgres: made, started, stopped, recovered, and refused with a reason.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use cgfleet_server::{
    private_postgres::{PrivatePostgres, PrivatePostgresError, PrivatePostgresOptions},
    store::{HostRecord, Store, StoreLimits},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::fixture::{id, options, state_dir};

async fn start(state_dir: &Path) -> PrivatePostgres {
    PrivatePostgres::start(&options(state_dir)).await.unwrap()
}

fn pid(postgres: &PrivatePostgres) -> Pid {
    Pid::from_raw(postgres.pid().unwrap().try_into().unwrap())
}

async fn hosts(postgres: &PrivatePostgres) -> usize {
    let store = Store::connect(&postgres.database(), StoreLimits::default()).await.unwrap();
    let hosts = store.list_hosts(None, 10).await.unwrap().len();
    store.close().await;
    hosts
}

async fn add_host(postgres: &PrivatePostgres) {
    let store = Store::connect(&postgres.database(), StoreLimits::default()).await.unwrap();
    let host = HostRecord {
        host_id: id(1),
        boot_id: id(2),
        agent_epoch: id(3),
        hostname: "host".to_owned(),
        address: "localhost:1".to_owned(),
        kernel_release: "6.1".to_owned(),
        agent_version: "0".to_owned(),
    };
    assert!(store.register_host(&host).await.unwrap());
    store.close().await;
}

#[tokio::test]
async fn data_survives_restarts_and_kills() {
    let dir = state_dir();
    // What an interrupted initdb leaves.
    fs::create_dir_all(dir.path().join("postgres/data.unfinished/base")).unwrap();

    let postgres = start(dir.path()).await;
    let process = fs::metadata(format!("/proc/{}", pid(&postgres))).unwrap();
    assert_ne!(process.uid(), 0, "Postgres runs as root");
    assert_eq!(fs::metadata(dir.path().join("postgres/run")).unwrap().mode() & 0o777, 0o700);
    assert!(!dir.path().join("postgres/data.unfinished").exists());
    add_host(&postgres).await;
    let second = PrivatePostgres::start(&options(dir.path())).await.unwrap_err();
    assert!(second.to_string().contains("another cgfleet-server runs in state directory"), "{second}");
    let stopped = pid(&postgres);
    postgres.stop().await;
    assert!(kill(stopped, None).is_err(), "it is still there");

    let mut postgres = start(dir.path()).await;
    assert_eq!(hosts(&postgres).await, 1, "after a clean restart");
    // With a session open, which outlives the postmaster for a moment.
    let store = Store::connect(&postgres.database(), StoreLimits::default()).await.unwrap();
    store.list_hosts(None, 1).await.unwrap();
    kill(pid(&postgres), Signal::SIGKILL).unwrap();
    let exited = postgres.exited().await;
    assert!(matches!(exited, PrivatePostgresError::Exited { .. }), "{exited}");
    assert!(exited.to_string().contains("signal: 9"), "{exited}");
    drop(postgres);

    let postgres = start(dir.path()).await;
    assert_eq!(hosts(&postgres).await, 1, "after a crash of Postgres");
    postgres.stop().await;
}

#[tokio::test]
async fn what_a_killed_server_left_running_is_stopped_first() {
    let dir = state_dir();
    let first = start(dir.path()).await;
    add_host(&first).await;
    let bin_dir = first.bin_dir().to_owned();
    let data_dir = dir.path().join("postgres/data");
    first.stop().await;

    // As the Postgres of a killed server: it runs on the data directory and nobody holds the lock.
    let options =
        format!("-c listen_addresses= -c unix_socket_directories={}/postgres/run", dir.path().display());
    let started = Command::new(bin_dir.join("pg_ctl"))
        .args(["start", "--wait", "--silent", "--log=/dev/null", "--options", &options, "--pgdata"])
        .arg(&data_dir)
        .current_dir(dir.path())
        .status()
        .unwrap();
    assert!(started.success());
    let pid_file = data_dir.join("postmaster.pid");
    let orphan = fs::read_to_string(&pid_file).unwrap().lines().next().unwrap().parse().unwrap();

    let second = start(dir.path()).await;
    assert_ne!(pid(&second), Pid::from_raw(orphan));
    assert!(fs::read_link(format!("/proc/{orphan}/cwd")).is_err(), "the orphan still runs");
    let log = fs::read_to_string(dir.path().join("postgres/log")).unwrap();
    assert!(!log.contains("was not properly shut down"), "the orphan was not shut down in order: {log}");
    assert_eq!(hosts(&second).await, 1);
    second.stop().await;

    // A pid file whose number now belongs to somebody else, here to this very process.
    fs::write(&pid_file, format!("{}\n/elsewhere\n", std::process::id())).unwrap();
    fs::set_permissions(&pid_file, fs::Permissions::from_mode(0o644)).unwrap();
    let third = start(dir.path()).await;
    assert_eq!(hosts(&third).await, 1);
    // Dropped, it is told to stop; the next one waits for that.
    drop(third);
    start(dir.path()).await.stop().await;
}

#[tokio::test]
async fn a_postgres_that_is_killed_is_started_again_until_it_ends_each_time() {
    let dir = state_dir();
    let mut postgres = start(dir.path()).await;
    add_host(&postgres).await;
    let store = Store::connect(&postgres.database(), StoreLimits::default()).await.unwrap();
    let pid_file = dir.path().join("postgres/data/postmaster.pid");
    let first = pid(&postgres);
    let killed = async {
        for _ in 0..2 {
            let running = fs::read_to_string(&pid_file).unwrap();
            kill(Pid::from_raw(running.lines().next().unwrap().parse().unwrap()), Signal::SIGKILL).unwrap();
            // The pool connects to the one that was killed, or not at all, until there is another.
            while fs::read_to_string(&pid_file).is_ok_and(|now| now == running)
                || store.list_hosts(None, 10).await.map_or(0, |hosts| hosts.len()) != 1
            {
                tokio::task::yield_now().await;
            }
        }
        store.close().await;
    };
    tokio::select! {
        () = killed => {}
        given_up = postgres.keep_running(|| false) => panic!("{given_up}"),
    }
    assert_ne!(pid(&postgres), first);
    // With such a file it does not start.
    let conf = dir.path().join("postgres/data/postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text + "\nshared_buffers = 'many'\n").unwrap();
    kill(pid(&postgres), Signal::SIGKILL).unwrap();
    let given_up = postgres.keep_running(|| false).await.to_string();
    let expect = ["times within 60s and ended each time", "invalid value for parameter \"shared_buffers\""];
    assert!(expect.iter().all(|expect| given_up.contains(expect)), "{given_up}");
}

async fn check_refused(options: PrivatePostgresOptions, expect: &[&str]) {
    let error = PrivatePostgres::start(&options).await.unwrap_err().to_string();
    for expect in expect {
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    }
    assert!(!error.contains('\n'), "{error:?} is more than a line");
}

#[tokio::test]
async fn a_refusal_says_what_is_missing_and_how_to_mend_it() {
    let dir = state_dir();
    let given = options(dir.path());
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let missing = ["initdb and postgres not found in", "/empty", "install the package postgresql"];
    check_refused(PrivatePostgresOptions { bin_dir: Some(empty.clone()), ..given.clone() }, &missing).await;

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below_a_file = PrivatePostgresOptions { state_dir: file.join("state"), ..given.clone() };
    check_refused(below_a_file, &["find state directory", "/file/state"]).await;

    let long = PrivatePostgresOptions { state_dir: dir.path().join("x".repeat(90)), ..given.clone() };
    fs::create_dir(&long.state_dir).unwrap();
    check_refused(long, &["more than the 107", "configure a shorter state directory"]).await;

    fs::create_dir_all(dir.path().join("postgres/data")).unwrap();
    check_refused(given.clone(), &["is no Postgres data directory", "move it away"]).await;
    fs::write(dir.path().join("postgres/data/PG_VERSION"), "9\n").unwrap();
    check_refused(given.clone(), &["is of Postgres 9, and the one in", "install the package postgresql-9"])
        .await;
}

#[tokio::test]
async fn a_postgres_that_does_not_start_quotes_its_log() {
    let dir = state_dir();
    start(dir.path()).await.stop().await;
    let conf = dir.path().join("postgres/data/postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text + "\nshared_buffers = 'many'\n").unwrap();
    let expect = ["ended by itself (exit status: 1)", "invalid value for parameter \"shared_buffers\""];
    check_refused(options(dir.path()), &expect).await;
}
