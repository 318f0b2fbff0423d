//! Kernel records to samples, and the ABI's words to the wire's: pure.

use cgfleet_ebpf::abi::{self, cg_record};
use cgfleet_model::{MetricGroup, MetricSet};
use cgfleet_proto::v1::{self, CgroupSample, CpuSample, Source, WalkEnd};

use super::WalkEngine;
use crate::cgroupfs::CpuUsage;

/// The record groups that hold any of these metrics.
pub(super) fn groups_of(metrics: MetricSet) -> abi::cg_group {
    if metrics.touches(MetricGroup::Cpu) { abi::CG_GROUP_CPU } else { 0 }
}

/// A record as a sample; a group that the record does not hold is absent.
pub(super) fn sample(record: &cg_record, path: &str) -> CgroupSample {
    let cpu = (record.valid & abi::CG_GROUP_CPU != 0).then(|| CpuSample {
        source: Source::Bpf.into(),
        usage_usec: Some(record.cpu_usage_ns / 1000),
        // cpu.stat scales these two when it is read (kernel/sched/cputime.c, cputime_adjust).
        user_usec: None,
        system_usec: None,
    });
    CgroupSample {
        cgroup_id: record.id,
        parent_id: record.parent_id,
        hierarchy_id: record.hierarchy_id,
        level: record.level,
        path: path.to_owned(),
        cpu,
    }
}

/// CPU time as a file told it.
pub(super) fn cpu_of_file(usage: CpuUsage) -> CpuSample {
    CpuSample {
        source: Source::File.into(),
        usage_usec: usage.usage_usec,
        user_usec: usage.user_usec,
        system_usec: usage.system_usec,
    }
}

/// The wire's name of an engine.
pub(super) fn wire_engine(engine: WalkEngine) -> v1::WalkEngine {
    match engine {
        WalkEngine::Locked => v1::WalkEngine::Locked,
        WalkEngine::Unlocked => v1::WalkEngine::Unlocked,
    }
}

/// Why a walk ended; `None` for what no program writes at an end.
pub(super) fn end(end: abi::cg_end) -> Option<WalkEnd> {
    match end {
        abi::CG_END_COMPLETE => Some(WalkEnd::Complete),
        abi::CG_END_LIMIT => Some(WalkEnd::Limit),
        abi::CG_END_STOP_AT => Some(WalkEnd::StopAt),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_does_not_hold_is_absent() {
        let record =
            cg_record { id: 7, cpu_usage_ns: 5_999, valid: abi::CG_GROUP_CPU, ..cg_record::default() };
        assert_eq!(sample(&record, "/a").cpu.unwrap().usage_usec, Some(5));
        let record = cg_record { valid: 0, ..record };
        assert_eq!(sample(&record, "/a").cpu, None);
    }
}
