//! Views to be made, listed and removed.

use cgfleet_proto::v1::{CgroupTarget, ViewSpec};
use clap::{Args, Subcommand};
use prost_types::FieldMask;

use super::{FormatArgs, HostArgs, HostTimeoutArgs};
use crate::{exit::EXIT_CODES, target::parse_target, words::Order};

#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    #[command(subcommand)]
    pub(crate) command: ViewCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ViewCommand {
    /// Make a view
    #[command(after_help = EXIT_CODES)]
    Create(CreateViewArgs),
    /// List the views of hosts
    #[command(after_help = EXIT_CODES)]
    List(ListViewsArgs),
    /// Remove a view
    #[command(after_help = EXIT_CODES)]
    Delete(DeleteViewArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateViewArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    /// What its file is called: A-Z, a-z, 0-9, '_' and '-'
    name: String,
    /// The cgroup it starts at: /path, HIERARCHY:/path or a cgroup id [default: the cgroup v2 root]
    #[arg(value_parser = parse_target)]
    target: Option<CgroupTarget>,
    /// Which way it goes
    #[arg(long, value_enum, default_value = "pre")]
    order: Order,
    /// Its columns: metrics, or groups of them [default: all that a view can have]
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    fields: Vec<String>,
    /// Make it even if its text does not fit; its last line says so then
    #[arg(long)]
    truncate: bool,
    #[command(flatten)]
    pub(crate) host_timeout: HostTimeoutArgs,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}

impl CreateViewArgs {
    /// What it is to show.
    pub(crate) fn to_spec(&self) -> ViewSpec {
        ViewSpec {
            name: self.name.clone(),
            target: self.target.clone(),
            order: cgfleet_proto::v1::CgroupOrder::from(self.order).into(),
            read_mask: (!self.fields.is_empty()).then(|| FieldMask { paths: self.fields.clone() }),
            truncate: self.truncate,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListViewsArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    #[command(flatten)]
    pub(crate) host_timeout: HostTimeoutArgs,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteViewArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    /// What it is called
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) host_timeout: HostTimeoutArgs,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}
