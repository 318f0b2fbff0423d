//! The files of the private Postgres: where they are, and how the data directory comes to be.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::timeout,
};

use super::{PORT, PrivatePostgresError, ROLE, binaries::Binaries};

/// How long a program that makes the data directory may take.
const SETUP_DEADLINE: Duration = Duration::from_mins(2);

/// What the kernel allows for a socket's path (sun_path in unix(7), without the NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How much of the log's end an error quotes.
const LOG_TAIL_BYTES: u64 = 4096;
const LOG_TAIL_LINES: usize = 3;

/// `<state_dir>/postgres`, locked for this process.
#[derive(Debug)]
pub(super) struct Cluster {
    base: PathBuf,
    /// Held for its lock, which ends with the process however that ends.
    lock: File,
}

/// Makes a directory that only this user can enter, or takes the one that is there.
pub(super) fn make_private_dir(path: &Path) -> Result<(), PrivatePostgresError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> PrivatePostgresError {
    move |source| PrivatePostgresError::StateDir { operation, path: path.to_owned(), source }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being spawned shares the file until it executes.
        let _ = self.lock.unlock();
    }
}

impl Cluster {
    /// Makes the directory if need be, and locks it.
    pub(super) fn lock(state_dir: &Path) -> Result<Self, PrivatePostgresError> {
        let state_dir = state_dir.canonicalize().map_err(failed("find state directory", state_dir))?;
        let base = state_dir.join("postgres");
        make_private_dir(&base)?;
        let path = base.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { base, lock }),
            Err(TryLockError::WouldBlock) => Err(PrivatePostgresError::InUse { state_dir }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// A command in this directory, with no input and none of the server's environment: PGPORT, PGDATA or
    /// a locale of it would reach into Postgres.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.base)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.base.join("data")
    }

    /// The directory of the socket; refused if the socket's path would be too long.
    pub(super) fn socket_dir(&self) -> Result<PathBuf, PrivatePostgresError> {
        let dir = self.base.join("run");
        let socket = dir.join(format!(".s.PGSQL.{PORT}"));
        let bytes = socket.as_os_str().as_bytes().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(PrivatePostgresError::SocketPathTooLong {
                socket,
                bytes,
                limit: SOCKET_PATH_BYTES_MAX,
            });
        }
        Ok(dir)
    }

    /// The major version of the data; `None` if there is none yet.
    pub(super) fn data_major(&self) -> Result<Option<String>, PrivatePostgresError> {
        let data_dir = self.data_dir();
        let path = data_dir.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(version) => Ok(Some(version.trim().to_owned())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("read", &path)(error)),
            Err(_) if data_dir.exists() => Err(PrivatePostgresError::NotDataDirectory { data_dir }),
            Err(_) => Ok(None),
        }
    }

    /// Makes the data directory with role and database in it, under another name until it is whole.
    pub(super) async fn make_data_dir(&self, binaries: &Binaries) -> Result<(), PrivatePostgresError> {
        let unfinished = self.base.join("data.unfinished");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &unfinished)(error));
            }
            _ => {}
        }
        self.run_initdb(binaries, &unfinished).await?;
        self.create_database(binaries, &unfinished).await?;
        let data_dir = self.data_dir();
        fs::rename(&unfinished, &data_dir).map_err(failed("make", &data_dir))?;
        // The new name has to survive a power failure, as its contents do.
        File::open(&self.base).and_then(|base| base.sync_all()).map_err(failed("sync", &self.base))
    }

    async fn run_initdb(&self, binaries: &Binaries, dir: &Path) -> Result<(), PrivatePostgresError> {
        let program = binaries.program("initdb");
        // The same everywhere, whatever locales are installed: text is UTF-8 and sorts by bytes.
        let child = self
            .command(&program)
            .args(["--username=postgres", "--encoding=UTF8", "--locale=C", "--data-checksums"])
            .args(["--auth-local=trust", "--auth-host=reject", "--pgdata"])
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(self.append_to_log()?)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| PrivatePostgresError::Run { program, source })?;
        self.finish("initdb", child).await
    }

    /// In single-user mode, so that no superuser ever connects over the socket for it.
    async fn create_database(&self, binaries: &Binaries, dir: &Path) -> Result<(), PrivatePostgresError> {
        let program = binaries.program("postgres");
        let run_failed = |source| PrivatePostgresError::Run { program: program.clone(), source };
        let mut child = self
            .command(&program)
            .args(["--single", "-c", "exit_on_error=on", "-D"])
            .arg(dir)
            .arg("postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(self.append_to_log()?)
            .kill_on_drop(true)
            .spawn()
            .map_err(&run_failed)?;
        let statements = format!(
            "create role {ROLE} login\ncreate role cgfleet_reader nologin\ncreate database {ROLE} owner {ROLE}\n"
        );
        if let Some(mut stdin) = child.stdin.take() {
            // If it ended before it read this, its exit status says more than a broken pipe.
            let _ = stdin.write_all(statements.as_bytes()).await;
        }
        self.finish("postgres --single", child).await
    }

    async fn finish(&self, program: &'static str, mut child: Child) -> Result<(), PrivatePostgresError> {
        match timeout(SETUP_DEADLINE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(PrivatePostgresError::Setup { program, status, log: self.log_tail() }),
            Ok(Err(source)) => Err(PrivatePostgresError::Run { program: program.into(), source }),
            Err(_) => {
                let (operation, limit) = (program, SETUP_DEADLINE);
                Err(PrivatePostgresError::Timeout { operation, limit, log: self.log_tail() })
            }
        }
    }

    /// Begins a new log and keeps the one before: it may tell why the last run ended.
    pub(super) fn begin_log(&self) -> Result<(), PrivatePostgresError> {
        let log = self.base.join("log");
        match fs::rename(&log, self.base.join("log.previous")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("rename", &log)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn append_to_log(&self) -> Result<File, PrivatePostgresError> {
        let log = self.base.join("log");
        File::options().create(true).append(true).mode(0o600).open(&log).map_err(failed("open", &log))
    }

    /// The last lines of the log, in one line.
    pub(super) fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut log = File::open(self.base.join("log"))?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = match read() {
            Ok(text) => text,
            Err(error) => return format!("(unreadable: {error})"),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match lines.split_at(lines.len().saturating_sub(LOG_TAIL_LINES)) {
            (_, []) => "(empty)".to_owned(),
            (_, tail) => tail.join(" | "),
        }
    }
}
