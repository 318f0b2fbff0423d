//! What can be configured of an agent.

use std::{net::SocketAddr, path::PathBuf};

use cgfleet_config::{Checked, Daemon, HumanDuration, InvalidValue};
use cgfleet_ebpf::abi;
use cgfleet_model::{Collector, MetricSet, UnknownCollector, UnknownMetric};
use cgfleet_rpc::{
    channel,
    trace::{self, LogFormat},
};

use crate::views::{FORM, ViewSpec};

/// The agent as the configuration system knows it.
pub const DAEMON: Daemon = Daemon {
    name: "cgfleet-agent",
    about: "Walks this host's cgroups in the kernel and answers Walk, Flush and Subscribe.",
    version: env!("CARGO_PKG_VERSION"),
    env_prefix: "CGFLEET_AGENT_",
    default_file: "/etc/cgfleet/agent.toml",
    commands: &[],
};

/// The kernel ends an iterator's read after so many objects (kernel/bpf/bpf_iter.c, MAX_ITER_OBJECTS).
const WALK_ROWS_LIMIT: u32 = 1_000_000;

/// A walk upward is one slice, so a slice has room for the deepest tree.
const SLICE_ROWS_MIN: u32 = 256;

/// Whether BPF is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BpfUse {
    /// Where it can be.
    Auto,
    /// An agent without it does not start.
    Require,
    /// Never.
    Off,
}

