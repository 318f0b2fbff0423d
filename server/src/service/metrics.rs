//! The metric catalogue as a message.

use cgfleet_model::{Metric, MetricKind};
use cgfleet_proto::v1::{ListMetricsResponse, Metric as WireMetric, MetricKind as WireKind};

pub(super) fn list() -> ListMetricsResponse {
    let metrics = Metric::ALL.iter().map(|metric| {
        let info = metric.info();
        let kind = match info.kind {
            MetricKind::Counter => WireKind::Counter,
            MetricKind::Gauge => WireKind::Gauge,
            MetricKind::Limit => WireKind::Limit,
        };
        WireMetric {
            name: info.name.to_owned(),
            unit: info.unit.to_owned(),
            kind: kind.into(),
            kernel_file: info.v2().map(|file| file.to_text()).unwrap_or_default(),
            description: info.description.to_owned(),
        }
    });
    ListMetricsResponse { metrics: metrics.collect() }
}
