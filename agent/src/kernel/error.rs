//! What can go wrong between the agent and the kernel.

use std::io;

use super::kfunc::KfuncError;

/// The BPF programs cannot be loaded on this host.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel does not describe its types.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux: {0}); boot one built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf(String),
    /// The kernel is older than the cgroup iterator.
    #[error("this kernel has no cgroup iterator; Linux 6.1 or newer is needed")]
    NoCgroupIterator,
    /// The process may not load BPF programs.
    #[error("not permitted to load BPF programs; run the agent as root, or with CAP_BPF and CAP_PERFMON")]
    NotPermitted,
    /// The object's kfuncs could not be bound.
    #[error("bind the kernel's functions: {0}")]
    Kfunc(#[from] KfuncError),
    /// The loader or the verifier refused something.
    #[error("load {what}: {cause}")]
    Refused {
        /// The object, program or map.
        what: String,
        /// The whole chain of causes.
        cause: String,
    },
    /// The programs were loaded, but do not run.
    #[error("try a walk: {0}")]
    Probe(KernelError),
    /// A map's memory could not be mapped.
    #[error("map the memory of {map}: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The iterator cannot be attached to its start.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The descriptor is not of a cgroup's directory.
    #[error("not a cgroup directory")]
    NotACgroup,
    /// The cgroup does not exist, or no longer.
    #[error("no such cgroup")]
    NoSuchCgroup,
    /// Anything else.
    #[error("attach cgroup iterator: {0}")]
    Refused(io::Error),
}

/// A walk that failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It could not start.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// It could not be read to its end.
    #[error("read cgroup iterator: {0}")]
    Read(io::Error),
    /// The program ended in a way that it never should.
    #[error("the walk's program ended with {end}, which is no end")]
    Unfinished {
        /// The ABI's number.
        end: u32,
    },
}
