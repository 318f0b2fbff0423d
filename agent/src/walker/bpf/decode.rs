//! Kernel records to samples, and the ABI's words to the wire's: pure.

use cgfleet_ebpf::abi;
use cgfleet_model::{Metric, MetricGroup, MetricSet};
use cgfleet_proto::v1::{CgroupSample, IoDeviceSample, Source, WalkEnd};

use super::{
    memory_stat::MemoryStatIndex,
    raw::{RAWS, Raw},
};
use crate::kernel::Drained;

/// What is taken out of the records of one walk.
#[derive(Debug)]
pub(in crate::walker) struct Decoder<'a> {
    metrics: MetricSet,
    memory_stat: &'a MemoryStatIndex,
    /// What is wanted of every record, and in which groups.
    raws: Vec<&'static Raw>,
    groups: Vec<MetricGroup>,
}

impl<'a> Decoder<'a> {
    pub(in crate::walker) fn new(metrics: MetricSet, memory_stat: &'a MemoryStatIndex) -> Self {
        let raws = RAWS.iter().filter(|raw| metrics.contains(raw.metric)).collect();
        let groups = MetricGroup::ALL.iter().copied().filter(|group| metrics.touches(*group)).collect();
        Self { metrics, memory_stat, raws, groups }
    }

    /// The record at this place, and what belongs to it, as a sample without its ids and its path. A group that the
    /// record does not hold is absent.
    pub(in crate::walker) fn sample(&self, drained: &Drained, slot: usize) -> Option<CgroupSample> {
        let record = drained.records.get(slot)?;
        let mut sample = CgroupSample {
            hierarchy_id: record.hierarchy_id,
            level: record.level,
            ..CgroupSample::default()
        };
        for raw in self.raws.iter().filter(|raw| record.valid & raw.group != 0) {
            if !raw.is_in(record.hierarchy_id) {
                continue;
            }
            let number = match raw.detail {
                abi::CG_DETAIL_CPU_USAGE => Some(record.cpu_usage_ns),
                detail => drained.details.get(slot).map(|details| details.words[detail as usize]),
            };
            sample.set_metric(raw.metric, number.map(|number| raw.unit.to_metric(number)));
        }
        if record.valid & abi::CG_GROUP_MEMORY_STAT != 0 {
            self.take_memory_stat(drained, slot, &mut sample);
        }
        for group in &self.groups {
            sample.set_source(*group, Source::Bpf);
        }
        take_io_devices(drained, slot, &mut sample);
        Some(sample)
    }

    fn take_memory_stat(&self, drained: &Drained, slot: usize, sample: &mut CgroupSample) {
        let Some(stat) = drained.memory_stats.get(slot) else { return };
        for metric in MetricGroup::MemoryStat.metrics().filter(|metric| self.metrics.contains(*metric)) {
            sample.set_metric(metric, self.memory_stat.value(metric, stat));
        }
    }
}

/// Devices are in the order of the records.
fn take_io_devices(drained: &Drained, slot: usize, sample: &mut CgroupSample) {
    let Some(io) = &mut sample.io else { return };
    let first = drained.io_devices.partition_point(|device| (device.slot as usize) < slot);
    let of_slot = drained.io_devices[first..].iter().take_while(|device| device.slot as usize == slot);
    io.devices = of_slot
        .map(|device| {
            let [rbytes, wbytes, dbytes, rios, wios, dios] = device.words;
            let (major, minor) = (device.major, device.minor);
            IoDeviceSample { major, minor, rbytes, wbytes, rios, wios, dbytes, dios }
        })
        .collect();
}

/// The metrics of a group that a record does not hold are of files, if anywhere.
pub(super) fn is_absent(sample: &CgroupSample, metrics: MetricSet, group: MetricGroup) -> bool {
    metrics.touches(group) && sample.source(group).is_none()
}

/// Metrics that no program reads for a cgroup v2 cgroup, because the kernel keeps them in no field.
pub(super) const NEVER_BY_BPF: [Metric; 2] = [Metric::CpuUser, Metric::CpuSystem];

/// Why a walk ended; `None` for what no program writes at an end.
pub(super) fn end(end: abi::cg_end) -> Option<WalkEnd> {
    match end {
        abi::CG_END_COMPLETE => Some(WalkEnd::Complete),
        abi::CG_END_LIMIT => Some(WalkEnd::Limit),
        abi::CG_END_STOP_AT => Some(WalkEnd::StopAt),
        abi::CG_END_STOP_WHEN => Some(WalkEnd::StopWhen),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_ebpf::abi::{cg_details, cg_io_device, cg_record, cg_walk};

    use super::*;

    fn drained(valid: u32, hierarchy_id: u32) -> Drained {
        let record = cg_record { cpu_usage_ns: 5_999, valid, hierarchy_id, level: 1, ..cg_record::default() };
        let mut words = [3; abi::CG_DETAILS as usize];
        words[abi::CG_MEMORY_MAX as usize] = u64::MAX / 2 / 4096;
        let device = cg_io_device { slot: 1, major: 8, minor: 16, padding: 0, words: [1, 2, 3, 4, 5, 6] };
        Drained {
            records: vec![record; 2],
            details: vec![cg_details { words }; 2],
            memory_stats: Vec::new(),
            io_devices: vec![device],
            names: Vec::new(),
            walk: cg_walk::default(),
            cursor: None,
        }
    }

    fn decode(paths: &[&str], drained: &Drained, slot: usize) -> CgroupSample {
        let metrics = MetricSet::from_paths(paths.iter().copied()).unwrap();
        Decoder::new(metrics, &MemoryStatIndex::default()).sample(drained, slot).unwrap()
    }

    #[test]
    fn what_a_record_does_not_hold_is_absent() {
        let sample = decode(&["cpu", "memory"], &drained(abi::CG_GROUP_CPU, 0), 0);
        let cpu = sample.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.nr_periods), (Some(5), None, None));
        assert_eq!((cpu.source(), &sample.memory), (Source::Bpf, &None));
        assert_eq!(decode(&["cpu"], &drained(0, 0), 0).cpu, None);
    }

    #[test]
    fn numbers_come_in_the_units_of_their_metrics() {
        let all = drained(abi::CG_GROUP_MEMORY | abi::CG_GROUP_BANDWIDTH | abi::CG_GROUP_PIDS, 0);
        let sample = decode(&["memory", "cpu", "pids"], &all, 0);
        let memory = sample.memory.as_ref().unwrap();
        assert_eq!((memory.current_bytes, memory.max_bytes), (Some(3 * 4096), Some(u64::MAX)));
        assert_eq!(sample.cpu.unwrap().throttled_usec, Some(0));
        assert_eq!(sample.pids.unwrap().max, Some(3));
    }

    #[test]
    fn what_means_something_else_on_v1_is_absent_there() {
        let sample = decode(&["memory"], &drained(abi::CG_GROUP_MEMORY, 4), 0);
        let memory = sample.memory.as_ref().unwrap();
        assert_eq!((memory.current_bytes, memory.swap_current_bytes), (Some(3 * 4096), None));
    }

    #[test]
    fn devices_are_of_the_record_that_they_name() {
        let drained = drained(abi::CG_GROUP_IO, 0);
        let devices = |slot| decode(&["io"], &drained, slot).io.unwrap().devices;
        assert_eq!(devices(0), []);
        let device = devices(1)[0];
        assert_eq!((device.major, device.minor, device.wbytes, device.dios), (8, 16, 2, 6));
    }
}
