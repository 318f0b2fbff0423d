//! Which hosts are asked, through whom, and for how long.

use std::time::Duration;

use cgfleet_proto::v1::HostSelector;
use clap::{Args, builder::NonEmptyStringValueParser};

use super::values::parse_timeout;

/// Which hosts are asked, and through whom.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HostArgs {
    /// A host's name or id; may be repeated
    #[arg(long, value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    host: Vec<String>,
    /// Every registered host, lost ones too
    #[arg(long)]
    all: bool,
    /// One agent (host:port), asked straight, without the server
    #[arg(long, value_name = "ADDR", conflicts_with = "server")]
    agent: Option<String>,
}

/// Who answers: the server for some hosts, or one agent.
pub(crate) enum Answerer {
    Server(HostSelector),
    Agent(String),
}

impl From<HostArgs> for Answerer {
    fn from(args: HostArgs) -> Self {
        match args.agent {
            Some(address) => Self::Agent(address),
            None => Self::Server(HostSelector { hosts: args.host, all: args.all }),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct HostTimeoutArgs {
    /// How long one host may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout, conflicts_with = "agent")]
    pub(crate) host_timeout: Duration,
}

impl HostTimeoutArgs {
    pub(crate) fn to_proto(&self) -> Option<prost_types::Duration> {
        self.host_timeout.try_into().ok()
    }
}
