//! How cgfleet's processes talk to each other: who may listen where, how a channel is made, how an
//! error looks on the wire, how a trace crosses hosts, and what every gRPC server here offers.
//!
//! Must not know: what the services say. Mutual TLS has its place in [`listen`] and [`channel`].

pub mod channel;
pub mod deadline;
pub mod duration;
pub mod listen;
pub mod serve;
pub mod shutdown;
pub mod subscription;
pub mod trace;
pub mod wire_error;
pub mod workload;
