//! cgfleet-server.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt as _, path::Path, process::ExitCode};

use anyhow::{anyhow, bail};
use cgfleet_config::Invocation;
use cgfleet_privileges::RunAs;
use cgfleet_rpc::{
    listen::{self, Exposure},
    shutdown, trace,
};
use cgfleet_server::{
    config::{BACKUP, DAEMON, ServerConfig},
    private_postgres::{self, PrivatePostgresError},
    run,
};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let (config, invocation) = match cgfleet_config::load_process::<ServerConfig>(&DAEMON) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let done = match invocation {
        Some(Invocation { command, file }) => run_command(&config, command, &file),
        None => start(config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Every error of ours names its causes itself.
            eprintln!("{}: {error}", DAEMON.name);
            ExitCode::FAILURE
        }
    }
}

/// Takes its port and its state directory, then gives up every privilege, then starts threads and Postgres.
fn start(config: ServerConfig) -> anyhow::Result<()> {
    trace::init(DAEMON.name, &config.log, config.log_format)?;
    shutdown::exit_on_panic();
    let mut run_as = RunAs::resolve(&config.user)?;
    let listener = listen::bind(config.listen_address, Exposure::of_insecure(config.insecure))?;
    let database = config.database()?;
    if database.is_none() || config.spool_bytes_max > 0 {
        run_as.own_directory(&config.state_dir)?;
    }
    run_as.drop_privileges()?;
    Runtime::new().map_err(|error| anyhow!("start threads: {error}"))?.block_on(async {
        let shutdown = shutdown::on_signal().map_err(|error| anyhow!("install signal handlers: {error}"))?;
        Ok(run(config, database, listener, shutdown).await?)
    })
}

/// Opens the file as whoever started this, then gives up every privilege, then has Postgres write or read it.
fn run_command(config: &ServerConfig, command: &str, path: &Path) -> anyhow::Result<()> {
    trace::init(DAEMON.name, &config.log, config.log_format)?;
    shutdown::exit_on_panic();
    if let Some(database) = config.database()? {
        bail!("{command}: {database} is not this server's own: use pg_dump and pg_restore");
    }
    let is_backup = command == BACKUP;
    let opened = if is_backup { new_private_file(path) } else { File::open(path) };
    let file = opened.map_err(|error| anyhow!("{command}: open {}: {error}", path.display()))?;
    let mut run_as = RunAs::resolve(&config.user)?;
    if !is_backup || config.state_dir.exists() {
        run_as.own_directory(&config.state_dir)?;
    }
    run_as.drop_privileges()?;
    let options = config.private_postgres();
    let runtime = Runtime::new().map_err(|error| anyhow!("start threads: {error}"))?;
    let done: Result<(), PrivatePostgresError> = runtime.block_on(async {
        if is_backup {
            let bytes = private_postgres::backup(&options, file).await?;
            tracing::info!(file = %path.display(), bytes, "the backup is written");
        } else {
            private_postgres::restore(&options, file).await?;
            tracing::info!(file = %path.display(), "the backup is restored; the server can be started");
        }
        Ok(())
    });
    done.map_err(|error| anyhow!("{command}: {error}"))
}

fn new_private_file(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}
