//! cgfleet-server.

use std::process::ExitCode;

use anyhow::anyhow;
use cgfleet_privileges::RunAs;
use cgfleet_rpc::{
    listen::{self, Exposure},
    shutdown, trace,
};
use cgfleet_server::{
    config::{DAEMON, ServerConfig},
    run,
};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let config = match cgfleet_config::load_process::<ServerConfig>(&DAEMON) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match start(config) {
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
    if config.database_url.is_none() {
        run_as.own_directory(&config.state_dir)?;
    }
    run_as.drop_privileges()?;
    Runtime::new().map_err(|error| anyhow!("start threads: {error}"))?.block_on(async {
        let shutdown = shutdown::on_signal().map_err(|error| anyhow!("install signal handlers: {error}"))?;
        Ok(run(config, listener, shutdown).await?)
    })
}
