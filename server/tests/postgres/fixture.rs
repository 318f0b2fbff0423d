//! A private Postgres that the tests share while any of them runs, databases in it, and ticks.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Once, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use cgfleet_proto::v1::{CgroupSample, CpuSample};
use cgfleet_server::{
    ingest::Tick,
    private_postgres::{PrivatePostgres, PrivatePostgresOptions},
    store::{Database, Store, StoreLimits},
};
use nix::unistd::{User, geteuid, setgroups, setresgid, setresuid};
use tempfile::TempDir;
use tokio::sync::oneshot;
use uuid::Uuid;

/// A state directory, for what runs as the user that the server would become.
pub(crate) fn state_dir() -> TempDir {
    become_unprivileged();
    tempfile::Builder::new().prefix("cgfleet-").tempdir_in("/tmp").unwrap()
}

/// As the server's main does, with all threads of this process: Postgres refuses to run as root.
fn become_unprivileged() {
    static BECOME: Once = Once::new();
    BECOME.call_once(|| {
        if geteuid().is_root() {
            let user = User::from_name("postgres").unwrap().unwrap();
            setgroups(&[]).unwrap();
            setresgid(user.gid, user.gid, user.gid).unwrap();
            setresuid(user.uid, user.uid, user.uid).unwrap();
        }
    });
}

pub(crate) fn options(state_dir: &Path) -> PrivatePostgresOptions {
    PrivatePostgresOptions { state_dir: state_dir.to_owned(), bin_dir: None }
}

struct SharedPostgres {
    socket_dir: PathBuf,
    psql: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SharedPostgres {
    /// The one that runs, or a new one. It lives on a thread of its own: the runtime of the test that
    /// happens to start it ends too early.
    fn get() -> Arc<Self> {
        static RUNNING: Mutex<Weak<SharedPostgres>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = running.upgrade() {
            return shared;
        }
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let dir = state_dir();
                let postgres = PrivatePostgres::start(&options(dir.path())).await.unwrap();
                ready.send((postgres.database(), postgres.bin_dir().join("psql"))).unwrap();
                let _ = stopped.await;
                postgres.stop().await;
            });
        });
        let (Database::Socket { socket_dir, .. }, psql) = started.recv().unwrap() else { panic!("a socket") };
        let shared = Arc::new(Self { socket_dir, psql, stop: Some(stop), thread: Some(thread) });
        // Nobody needs these databases after a power failure, and each is hundreds of files to sync.
        shared.psql("postgres", "postgres", "alter system set fsync = off");
        shared.psql("postgres", "postgres", "select pg_reload_conf()");
        *running = Arc::downgrade(&shared);
        shared
    }

    fn command(&self, role: &str, database: &str) -> Command {
        let mut command = Command::new(&self.psql);
        command
            .env_clear()
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-p", "5432", "-U", role, "-d", database])
            .arg("-h")
            .arg(&self.socket_dir);
        command
    }

    fn psql(&self, role: &str, database: &str, statement: &str) -> String {
        self.try_psql(role, database, statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    fn try_psql(&self, role: &str, database: &str, statement: &str) -> Result<String, String> {
        let output = self.command(role, database).args(["-c", statement]).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for SharedPostgres {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A transaction that has read, and ends when this is dropped.
pub(crate) struct StandingReader {
    child: Child,
}

impl Drop for StandingReader {
    fn drop(&mut self) {
        // psql ends at the end of its input, and Postgres its transaction.
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// An empty database of one test.
pub(crate) struct TestDatabase {
    postgres: Arc<SharedPostgres>,
    name: String,
}

impl TestDatabase {
    pub(crate) fn create() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let postgres = SharedPostgres::get();
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        postgres.psql("postgres", "postgres", &format!("create database {name} owner cgfleet"));
        Self { postgres, name }
    }

    pub(crate) fn database(&self) -> Database {
        self.database_at(&self.postgres.socket_dir)
    }

    /// The same database through another socket.
    pub(crate) fn database_at(&self, socket_dir: &Path) -> Database {
        let socket_dir = socket_dir.to_owned();
        Database::Socket { socket_dir, port: 5432, role: "cgfleet".to_owned(), name: self.name.clone() }
    }

    pub(crate) fn socket_dir(&self) -> &Path {
        &self.postgres.socket_dir
    }

    pub(crate) async fn store(&self) -> Store {
        Store::connect(&self.database(), StoreLimits::default()).await.unwrap()
    }

    /// What psql prints for a statement.
    pub(crate) fn sql(&self, statement: &str) -> String {
        self.postgres.psql("cgfleet", &self.name, statement)
    }

    /// What psql prints for a statement of whoever has the role of readers, or its error.
    pub(crate) fn as_reader(&self, statement: &str) -> Result<String, String> {
        let member = format!("reader_of_{}", self.name);
        self.postgres.psql("postgres", &self.name, &format!("drop role if exists {member}"));
        self.postgres.psql(
            "postgres",
            &self.name,
            &format!("create role {member} login in role cgfleet_reader"),
        );
        self.postgres.try_psql(&member, &self.name, statement)
    }

    /// A transaction of a reader of a table, that goes on until it is dropped.
    pub(crate) fn read_on(&self, table: &str) -> StandingReader {
        let mut child = self
            .postgres
            .command("cgfleet", &self.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let statements = format!("begin; select count(*) from {table}; \n");
        child.stdin.as_mut().unwrap().write_all(statements.as_bytes()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It has read: it holds its lock.
        assert!(lines.any(|line| line.unwrap().parse::<u64>().is_ok()));
        StandingReader { child }
    }

    /// Rows of each table that ticks are written to.
    pub(crate) fn stored_rows(&self) -> String {
        self.sql(
            "select (select count(*) from head), (select count(*) from cgroup), (select count(*) from gap)",
        )
    }
}

/// Server time `seconds` after noon of a day in 2025.
pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(20_400 * 24 + 12) + Duration::from_secs(seconds)
}

pub(crate) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub(crate) fn sample(cgroup_id: u64, usage_usec: u64) -> CgroupSample {
    CgroupSample {
        cgroup_id,
        parent_id: 1,
        hierarchy_id: 0,
        level: 1,
        path: format!("/cgroup-{cgroup_id}"),
        cpu: Some(CpuSample { usage_usec: Some(usage_usec), ..CpuSample::default() }),
        ..CgroupSample::default()
    }
}

/// A tick of agent epoch `epoch` and boot 1, taken ten seconds per sequence after `at(0)`.
pub(crate) fn tick(epoch: u128, sequence: u64, samples: Vec<CgroupSample>) -> Tick {
    Tick {
        agent_epoch: id(epoch),
        sequence,
        boot_id: id(1),
        boottime: Duration::from_secs(1_000 + 10 * sequence),
        sampled_at: at(10 * sequence),
        sent_boottime: Duration::from_secs(1_000 + 10 * sequence),
        received_at: at(10 * sequence),
        missed: true,
        is_whole: true,
        samples,
        removed: Vec::new(),
    }
}
