//! cgfleet-agent.

use std::process::ExitCode;

use anyhow::anyhow;
use cgfleet_agent::{
    config::{AgentConfig, DAEMON},
    run,
};
use cgfleet_rpc::{
    listen::{self, Exposure},
    shutdown, trace,
};

fn main() -> ExitCode {
    let config = match cgfleet_config::load_process::<AgentConfig>(&DAEMON) {
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

#[tokio::main]
async fn start(config: AgentConfig) -> anyhow::Result<()> {
    trace::init(DAEMON.name, &config.log, config.log_format)?;
    let shutdown = shutdown::on_signal().map_err(|error| anyhow!("install signal handlers: {error}"))?;
    let listener = listen::bind(config.listen_address, Exposure::of_insecure(config.insecure)).await?;
    Ok(run(config, listener, shutdown).await?)
}
