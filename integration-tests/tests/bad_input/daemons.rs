//! Daemons that cannot start: their flags, their files, their host.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use integration_tests::{
    cli::run_command,
    daemon::{self, Start},
    lacking::Lacking,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command};

use super::{check_line, in_time};

/// What is wrong with the host, and not with the command line.
#[derive(Debug, Clone, Copy)]
enum Host {
    AsItIs,
    /// BPF cannot be used.
    Lacks(Lacking),
    /// Root without any capability.
    WithoutCapabilities,
}

/// A configuration that is refused as such.
const CONFIGURATION: i32 = 2;
/// A daemon that found something missing.
const FAILURE: i32 = 1;

/// Flags, with DIR for a directory of the test's own; exit code; what the line says.
type Row<'a> = (&'a str, i32, &'a [&'a str]);

const BAD_AGENTS: &[Row<'_>] = &[
    ("--frobnicate", CONFIGURATION, &["'--frobnicate'", "cgfleet-agent --help"]),
    (
        "--slice-rows-max=0",
        CONFIGURATION,
        &["slice_rows_max = 0", "allowed is 256 to 1000000", "--slice-rows-max=4096"],
    ),
    ("--slice-rows-max=many", CONFIGURATION, &["slice_rows_max = \"many\"", "allowed is a whole number"]),
    (
        "--sample-interval=1ms",
        CONFIGURATION,
        &["sample_interval = \"1ms\"", "100ms to 1h", "--sample-interval=10s"],
    ),
    (
        "--sample-interval=5",
        CONFIGURATION,
        &["sample_interval = 5", "with its unit", "--sample-interval=10s"],
    ),
    ("--log=a=b=c", CONFIGURATION, &["log = \"a=b=c\"", "allowed is a level (error, warn", "--log=info"]),
    ("--bpf=maybe", CONFIGURATION, &["bpf = \"maybe\"", "`auto`, `require`, `off`"]),
    (
        "--sample-fields=cpu,disk",
        CONFIGURATION,
        &["sample_fields = \"cpu,disk\"", "allowed is cpu, memory, memory_stat", "`cgctl metrics`"],
    ),
    ("--sample-fields=cpu.usage", CONFIGURATION, &["sample_fields = \"cpu.usage\"", "cpu.usage_usec"]),
    ("--server-url=nowhere", CONFIGURATION, &["server_url = \"nowhere\"", "host:port or http://host:port"]),
    ("--advertise-address=nowhere", CONFIGURATION, &["advertise_address = \"nowhere\"", "host:port"]),
    (
        "--server-url=http://127.0.0.1:1 --insecure --listen-address=0.0.0.0:0",
        CONFIGURATION,
        &["listen_address = \"0.0.0.0:0\"", "advertise_address is unset"],
    ),
    (
        "--server-url=http://fleet.example:1",
        CONFIGURATION,
        &["listen_address = \"127.0.0.1:0\"", "that the server can dial, or set advertise_address"],
    ),
    ("--listen-address=nowhere", CONFIGURATION, &["listen_address = \"nowhere\"", "such as 127.0.0.1:80"]),
    (
        "--config=DIR/missing.toml",
        CONFIGURATION,
        &["DIR/missing.toml", "No such file", "name a readable TOML file"],
    ),
    (
        "--config=DIR/unknown-key.toml",
        CONFIGURATION,
        &["DIR/unknown-key.toml:2", "\"walk_row_max\"", "did you mean walk_rows_max?"],
    ),
    (
        "--config=DIR/broken.toml",
        CONFIGURATION,
        &["DIR/broken.toml:1", "not valid TOML", "one key = value per line"],
    ),
    ("--listen-address=0.0.0.0:0", FAILURE, &["0.0.0.0:0", "allowed: a loopback address, or --insecure"]),
    (
        "--listen-address=192.0.2.1:7401 --insecure",
        FAILURE,
        &["192.0.2.1:7401", "choose an address of this host"],
    ),
    ("--state-dir=DIR/file", FAILURE, &["DIR/file", "state_dir must be a directory"]),
    (
        "--state-dir=DIR/damaged",
        FAILURE,
        &["DIR/damaged/host-id", "\"half\" is not a uuid", "restore it, or delete"],
    ),
    (
        "--state-dir=DIR/roots",
        FAILURE,
        &["DIR/roots belongs to", "choose another", "chown -R nobody DIR/roots"],
    ),
    ("--state-dir=DIR/closed/below", FAILURE, &["\"nobody\"", "cannot enter DIR/closed", "chmod o+x"]),
    ("--user=nobody-here", FAILURE, &["\"nobody-here\"", "does not exist", "set user to"]),
    ("--user=root", FAILURE, &["does not run as root", "set user to", "unprivileged"]),
];

