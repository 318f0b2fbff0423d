//! The command line of the fleet. It asks the server, or with `--agent` one host's agent, and
//! prints the answer for people (table) or for programs (json, ndjson; `docs/cli.md` has their
//! shapes). The answer goes to stdout, everything about it to stderr.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | complete: every chosen host answered, and whole |
//! | 1 | `cgctl` itself failed, for example in writing its output |
//! | 2 | usage: the command has to be changed; every host, or the server, refuses it as bad input |
//! | 3 | partial: a host failed, has no such cgroup or cut its answer, or the answer broke off |
//! | 4 | nothing reachable: server, agent or every chosen host is down or too slow, or there is no host |
//!
//! A cgroup that no chosen host has is 2: to a script it is a typing error, and repeating the
//! command does not help. One that some hosts lack is 3.
//!
//! Must not know: kernels, cgroup files, or how anything is stored.

#![cfg_attr(test, allow(clippy::needless_raw_string_hashes, reason = "as expect-test writes them"))]

mod args;
mod collectors;
mod doctor;
mod error;
mod exit;
mod flush;
mod history;
mod hosts;
mod metrics;
mod moment;
mod output;
mod query;
mod remote;
mod target;
mod view;
mod watch;
mod words;

use std::{env, ffi::OsString, time::Duration};

use cgfleet_rpc::trace::{self, LogFormat};
use clap::Parser as _;
use opentelemetry::trace::TraceContextExt as _;
use tracing::{Instrument as _, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    args::{Cli, Command, SERVER_DEFAULT, SERVER_VARIABLE},
    error::Error,
    output::note,
    remote::{Agent, Deadline, Server},
};
pub use exit::Exit;

/// The variable that holds the log filter; nothing is logged without it.
const LOG_VARIABLE: &str = "CGFLEET_LOG";

/// How long a command may take that does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Runs the command that `args` (the program's name first) give, prints its answer and its error.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match start(cli) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = error.exit();
            if exit != Exit::Complete {
                note(&format!("cgctl: {error}"));
            }
            exit
        }
    }
}

/// Prints help where it was asked for, else one line of what is wrong.
fn explain(error: &clap::Error) -> Exit {
    match args::usage_line(error) {
        Some(line) => note(&format!("cgctl: {line}")),
        // A closed stdout or stderr takes no help; there is nobody to tell.
        None => drop(error.print()),
    }
    if error.use_stderr() { Exit::Usage } else { Exit::Complete }
}

fn start(cli: Cli) -> Result<Exit, Error> {
    let filter = setting(LOG_VARIABLE).unwrap_or_else(|| "off".to_owned());
    trace::init("cgctl", &filter, LogFormat::Text)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let span = info_span!("cgctl", command = cli.command.name());
    runtime.block_on(dispatch(cli).instrument(span))
}

async fn dispatch(cli: Cli) -> Result<Exit, Error> {
    if cli.trace {
        let context = Span::current().context();
        note(&format!("trace {}", context.span().span_context().trace_id()));
    }
    let url = cli.server.or_else(|| setting(SERVER_VARIABLE)).unwrap_or_else(|| SERVER_DEFAULT.to_owned());
    let deadline = Deadline::after(cli.timeout.unwrap_or(TIMEOUT_DEFAULT));
    let calls = Calls { url, deadline, is_timeout_given: cli.timeout.is_some() };
    match cli.command {
        Command::Query(args) => query::run(args, &calls).await,
        Command::Watch(args) => watch::run(args, &calls).await,
        Command::Flush(args) => flush::run(args, &calls).await,
        Command::History(args) => history::run(*args, &calls.server()?).await,
        Command::Collectors(args) => collectors::run(args, &calls).await,
        Command::View(args) => view::run(args, &calls).await,
        Command::Hosts(args) => hosts::run(args.format, &calls.server()?).await,
        Command::Metrics(args) => metrics::run(args.format, &calls.server()?).await,
        Command::Doctor(args) => doctor::run(args.output.format, &calls.agent(&args.agent)?).await,
    }
}

/// Who can be called, and until when.
struct Calls {
    url: String,
    deadline: Deadline,
    /// Whether it is meant for what has no end, too.
    is_timeout_given: bool,
}

impl Calls {
    fn server(&self) -> Result<Server, Error> {
        Server::new(&self.url, self.deadline)
    }

    fn agent(&self, address: &str) -> Result<Agent, Error> {
        Agent::new(address, self.deadline)
    }
}

/// A variable of the environment; one that is set to nothing is not set.
fn setting(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}
