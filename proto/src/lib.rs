//! The wire: generated code of `cgfleet.v1` and what every user of it needs to read it.
//!
//! Owns the mapping between protos and Rust. Knows nothing of channels, hosts or kernels.

/// The generated code of package `cgfleet.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated; documented in the protos")]
pub mod v1 {
    tonic::include_proto!("cgfleet.v1");
}

mod metrics;
mod reason;
mod workload;

pub use metrics::metrics_of_read_mask;
pub use workload::workload_filter;

/// The encoded `FileDescriptorSet` of every proto, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cgfleet.binpb"));
