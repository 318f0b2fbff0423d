//! Pure vocabulary that every other crate speaks: the metric catalogue, collectors, limits and conditions on
//! metrics, cgroup paths as text, what runs in a cgroup, rates of counters, and time ranges.
//!
//! Must not know: files, sockets, clocks, async, or the shape of any message.

mod collector;
mod condition;
mod limit;
mod metric;
mod path_text;
mod rate;
mod time_range;
mod workload;

pub use collector::{Collector, UnknownCollector};
pub use condition::{Comparison, Condition, InvalidCondition};
pub use limit::Limit;
pub use metric::{
    Agreement, KernelFile, Metric, MetricGroup, MetricInfo, MetricKind, MetricSet, Origin, Shape,
    UnknownMetric,
};
pub use path_text::{InvalidEscape, escape_path, unescape_path};
pub use rate::{CounterReading, rate_per_second};
pub use time_range::{EmptyTimeRange, TimeRange};
pub use workload::{InvalidWorkloadFilter, Runtime, Workload, WorkloadFilter, WorkloadPath};