/// The agent's configuration.
#[derive(Debug, Clone, confique::Config)]
pub struct AgentConfig {
    /// The address to serve gRPC on.
    #[config(default = "127.0.0.1:7401")]
    pub listen_address: SocketAddr,
    /// Serve other hosts without TLS. Without it, only a loopback address is allowed.
    #[config(default = false)]
    pub insecure: bool,
    /// The directory that keeps the host's id. Created if it is missing.
    #[config(default = "/var/lib/cgfleet-agent")]
    pub state_dir: PathBuf,
    /// The user that an agent started as root becomes, once it has done all that needs privilege. A user
    /// of its own is better than nobody, which others may be too.
    #[config(default = "nobody")]
    pub user: String,
    /// The host's name in answers. Unset means the kernel's host name.
    pub hostname: Option<String>,
    /// The server to register with (http://host:port). Unset means that nobody is told.
    pub server_url: Option<String>,
    /// host:port at which the server reaches this agent. Unset means the address served on.
    pub advertise_address: Option<String>,
    /// Time between two whole ticks, and of subscriptions that ask for no other; 100ms to 1h.
    #[config(default = "10s")]
    pub sample_interval: HumanDuration,
    /// What a tick reads of each cgroup: groups or metrics, comma-separated, as `cgctl metrics` lists them.
    /// Empty means all, memory.stat too.
    #[config(
        default = "cpu,memory,memory_events,io,pids,pressure,structure,reclaim,attach,runqueue,block_io"
    )]
    pub sample_fields: String,
    /// Whether BPF is used: auto (the cgroup files where it cannot be), require (no agent without it) or
    /// off (the cgroup files always).
    #[config(default = "auto")]
    pub bpf: BpfUse,
    /// Collectors that are switched on at the start: names, comma-separated, as `cgctl collectors` lists them.
    /// Empty means none.
    #[config(default = "attach,reclaim")]
    pub collectors: String,
    /// The most cgroups that each collector has room for; 16 to 1000000. Costs, for each cgroup in which
    /// something was counted or below which, what `cgctl collectors` says.
    #[config(default = 16_384)]
    pub collector_cgroups_max: u32,
    /// The directory of a BPF filesystem in which collectors keep what they counted, for the next agent.
    /// Created if it is missing; each agent needs one of its own.
    #[config(default = "/sys/fs/bpf/cgfleet")]
    pub bpffs_dir: PathBuf,
    /// The most text views at a time; 0 to 16. Each is a BPF program that is loaded at the start.
    #[config(default = 8)]
    pub views_max: u32,
    /// Text views that are made at the start: NAME=TARGET:ORDER:FIELDS, separated by spaces. docs/views.md has
    /// more of them.
    #[config(default = "")]
    pub views: String,
    /// Who may read a text view: the mode of its file, in octal; 0400 to 0777.
    #[config(default = "0640")]
    pub view_mode: String,
    /// The group of text views: a name or a number. Unset means the group of the agent's user.
    pub view_group: Option<String>,
    /// Where the kubelet logs: the names of pods and containers are those of its entries pods and containers. It
    /// need not be there. What an agent that was started as root finds closed to its user has to be there at
    /// the start.
    #[config(default = "/var/log")]
    pub kubelet_log_dir: PathBuf,
    /// The most cgroups that one walk returns; 1 to 1000000.
    #[config(default = 1_000_000)]
    pub walk_rows_max: u32,
    /// The longest that a walk keeps its CPU without a point to reschedule; 10us to 10ms.
    #[config(default = "200us")]
    pub slice_time_max: HumanDuration,
    /// The most cgroups of one slice; 256 to 1000000. Costs 1.4 KiB each, for all groups of metrics
    /// together.
    #[config(default = 4096)]
    pub slice_rows_max: u32,
    /// The most names of new cgroups of one slice, and the deepest tree; 256 to 1000000. Costs 272 bytes
    /// each.
    #[config(default = 8192)]
    pub slice_names_max: u32,
    /// The most cgroups that the locked engine visits in one hold of cgroup_mutex, and never more than
    /// slice_rows_max; 256 to 1000000. A walk of more is done subtree by subtree.
    #[config(default = 4096)]
    pub locked_rows_max: u32,
    /// The most removed cgroups that are held until their CPU time is flushed, while removals are watched; 16
    /// to 65536. Past it, the oldest is reported with what was last known. It is looked after every 50 ms, or
    /// when a walk or flush under way ends, and flushed at the half. Costs 600 bytes each from the start (512
    /// of them for the events between two looks); and a cgroup that is held is memory that the kernel frees
    /// later.
    #[config(default = 8192)]
    pub removed_slots_max: u32,
    /// The most removed cgroups that are kept for whoever watches until the next tick; more are counted as lost.
    /// 16 to 1000000. Costs about 600 bytes for each that is kept.
    #[config(default = 32_768)]
    pub removed_cgroups_max: u32,
    /// The most requests that wait for the walker; more are refused. 1 to 65536.
    #[config(default = 64)]
    pub walk_queue_max: u32,
    /// The most callers that wait for a flush, those included that will share one; more are refused. 1 to
    /// 65536.
    #[config(default = 4096)]
    pub flush_waiters_max: u32,
    /// The most callers that wait for a walk, those included that will share one; more are refused. 1 to
    /// 65536.
    #[config(default = 4096)]
    pub walk_waiters_max: u32,
    /// The most rows of answers to walks that are kept, for later requests with a max_staleness; 0 to 1000000,
    /// 0 for none. Costs about 1 KiB each, once such requests come.
    #[config(default = 20000)]
    pub walk_cache_rows_max: u32,
    /// The most flushes that callers of Walk and Flush may have performed in a second; 1 to 10000. Past it the
    /// answer is that the rate is limited, unless a flush that was performed will do. Those of subscriptions'
    /// snapshots are not counted.
    #[config(default = 100)]
    pub flushes_per_second_max: u32,
    /// The most subscriptions at a time, to changes and to whole ticks each; more are refused. 1 to 65536. One
    /// that is slow may keep the rows of two snapshots.
    #[config(default = 64)]
    pub subscribers_max: u32,
    /// The shortest time between ticks that a subscription to changes may ask for; 100ms to 1h. That of
    /// sample_interval it may have always.
    #[config(default = "1s")]
    pub subscribe_interval_min: HumanDuration,
    /// The most intervals at a time that are subscribed to; 1 to 64. Each costs a walk of all cgroups at every
    /// tick, and a history.
    #[config(default = 8)]
    pub subscribe_intervals_max: u32,
    /// Bytes of snapshots that are kept of each interval, for subscriptions that are resumed; 0 to 1073741824. The
    /// newest is kept always, and shares with those before it what did not change.
    #[config(default = 8_388_608)]
    pub history_bytes_max: u32,
    /// For tests: a file in state_dir that gets a line for each tick of sample_interval, on disk before anybody is told
    /// of the tick. It grows without bound, and every tick waits for the disk. Unset means none.
    pub tick_journal: Option<String>,
    /// What to log: a level (error, warn, info, debug, trace), or target=level,…
    #[config(default = "info")]
    pub log: String,
    /// How log lines look: text or json.
    #[config(default = "text")]
    pub log_format: LogFormat,
}

