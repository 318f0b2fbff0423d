//! Compiles the protos without protoc: protox parses, tonic-prost-build writes the code, and the
//! descriptor set goes beside it for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 10] = [
    "cgfleet/v1/flush.proto",
    "cgfleet/v1/sample.proto",
    "cgfleet/v1/collector.proto",
    "cgfleet/v1/view.proto",
    "cgfleet/v1/walk.proto",
    "cgfleet/v1/subscribe.proto",
    "cgfleet/v1/error.proto",
    "cgfleet/v1/history.proto",
    "cgfleet/v1/agent_service.proto",
    "cgfleet/v1/fleet_service.proto",
];

/// Groups that are large and often absent: in a row without them they shall take the room of a pointer.
const BOXED: [&str; 12] = [
    "memory",
    "memory_stat",
    "memory_events",
    "memory_events_local",
    "io",
    "pressure",
    "structure",
    "reclaim",
    "attach",
    "runqueue",
    "block_io",
    "workload",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=cgfleet");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("cgfleet.binpb"), descriptors.encode_to_vec())?;
    let configured = tonic_prost_build::configure();
    let boxed = |builder: tonic_prost_build::Builder, group| {
        builder.boxed(format!(".cgfleet.v1.CgroupSample.{group}"))
    };
    BOXED.into_iter().fold(configured, boxed).compile_fds(descriptors)?;
    Ok(())
}
