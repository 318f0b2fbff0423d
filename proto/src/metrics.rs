//! The metric catalogue met with `CgroupSample`: values by metric, groups, and read masks.

use cgfleet_model::{Collector, Metric, MetricGroup, MetricSet, UnknownMetric};

use crate::v1::{AttachSample, BlockIoSample, CgroupSample, ReclaimSample, RunqueueSample, Source};

/// Writes, out of one list of which metric is which field, everything that has to know it.
macro_rules! fields {
    ($($group:ident $message:ident { $($metric:ident: $field:ident,)* })*) => {
        impl CgroupSample {
            /// The value of a metric; `None` if it was not measured.
            pub fn metric(&self, metric: Metric) -> Option<u64> {
                match metric {
                    $($(Metric::$metric => self.$message.as_ref()?.$field,)*)*
                }
            }

            /// Sets the value of a metric; `None` makes it absent, and a group without values too, unless that
            /// overflowed.
            pub fn set_metric(&mut self, metric: Metric, value: Option<u64>) {
                match metric {
                    $($(Metric::$metric => {
                        if value.is_some() || self.$message.is_some() {
                            self.$message.get_or_insert_default().$field = value;
                        }
                    })*)*
                }
                let group = metric.info().group;
                if value.is_none() && !self.has_values(group) && !self.is_overflowed(group) {
                    self.remove_group(group);
                }
            }

            /// Where a group was read; `None` if it was not.
            pub fn source(&self, group: MetricGroup) -> Option<Source> {
                match group {
                    $(MetricGroup::$group => self.$message.as_ref().map(|group| group.source()),)*
                }
            }

            /// Says where a group was read, if it was.
            pub fn set_source(&mut self, group: MetricGroup, source: Source) {
                match group {
                    $(MetricGroup::$group => {
                        if let Some(group) = &mut self.$message {
                            group.set_source(source);
                        }
                    })*
                }
            }

            /// Takes over a group of another sample.
            pub fn take_group(&mut self, group: MetricGroup, other: &mut Self) {
                match group {
                    $(MetricGroup::$group => self.$message = other.$message.take(),)*
                }
            }

            fn remove_group(&mut self, group: MetricGroup) {
                match group {
                    $(MetricGroup::$group => self.$message = None,)*
                }
            }

            fn has_values(&self, group: MetricGroup) -> bool {
                match group {
                    $(MetricGroup::$group => {
                        self.$message.as_ref().is_some_and(|group| $(group.$field.is_some() ||)* false)
                    })*
                }
            }
        }
    };
}

