//! The harness: real agents, a real server with its Postgres, real cgroups, network namespaces.
//!
//! Everything made here is removed when it is dropped, also when a test panics, and only what was
//! made here.

pub mod bench;
pub mod cgroups;
pub mod chaos;
pub mod churn;
pub mod cli;
pub mod daemon;
pub mod effort;
pub mod fleet;
pub mod lacking;
pub mod load;
pub mod mirror;
pub mod network;
pub mod privileges;
pub mod sim;
pub mod wait;
pub mod walk;
pub mod watch;