const BAD_SERVERS: &[Row<'_>] = &[
    ("--frobnicate", CONFIGURATION, &["'--frobnicate'", "cgfleet-server --help"]),
    ("--postgres-connections-max=1", CONFIGURATION, &["postgres_connections_max = 1", "2 to 1000"]),
    (
        "--database-url=garbage",
        CONFIGURATION,
        &["database_url = \"garbage\"", "postgres://user:password@host:port"],
    ),
    (
        "--database-url=postgres://me:secret@127.0.0.1:port/fleet",
        CONFIGURATION,
        &["postgres://me:***@127.0.0.1:port/fleet", "postgres://user:password@host:port"],
    ),
    (
        "--database-url=postgres://me:secret@127.0.0.1:1/fleet",
        FAILURE,
        &["fleet at 127.0.0.1:1", "Connection refused", "start it, or correct DATABASE_URL"],
    ),
    (
        "--postgres-bin-dir=/nonexistent",
        FAILURE,
        &["not found in /nonexistent", "install the package postgresql", "postgres_bin_dir", "DATABASE_URL"],
    ),
    ("--user=nobody-here", FAILURE, &["\"nobody-here\"", "does not exist", "set user to"]),
    ("--user=root", FAILURE, &["does not run as root", "set user to", "unprivileged"]),
    (
        "--state-dir=DIR/other-major",
        FAILURE,
        &["DIR/other-major/postgres/data is of Postgres 9", "install the package postgresql-9"],
    ),
    (
        "--state-dir=DIR/not-a-cluster",
        FAILURE,
        &["DIR/not-a-cluster/postgres/data", "no PG_VERSION", "move it away"],
    ),
    ("--state-dir=DIR/file", FAILURE, &["DIR/file", "state_dir must be a directory"]),
    ("--state-dir=DIR/closed/below", FAILURE, &["\"postgres\"", "cannot enter DIR/closed", "chmod o+x"]),
];

/// A directory with everything in it that the rows above find wrong.
fn broken_files() -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = daemon::state_dir()?;
    for (file, text) in [
        ("unknown-key.toml", "insecure = true\nwalk_row_max = 5\n"),
        ("broken.toml", "slice_rows_max = = 5\n"),
        ("file", ""),
        ("damaged/host-id", "half"),
        ("other-major/postgres/data/PG_VERSION", "9\n"),
        ("not-a-cluster/postgres/data/notes", ""),
        ("closed/file", ""),
        ("roots/file", ""),
    ] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
        fs::write(path, text)?;
    }
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700))?;
    for (state_dir, user) in
        [("damaged", "nobody"), ("other-major", "postgres"), ("not-a-cluster", "postgres")]
    {
        let status = std::process::Command::new("chown")
            .args(["-R", user])
            .arg(dir.path().join(state_dir))
            .status()?;
        ensure!(status.success(), "chown: {status}");
    }
    Ok(dir)
}

/// What an agent says that must have BPF and cannot load it.
const NOT_PERMITTED: &[&str] = &["not permitted to load BPF", "as root, or with CAP_BPF"];
const NO_BTF: &[&str] = &["no BTF", "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"];

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_start_says_why() -> Result<()> {
    let dir = broken_files()?;
    let living = Start::agent()?.start().await?;
    let (state, address) = (living.state().display().to_string(), living.address().to_string());
    let (in_use, taken) = (format!("--state-dir={state}"), format!("--listen-address={address}"));
    let rows: [(Host, Row<'_>); 5] = [
        (Host::Lacks(Lacking::Btf), ("--bpf=require", FAILURE, NO_BTF)),
        (Host::Lacks(Lacking::Capabilities), ("--bpf=require", FAILURE, NOT_PERMITTED)),
        (Host::WithoutCapabilities, ("--bpf=require", FAILURE, NOT_PERMITTED)),
        (Host::AsItIs, (&in_use, FAILURE, &[&state, "in use by another agent", "stop that one"])),
        (Host::AsItIs, (&taken, FAILURE, &[&address, "taken by another process", "choose another port"])),
    ];
    for (host, row) in BAD_AGENTS.iter().map(|row| (Host::AsItIs, *row)).chain(rows) {
        check(host, "cgfleet-agent", dir.path(), row).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why() -> Result<()> {
    let dir = broken_files()?;
    let living = Start::server()?.start().await?;
    let (state, address) = (living.state().display().to_string(), living.address().to_string());
    let (in_use, taken) = (format!("--state-dir={state}"), format!("--listen-address={address}"));
    // Takes the connection and then says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let at = format!("fleet at {}", silent.local_addr()?);
    let database = format!("--database-url=postgres://me@{}/fleet", silent.local_addr()?);
    let rows: [Row<'_>; 3] = [
        (&in_use, FAILURE, &[&state, "another cgfleet-server", "stop it"]),
        (&taken, FAILURE, &[&address, "taken by another process", "choose another port"]),
        (&database, FAILURE, &[&at, "no answer within 5s", "start it, or correct DATABASE_URL"]),
    ];
    for row in BAD_SERVERS.iter().copied().chain(rows) {
        check(Host::AsItIs, "cgfleet-server", dir.path(), row).await?;
    }
    Ok(())
}

/// Starts a daemon with what it needs and the row's mistake, and awaits its end.
async fn check(host: Host, name: &str, dir: &Path, (flags, code, says): Row<'_>) -> Result<()> {
    let dir = dir.display().to_string();
    let mut arguments: Vec<String> = flags.split_whitespace().map(|flag| flag.replace("DIR", &dir)).collect();
    for (flag, value) in
        [("--log", "error"), ("--listen-address", "127.0.0.1:0"), ("--state-dir", "DIR/state")]
    {
        if !flags.contains(flag) {
            arguments.push(format!("{flag}={}", value.replace("DIR", &dir)));
        }
    }
    let wrapped: &[&str] = match host {
        Host::AsItIs => &[],
        Host::Lacks(lacking) => lacking.wrapper(),
        Host::WithoutCapabilities => &["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
    };
    let mut command = Command::new("env");
    command.args(wrapped).arg(daemon::binary(name)?).args(arguments).env_remove("DATABASE_URL");
    let mistake = format!("{name} {flags} {host:?}");
    let ran = in_time(&mistake, run_command(&mut command)).await??;
    let says: Vec<String> = says.iter().map(|part| part.replace("DIR", &dir)).collect();
    check_line(&mistake, ran.stderr.trim_end(), &says.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!ran.stderr.contains("secret"), "{mistake}: shows the password: {}", ran.stderr);
    assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{mistake}: {}", ran.stderr);
    Ok(())
}