fields! {
    Cpu cpu {
        CpuUsage: usage_usec,
        CpuUser: user_usec,
        CpuSystem: system_usec,
        CpuNrPeriods: nr_periods,
        CpuNrThrottled: nr_throttled,
        CpuThrottled: throttled_usec,
    }
    Memory memory {
        MemoryCurrent: current_bytes,
        MemoryPeak: peak_bytes,
        MemorySwapCurrent: swap_current_bytes,
        MemoryMin: min_bytes,
        MemoryLow: low_bytes,
        MemoryHigh: high_bytes,
        MemoryMax: max_bytes,
        MemorySwapMax: swap_max_bytes,
    }
    MemoryStat memory_stat {
        MemoryStatAnon: anon_bytes,
        MemoryStatFile: file_bytes,
        MemoryStatKernel: kernel_bytes,
        MemoryStatKernelStack: kernel_stack_bytes,
        MemoryStatPagetables: pagetables_bytes,
        MemoryStatPercpu: percpu_bytes,
        MemoryStatSock: sock_bytes,
        MemoryStatVmalloc: vmalloc_bytes,
        MemoryStatShmem: shmem_bytes,
        MemoryStatFileMapped: file_mapped_bytes,
        MemoryStatFileDirty: file_dirty_bytes,
        MemoryStatFileWriteback: file_writeback_bytes,
        MemoryStatSwapcached: swapcached_bytes,
        MemoryStatAnonThp: anon_thp_bytes,
        MemoryStatShmemThp: shmem_thp_bytes,
        MemoryStatInactiveAnon: inactive_anon_bytes,
        MemoryStatActiveAnon: active_anon_bytes,
        MemoryStatInactiveFile: inactive_file_bytes,
        MemoryStatActiveFile: active_file_bytes,
        MemoryStatUnevictable: unevictable_bytes,
        MemoryStatSlabReclaimable: slab_reclaimable_bytes,
        MemoryStatSlabUnreclaimable: slab_unreclaimable_bytes,
        MemoryStatWorkingsetRefaultAnon: workingset_refault_anon,
        MemoryStatWorkingsetRefaultFile: workingset_refault_file,
        MemoryStatPgscan: pgscan,
        MemoryStatPgsteal: pgsteal,
        MemoryStatPgfault: pgfault,
        MemoryStatPgmajfault: pgmajfault,
        MemoryStatPgrefill: pgrefill,
        MemoryStatPgactivate: pgactivate,
        MemoryStatPgdeactivate: pgdeactivate,
        MemoryStatPglazyfree: pglazyfree,
        MemoryStatPglazyfreed: pglazyfreed,
        MemoryStatThpFaultAlloc: thp_fault_alloc,
    }
    MemoryEvents memory_events {
        MemoryEventsLow: low,
        MemoryEventsHigh: high,
        MemoryEventsMax: max,
        MemoryEventsOom: oom,
        MemoryEventsOomKill: oom_kill,
        MemoryEventsOomGroupKill: oom_group_kill,
    }
    MemoryEventsLocal memory_events_local {
        MemoryEventsLocalLow: low,
        MemoryEventsLocalHigh: high,
        MemoryEventsLocalMax: max,
        MemoryEventsLocalOom: oom,
        MemoryEventsLocalOomKill: oom_kill,
        MemoryEventsLocalOomGroupKill: oom_group_kill,
    }
    Io io {
        IoRbytes: rbytes,
        IoWbytes: wbytes,
        IoRios: rios,
        IoWios: wios,
        IoDbytes: dbytes,
        IoDios: dios,
    }
    Pids pids {
        PidsCurrent: current,
        PidsMax: max,
    }
    Pressure pressure {
        PressureCpuSome: cpu_some_usec,
        PressureCpuFull: cpu_full_usec,
        PressureMemorySome: memory_some_usec,
        PressureMemoryFull: memory_full_usec,
        PressureIoSome: io_some_usec,
        PressureIoFull: io_full_usec,
    }
    Structure structure {
        StructurePopulated: populated,
        StructureFrozen: frozen,
        StructureNrDescendants: nr_descendants,
        StructureNrDyingDescendants: nr_dying_descendants,
    }
    Reclaim reclaim {
        ReclaimCount: count,
        ReclaimTotal: total_ns,
    }
    Attach attach {
        AttachCount: count,
    }
    Runqueue runqueue {
        RunqueueCount: count,
        RunqueueTotal: total_ns,
        RunqueueMax: max_ns,
    }
    BlockIo block_io {
        BlockIoCount: count,
        BlockIoTotal: total_ns,
        BlockIoMax: max_ns,
    }
}

/// What the groups of collectors have and others have not.
macro_rules! counted {
    ($($collector:ident $message:ident $group:ident,)*) => {
        impl CgroupSample {
            /// Whether the collector of a group had no room for the cgroup: then the group is there without values.
            pub fn is_overflowed(&self, group: MetricGroup) -> bool {
                match Collector::of_group(group) {
                    $(Some(Collector::$collector) => {
                        self.$message.as_ref().is_some_and(|group| group.overflowed)
                    })*
                    None => false,
                }
            }

            /// Says that a collector had no room for the cgroup, in place of any values.
            pub fn set_overflowed(&mut self, collector: Collector, source: Source) {
                match collector {
                    $(Collector::$collector => {
                        let group = $group { source: source.into(), overflowed: true, ..$group::default() };
                        self.$message = Some(group.into());
                    })*
                }
            }
        }
    };
}

counted! {
    Reclaim reclaim ReclaimSample,
    Attach attach AttachSample,
    Runqueue runqueue RunqueueSample,
    BlockIo block_io BlockIoSample,
}

impl CgroupSample {
    /// How many events of a group took how long, by power of two; empty if nothing was counted, or by a group
    /// that has no buckets.
    pub fn buckets(&self, group: MetricGroup) -> &[u64] {
        let buckets = match group {
            MetricGroup::Runqueue => self.runqueue.as_ref().map(|runqueue| &runqueue.buckets),
            MetricGroup::BlockIo => self.block_io.as_ref().map(|block_io| &block_io.buckets),
            _ => None,
        };
        buckets.map(Vec::as_slice).unwrap_or_default()
    }

