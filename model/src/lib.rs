//! Pure vocabulary that every other crate speaks: the metric catalogue, cgroup paths as text, rates of
//! counters, and time ranges.
//!
//! Must not know: files, sockets, clocks, async, or the shape of any message.

mod metric;
mod path_text;
mod rate;
mod time_range;

pub use metric::{Metric, MetricGroup, MetricInfo, MetricKind, MetricSet, UnknownMetric};
pub use path_text::{InvalidEscape, escape_path, unescape_path};
pub use rate::{CounterReading, rate_per_second};
pub use time_range::{EmptyTimeRange, TimeRange};
