//! The cgroup filesystems: which hierarchies are mounted where, directories of cgroups, and the
//! files that are read because the kernel keeps a value nowhere else.
//!
//! Must not know BPF, requests or messages.

mod children;
mod hierarchy;
mod values;

pub use children::{Child, children, open_child};
pub use hierarchy::{Hierarchies, Hierarchy, HierarchyError, LocateError, Located};
pub use values::{DeviceIo, FileValues, has_file, read_metrics};
