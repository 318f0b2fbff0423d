//! The kernel: loading the BPF programs, running walks with them, and draining what they wrote.
//!
//! Owns everything of BPF and all `unsafe` of the product. Must not know paths, metrics' names or
//! messages: it takes descriptors and ids and gives records.
#![allow(unsafe_code, reason = "the only module that talks to bpf(2) and maps its memory")]

mod collectors;
mod error;
mod facts;
mod kallsyms;
mod kfunc;
mod lifecycle;
mod loaded;
mod loader;
mod mapped;
mod noop;
mod programs;
mod session;
mod sys;
mod views;
mod walks;

pub use collectors::{
    CgroupKey, Collector, CollectorState, Folding, PinError, Pins, SwitchError, Total,
    load_all as load_collectors,
};
pub use error::{AttachError, KernelError, LoadError};
pub use facts::{Facts, Table};
pub use lifecycle::{FinalUsage, Lifecycle, LifecycleEvent, LifecycleState, RemovedCgroup, WatchError};
pub use loaded::{loaded_programs, measure_runs};
pub use loader::{Loader, with_loader};
pub use noop::{Noop, NoopWalk};
pub use programs::Bounds;
pub use session::Start;
pub use views::{PinnedView, ViewError, ViewLink, ViewPrograms, ViewSettings};
pub use walks::{Cursor, Drained, Flushed, Kernel, Name, Place, StopWhen, WalkRequest};
