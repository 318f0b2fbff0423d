//! Backups of the private Postgres: what pg_dump writes, and pg_restore reads in any later major version.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::Stdio,
};

use tokio::process::Command;

use super::{
    PORT, PrivatePostgres, PrivatePostgresError, PrivatePostgresOptions, ROLE, binaries::Binaries,
    cluster::Cluster,
};

/// Writes all that the private Postgres holds to `file`, as of one moment; how many bytes that is. A server may run
/// on it meanwhile; if none does, Postgres is started for this.
pub async fn backup(options: &PrivatePostgresOptions, file: File) -> Result<u64, PrivatePostgresError> {
    let data_dir = options.state_dir.join("postgres/data");
    if !data_dir.exists() {
        return Err(PrivatePostgresError::NothingToBackUp { data_dir });
    }
    let written = match PrivatePostgres::start(options).await {
        Ok(postgres) => {
            let dumped = dump(&postgres.bin_dir, &postgres.socket_dir, &file).await;
            postgres.stop().await;
            dumped
        }
        Err(PrivatePostgresError::InUse { .. }) => dump_of_running(options, &file).await,
        Err(error) => Err(error),
    };
    let finished = written.and_then(|()| {
        let written = file.sync_all().and_then(|()| file.metadata());
        written.map(|metadata| metadata.len()).map_err(|source| PrivatePostgresError::BackupFile { source })
    });
    if finished.is_err() {
        // Half a backup must not look like one.
        let _ = file.set_len(0);
    }
    finished
}

async fn dump_of_running(options: &PrivatePostgresOptions, file: &File) -> Result<(), PrivatePostgresError> {
    let base = options.state_dir.join("postgres");
    let major = fs::read_to_string(base.join("data/PG_VERSION")).ok();
    let binaries = Binaries::find(options.bin_dir.as_deref(), major.as_deref().map(str::trim)).await?;
    dump(&binaries.dir, &base.join("run"), file).await
}

async fn dump(bin_dir: &Path, socket_dir: &Path, file: &File) -> Result<(), PrivatePostgresError> {
    let mut command = client(bin_dir, "pg_dump", socket_dir)?;
    let file = file.try_clone().map_err(|source| PrivatePostgresError::BackupFile { source })?;
    // Payloads are compressed already. Who may read what is set when a server starts.
    command.args(["--format=custom", "--compress=1", "--no-owner", "--no-privileges"]);
    command.args(["--dbname", ROLE]).stdin(Stdio::null()).stdout(file);
    finish("pg_dump", command).await
}

/// Makes the private Postgres from a backup. There must be none yet; if the backup cannot be read to its end, there is
/// none afterwards either.
pub async fn restore(options: &PrivatePostgresOptions, file: File) -> Result<(), PrivatePostgresError> {
    let data_dir = {
        let cluster = Cluster::lock(&options.state_dir)?;
        cluster.data_dir()
    };
    if data_dir.exists() {
        return Err(PrivatePostgresError::NotEmpty { data_dir });
    }
    let postgres = PrivatePostgres::start(options).await?;
    let restored = read_back(&postgres, file).await;
    postgres.stop().await;
    if restored.is_err()
        && let Err(error) = fs::remove_dir_all(&data_dir)
    {
        tracing::warn!(dir = %data_dir.display(), %error, "cannot remove what was restored in part");
    }
    restored
}

async fn read_back(postgres: &PrivatePostgres, file: File) -> Result<(), PrivatePostgresError> {
    let mut command = client(&postgres.bin_dir, "pg_restore", &postgres.socket_dir)?;
    command.args(["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]);
    command.args(["--dbname", ROLE]).stdin(file).stdout(Stdio::null());
    finish("pg_restore", command).await
}

/// A client program of the same installation, on the socket.
fn client(bin_dir: &Path, program: &str, socket_dir: &Path) -> Result<Command, PrivatePostgresError> {
    let program = bin_dir.join(program);
    if !program.is_file() {
        return Err(PrivatePostgresError::ClientMissing { program });
    }
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir("/").kill_on_drop(true);
    command.arg("--host").arg(socket_dir).args([
        "--port",
        &PORT.to_string(),
        "--username",
        ROLE,
        "--no-password",
    ]);
    Ok(command)
}

async fn finish(program: &'static str, mut command: Command) -> Result<(), PrivatePostgresError> {
    let failed = |source: io::Error| PrivatePostgresError::Run { program: program.into(), source };
    let output = command.stderr(Stdio::piped()).spawn().map_err(failed)?.wait_with_output().await;
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(PrivatePostgresError::Setup { program, status: output.status, log: lines.join(" | ") })
}
