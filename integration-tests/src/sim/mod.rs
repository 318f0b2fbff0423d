//! Simulated hosts: the real agent's service code over a tree of cgroups that nobody made.
//!
//! Owns what such a tree looks like, how it counts, and what befalls it: churn, delays, walks that fail, reboots. All
//! above the walk is the agent's own. Must not know what its ticks are used for.

mod activity;
mod cgroup;
mod faults;
mod host;
mod kubelet;
mod names;
mod tree;
mod walk;

pub use activity::Activity;
pub use faults::Faults;
pub use host::{ANY_PORT, HostSpec, SimulatedHost};
pub use tree::{METRICS, Tree, TreeSpec};
