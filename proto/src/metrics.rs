//! The metric catalogue met with `CgroupSample`: values by metric, and read masks.

use cgfleet_model::{Metric, MetricSet, UnknownMetric};

use crate::v1::{CgroupSample, CpuSample};

impl CgroupSample {
    /// The value of a metric; `None` if it was not measured.
    pub fn metric(&self, metric: Metric) -> Option<u64> {
        let cpu = self.cpu.as_ref();
        match metric {
            Metric::CpuUsage => cpu?.usage_usec,
            Metric::CpuUser => cpu?.user_usec,
            Metric::CpuSystem => cpu?.system_usec,
        }
    }

    /// Sets the value of a metric; `None` makes it absent, and a group without values too.
    pub fn set_metric(&mut self, metric: Metric, value: Option<u64>) {
        if value.is_none() && self.cpu.is_none() {
            return;
        }
        let cpu = self.cpu.get_or_insert_with(CpuSample::default);
        match metric {
            Metric::CpuUsage => cpu.usage_usec = value,
            Metric::CpuUser => cpu.user_usec = value,
            Metric::CpuSystem => cpu.system_usec = value,
        }
        if cpu.usage_usec.is_none() && cpu.user_usec.is_none() && cpu.system_usec.is_none() {
            self.cpu = None;
        }
    }

    /// Makes every metric absent that is not in the set.
    pub fn keep_only(&mut self, metrics: MetricSet) {
        for metric in Metric::ALL {
            if !metrics.contains(metric) {
                self.set_metric(metric, None);
            }
        }
    }
}

/// The metrics that a read mask asks for; an absent or empty mask asks for all.
pub fn metrics_of_read_mask(mask: Option<&prost_types::FieldMask>) -> Result<MetricSet, UnknownMetric> {
    MetricSet::from_paths(mask.into_iter().flat_map(|mask| &mask.paths).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;

    /// Field paths of every measured value reachable from `CgroupSample`.
    fn sample_fields(descriptors: &FileDescriptorSet) -> BTreeSet<String> {
        let message = |name: &str| -> &DescriptorProto {
            let messages = descriptors.file.iter().flat_map(|file| &file.message_type);
            messages.into_iter().find(|message| message.name() == name).expect("a message of this package")
        };
        let groups = message("CgroupSample").field.iter().filter(|field| field.r#type() == Type::Message);
        groups
            .flat_map(|group| {
                let fields = &message(group.type_name().rsplit('.').next().unwrap()).field;
                fields.iter().filter(|field| field.r#type() != Type::Enum).map(move |field| (group, field))
            })
            .map(|(group, field)| format!("{}.{}", group.name(), field.name()))
            .collect()
    }

    #[test]
    fn the_catalogue_names_exactly_the_measured_fields() {
        let descriptors = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let fields = sample_fields(&descriptors);
        let catalogue: BTreeSet<String> = Metric::ALL.iter().map(|metric| metric.name().to_owned()).collect();
        let not_in_catalogue: Vec<_> = fields.difference(&catalogue).collect();
        let not_in_proto: Vec<_> = catalogue.difference(&fields).collect();
        assert!(not_in_catalogue.is_empty(), "fields that model/src/metric.rs forgot: {not_in_catalogue:?}");
        assert!(not_in_proto.is_empty(), "metrics that CgroupSample forgot: {not_in_proto:?}");
    }

    #[test]
    fn each_metric_has_a_place_of_its_own() {
        let mut sample = CgroupSample::default();
        for (value, metric) in (10..).zip(Metric::ALL) {
            sample.set_metric(metric, Some(value));
        }
        for (value, metric) in (10..).zip(Metric::ALL) {
            assert_eq!(sample.metric(metric), Some(value), "{}", metric.name());
        }
    }

    #[test]
    fn a_group_without_values_is_absent() {
        let mut sample = CgroupSample::default();
        sample.set_metric(Metric::CpuUser, Some(0));
        sample.keep_only(MetricSet::from_iter([Metric::CpuUsage]));
        assert_eq!(sample.cpu, None);
    }
}
