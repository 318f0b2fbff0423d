//! A Postgres that somebody else runs: over TLS, with a password from elsewhere, and behind pgbouncer.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use cgfleet_server::{
    private_postgres::PrivatePostgres,
    store::{Database, HostRecord, Store, StoreLimits},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::fixture::{id, options, state_dir};

const PASSWORD: &str = "p@ss/word";

/// Postgres on a loopback port, which takes TLS and a password alone, and on a socket, which trusts.
struct ExternalPostgres {
    // Ended before its directory is removed.
    _postmaster: Running,
    dir: TempDir,
    port: u16,
    bin_dir: PathBuf,
}

/// A process that is ended when the test ends, however that does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.0.wait().unwrap();
    }
}

impl ExternalPostgres {
    async fn start() -> Self {
        let dir = state_dir();
        let postgres = PrivatePostgres::start(&options(dir.path())).await.unwrap();
        let bin_dir = postgres.bin_dir().to_owned();
        postgres.stop().await;
        let data = dir.path().join("postgres/data");
        write_certificates(dir.path(), &data);
        let access = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), access).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let postmaster = Command::new(bin_dir.join("postgres"))
            .env_clear()
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-c", &format!("port={port}")])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", dir.path().display()))
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let started = Self { _postmaster: Running(postmaster), dir, port, bin_dir };
        wait_until("Postgres takes connections", || started.psql("select 1").is_some());
        started.psql(&format!("alter role cgfleet password '{PASSWORD}'")).unwrap();
        started
    }

    /// What psql prints, as the superuser over the socket.
    fn psql(&self, statement: &str) -> Option<String> {
        let output = Command::new(self.bin_dir.join("psql"))
            .env_clear()
            .args(["-X", "-A", "-t", "-U", "postgres", "-d", "cgfleet", "-p", &self.port.to_string()])
            .arg("-h")
            .arg(self.dir.path())
            .args(["-c", statement])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn database(&self, parameters: &str, password: &str) -> Database {
        let url = format!("postgres://cgfleet@127.0.0.1:{}/cgfleet?{parameters}", self.port);
        let url = url.replace("DIR", &self.dir.path().display().to_string());
        Database::Url { url, password: Some(password.to_owned()) }
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < deadline, "a minute, and still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Of an authority whose certificate is `ca.pem`; `other.pem` is another one's.
fn write_certificates(dir: &Path, data: &Path) {
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    };
    let ((ca, issuer), (other, _)) = (authority(), authority());
    fs::write(dir.join("ca.pem"), ca).unwrap();
    fs::write(dir.join("other.pem"), other).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(data.join("server.crt"), certificate.pem()).unwrap();
    fs::write(data.join("server.key"), key.serialize_pem()).unwrap();
    Command::new("chmod").arg("0600").arg(data.join("server.key")).status().unwrap();
}

fn host() -> HostRecord {
    HostRecord {
        host_id: id(1),
        boot_id: id(2),
        agent_epoch: id(3),
        hostname: "host".to_owned(),
        address: "localhost:1".to_owned(),
        kernel_release: "6.1".to_owned(),
        agent_version: "0".to_owned(),
    }
}

async fn connect(database: &Database) -> Result<Store, String> {
    Store::connect(database, StoreLimits::default()).await.map_err(|error| error.to_string())
}

async fn check_refused(database: &Database, expect: &str) {
    let error = connect(database).await.unwrap_err();
    assert!(error.contains(expect), "{error:?} does not say {expect:?}");
    assert!(!error.contains(PASSWORD), "{error}");
}

#[tokio::test]
async fn tls_is_checked_as_the_url_says_and_the_password_comes_from_elsewhere() {
    let postgres = ExternalPostgres::start().await;
    let checked = "sslmode=verify-full&sslrootcert=DIR/ca.pem";
    let store = connect(&postgres.database(checked, PASSWORD)).await.unwrap();
    assert!(store.register_host(&host()).await.unwrap());
    let over_tls = "select count(*) > 0 and bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
                    where application_name = 'cgfleet-server'";
    assert_eq!(postgres.psql(over_tls).unwrap(), "t");
    store.close().await;

    connect(&postgres.database("sslmode=require", PASSWORD)).await.unwrap().close().await;
    check_refused(
        &postgres.database("sslmode=verify-full&sslrootcert=DIR/other.pem", PASSWORD),
        "certificate",
    )
    .await;
    check_refused(&postgres.database("sslmode=disable", PASSWORD), "no encryption").await;
    check_refused(&postgres.database(checked, "wrong"), "password authentication failed").await;
}

#[tokio::test]
async fn a_pool_in_session_mode_may_be_between() {
    let postgres = ExternalPostgres::start().await;
    let dir = postgres.dir.path();
    let run = dir.join("pgbouncer");
    fs::create_dir(&run).unwrap();
    let (socket_dir, port) = (dir.display(), postgres.port);
    let configuration = format!(
        "[databases]\ncgfleet = host={socket_dir} port={port}\n[pgbouncer]\nlisten_addr =\n\
         unix_socket_dir = {}\nlisten_port = 6432\nauth_type = trust\nauth_file = {socket_dir}/users\n\
         pool_mode = session\ndefault_pool_size = 16\n",
        run.display()
    );
    fs::write(dir.join("users"), "\"cgfleet\" \"\"\n").unwrap();
    fs::write(dir.join("pgbouncer.ini"), configuration).unwrap();
    let pgbouncer = Command::new("/usr/sbin/pgbouncer").arg("--quiet").arg(dir.join("pgbouncer.ini")).spawn();
    let _pgbouncer = Running(pgbouncer.expect("the package pgbouncer is installed"));
    wait_until("pgbouncer listens", || run.join(".s.PGSQL.6432").exists());

    let url = format!("postgres://cgfleet@localhost:6432/cgfleet?host={}", run.display());
    let store = connect(&Database::url(url)).await.unwrap();
    assert!(store.register_host(&host()).await.unwrap());
    // On all connections at the same time.
    let streams = (0..16).map(|_| store.open_stream(id(1)));
    let opened = futures::future::join_all(streams).await;
    let mut fences: Vec<_> = opened.into_iter().map(|opened| opened.unwrap().fence).collect();
    fences.sort_unstable();
    fences.dedup();
    assert_eq!(fences.len(), 16);
    store.close().await;
}