    /// Makes every metric absent that is not in the set.
    pub fn keep_only(&mut self, metrics: MetricSet) {
        for group in MetricGroup::ALL.iter().copied() {
            let unwanted = MetricSet::of_group(group).without(metrics);
            if !metrics.touches(group) {
                self.remove_group(group);
            } else if self.source(group).is_some() {
                for metric in unwanted.iter() {
                    // Most are absent, of rows that are sent again and again.
                    if self.metric(metric).is_some() {
                        self.set_metric(metric, None);
                    }
                }
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
    use prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
        field_descriptor_proto::{Label, Type},
    };

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
                // A value by device or by bucket repeats what the group has in total.
                let is_measured = |field: &&FieldDescriptorProto| {
                    field.r#type() == Type::Uint64 && field.label() != Label::Repeated
                };
                let measured = fields.iter().filter(is_measured);
                measured.map(move |field| (group, field))
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
        assert!(
            not_in_catalogue.is_empty(),
            "fields that model/src/metric/catalogue.rs forgot: {not_in_catalogue:?}"
        );
        assert!(not_in_proto.is_empty(), "metrics that CgroupSample forgot: {not_in_proto:?}");
    }

    /// A sample whose metrics are all different, none of them 0.
    fn full() -> CgroupSample {
        let mut sample = CgroupSample::default();
        for (value, metric) in (10..).zip(Metric::ALL) {
            sample.set_metric(*metric, Some(value));
        }
        sample
    }

    /// The names are compared by way of the wire's own JSON-like debug text, so that a field of another
    /// metric's name cannot stand in.
    #[test]
    fn each_metric_has_the_place_of_its_name() {
        let sample = full();
        for (value, metric) in (10_u64..).zip(Metric::ALL) {
            assert_eq!(sample.metric(*metric), Some(value), "{}", metric.name());
            let mut alone = CgroupSample::default();
            alone.set_metric(*metric, Some(value));
            let (group, field) = metric.name().split_once('.').unwrap();
            let text = format!("{alone:?}");
            assert!(text.contains(&format!(" {group}: Some(")), "{}: {text}", metric.name());
            assert!(text.contains(&format!(" {field}: Some({value})")), "{}: {text}", metric.name());
        }
    }

    #[test]
    fn a_group_without_values_is_absent() {
        let mut sample = CgroupSample::default();
        sample.set_metric(Metric::CpuUser, Some(0));
        sample.keep_only(MetricSet::from_iter([Metric::CpuUsage]));
        assert_eq!(sample.cpu, None);
    }

    #[test]
    fn only_what_is_kept_stays() {
        let mut sample = full();
        let kept = MetricSet::from_iter([Metric::CpuUsage, Metric::MemoryStatAnon, Metric::MemoryStatFile]);
        sample.keep_only(kept);
        let left: MetricSet =
            Metric::ALL.iter().copied().filter(|metric| sample.metric(*metric).is_some()).collect();
        assert_eq!(left, kept);
        assert_eq!(sample.memory, None);
    }

    #[test]
    fn a_group_that_overflowed_stays_without_values_where_it_is_asked_for() {
        for collector in Collector::ALL {
            let group = collector.group();
            let mut sample = full();
            assert!(!sample.is_overflowed(group), "{collector}");
            sample.set_overflowed(*collector, Source::Fold);
            let is_there = |sample: &CgroupSample| {
                let values = group.metrics().filter(|metric| sample.metric(*metric).is_some()).count();
                (sample.source(group), sample.is_overflowed(group), values)
            };
            assert_eq!(is_there(&sample), (Some(Source::Fold), true, 0), "{collector}");
            let decoded = CgroupSample::decode(sample.encode_to_vec().as_slice()).unwrap();
            assert_eq!(decoded, sample, "{collector}");
            for metric in group.metrics() {
                let mut kept = sample.clone();
                kept.keep_only(MetricSet::from_iter([metric]));
                assert_eq!(is_there(&kept), (Some(Source::Fold), true, 0), "{}", metric.name());
            }
            sample.keep_only(MetricSet::of_group(MetricGroup::Cpu));
            assert_eq!(is_there(&sample), (None, false, 0), "{collector}");
        }
        assert!(!full().is_overflowed(MetricGroup::Cpu));
    }
}
