//! cgfleet-agent.

use std::process::ExitCode;

use anyhow::anyhow;
use cgfleet_agent::{
    Prepared,
    config::{AgentConfig, DAEMON},
    run,
};
use cgfleet_privileges::RunAs;
use cgfleet_rpc::{shutdown, trace};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let config = match cgfleet_config::load_process::<AgentConfig>(&DAEMON) {
        Ok((config, _no_commands)) => config,
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

/// Does what needs privilege, then gives up every privilege, then starts threads and touches what others
/// may have a hand in.
fn start(config: AgentConfig) -> anyhow::Result<()> {
    trace::init(DAEMON.name, &config.log, config.log_format)?;
    shutdown::exit_on_panic();
    let mut run_as = RunAs::resolve(&config.user)?;
    let prepared = Prepared::new(&config, &run_as)?;
    run_as.own_directory(&config.state_dir)?;
    run_as.drop_privileges()?;
    Runtime::new().map_err(|error| anyhow!("start threads: {error}"))?.block_on(async {
        let shutdown = shutdown::on_signal().map_err(|error| anyhow!("install signal handlers: {error}"))?;
        Ok(run(config, prepared, shutdown).await?)
    })
}