impl Checked for AgentConfig {
    fn check(&self) -> Result<(), InvalidValue> {
        let within = |field, value: u32, min: u32, max: u32| {
            let allowed = || InvalidValue::new(field, format!("{min} to {max}"));
            if (min..=max).contains(&value) { Ok(()) } else { Err(allowed()) }
        };
        within("walk_rows_max", self.walk_rows_max, 1, WALK_ROWS_LIMIT)?;
        within("slice_rows_max", self.slice_rows_max, SLICE_ROWS_MIN, WALK_ROWS_LIMIT)?;
        within("slice_names_max", self.slice_names_max, SLICE_ROWS_MIN, WALK_ROWS_LIMIT)?;
        within("locked_rows_max", self.locked_rows_max, SLICE_ROWS_MIN, WALK_ROWS_LIMIT)?;
        within("collector_cgroups_max", self.collector_cgroups_max, 16, 1_000_000)?;
        within("removed_slots_max", self.removed_slots_max, 16, 65_536)?;
        within("removed_cgroups_max", self.removed_cgroups_max, 16, 1_000_000)?;
        within("views_max", self.views_max, 0, abi::CG_VIEWS_MAX)?;
        if self.configured_views().is_none() {
            return Err(InvalidValue::new("views", FORM));
        }
        if self.view_file_mode().is_none() {
            return Err(InvalidValue::new("view_mode", "0400 to 0777, in octal"));
        }
        within("walk_queue_max", self.walk_queue_max, 1, 65_536)?;
        within("walk_waiters_max", self.walk_waiters_max, 1, 65_536)?;
        within("walk_cache_rows_max", self.walk_cache_rows_max, 0, WALK_ROWS_LIMIT)?;
        within("flush_waiters_max", self.flush_waiters_max, 1, 65_536)?;
        within("flushes_per_second_max", self.flushes_per_second_max, 1, 10_000)?;
        within("subscribers_max", self.subscribers_max, 1, 65_536)?;
        for (field, interval) in [
            ("sample_interval", self.sample_interval),
            ("subscribe_interval_min", self.subscribe_interval_min),
        ] {
            let is_whole = interval.get().subsec_nanos().is_multiple_of(1_000_000);
            if !is_whole || !(100..=3_600_000).contains(&interval.get().as_millis()) {
                return Err(InvalidValue::new(field, "100ms to 1h, in whole milliseconds"));
            }
        }
        within("subscribe_intervals_max", self.subscribe_intervals_max, 1, 64)?;
        within("history_bytes_max", self.history_bytes_max, 0, 1 << 30)?;
        if self.sample_metrics().is_err() {
            return Err(InvalidValue::new("sample_fields", UnknownMetric::allowed()));
        }
        if self.collectors().is_err() {
            return Err(InvalidValue::new("collectors", UnknownCollector::allowed()));
        }
        if !trace::is_filter(&self.log) {
            return Err(InvalidValue::new("log", trace::FILTER_ALLOWED));
        }
        for (field, target) in
            [("server_url", &self.server_url), ("advertise_address", &self.advertise_address)]
        {
            if target.as_deref().is_some_and(|target| channel::check_target(target).is_err()) {
                return Err(InvalidValue::new(field, "host:port or http://host:port"));
            }
        }
        self.check_reachable()
    }
}

impl AgentConfig {
    /// What a tick reads.
    pub(crate) fn sample_metrics(&self) -> Result<MetricSet, UnknownMetric> {
        let fields = self.sample_fields.split(',').map(str::trim).filter(|field| !field.is_empty());
        MetricSet::from_paths(fields)
    }

    /// Which are switched on at the start.
    pub(crate) fn collectors(&self) -> Result<Vec<Collector>, UnknownCollector> {
        let names = self.collectors.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(Collector::from_name).collect()
    }

    /// Views that are made at the start; `None` if they are not as they should be.
    pub(crate) fn configured_views(&self) -> Option<Vec<ViewSpec>> {
        ViewSpec::parse_all(&self.views)
    }

    /// The mode of views' files; `None` if it is none.
    pub(crate) fn view_file_mode(&self) -> Option<u32> {
        // Its owner reads it: the agent does, to see how large it is.
        u32::from_str_radix(&self.view_mode, 8).ok().filter(|mode| (0o400..=0o777).contains(mode))
    }

    /// Without an advertise_address the server dials the address that is listened on.
    fn check_reachable(&self) -> Result<(), InvalidValue> {
        let (Some(server), None) = (&self.server_url, &self.advertise_address) else { return Ok(()) };
        let refused = |allowed| Err(InvalidValue::new("listen_address", allowed));
        let listened_on = self.listen_address.ip();
        if listened_on.is_unspecified() {
            return refused("one address while advertise_address is unset: the server cannot dial 'any'");
        }
        if listened_on.is_loopback() && !channel::is_loopback(server) {
            return refused("an address that the server can dial, or set advertise_address");
        }
        Ok(())
    }
}
