//! Sets of metrics as bytes: a mask of groups, then for each of these a mask of its metrics.

use std::sync::LazyLock;

use cgfleet_model::{Metric, MetricGroup, MetricSet};

use super::{
    CodecError,
    varint::{Reader, put_varint},
};

/// The metrics of each group, by the group's number; a metric's bit in the group's mask is its place here.
static METRICS: LazyLock<Vec<Vec<Metric>>> =
    LazyLock::new(|| MetricGroup::ALL.iter().map(|group| group.metrics().collect()).collect());

/// Appends a set, with one bit more that the caller may use.
pub(super) fn put_metrics(out: &mut Vec<u8>, flag: bool, metrics: MetricSet) {
    let groups = MetricGroup::ALL.iter().filter(|group| metrics.touches(**group));
    let mask = groups.clone().fold(u64::from(flag), |mask, group| mask | 2 << *group as u8);
    put_varint(out, mask);
    for group in groups {
        let members = METRICS[*group as usize].iter().enumerate();
        let set = members.filter(|(_, metric)| metrics.contains(**metric));
        put_varint(out, set.fold(0, |mask, (at, _)| mask | 1 << at));
    }
}

/// Reads what [`put_metrics`] wrote.
pub(super) fn read_metrics(reader: &mut Reader<'_>) -> Result<(bool, MetricSet), CodecError> {
    let mask = reader.varint()?;
    let mut metrics = MetricSet::default();
    for group in bits(mask >> 1) {
        let members = METRICS.get(group as usize).ok_or(CodecError::UnknownGroup { group })?;
        for at in bits(reader.varint()?) {
            let metric = members.get(at as usize).ok_or(CodecError::UnknownMetric { group, metric: at })?;
            metrics.extend([*metric]);
        }
    }
    Ok((mask & 1 != 0, metrics))
}

/// The places of the bits that are set, from the lowest on.
fn bits(mut mask: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let at = mask.trailing_zeros();
        mask &= mask.checked_sub(1)?;
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::CgroupSample;

    use super::{
        super::{HeadDecoder, TickValues},
        *,
    };

    #[test]
    fn few_metrics_take_few_bytes() {
        let check = |paths: &[&str], bytes| {
            let metrics = MetricSet::from_paths(paths.iter().copied()).unwrap();
            let mut out = Vec::new();
            put_metrics(&mut out, true, metrics);
            assert_eq!(out.len(), bytes, "{paths:?}");
            assert_eq!(read_metrics(&mut Reader::new(&out)).unwrap(), (true, metrics));
        };
        check(&["cpu.usage_usec"], 2);
        check(&["cpu.usage_usec", "memory.current_bytes", "io.rbytes", "io.rios"], 4);
        // All: two for the groups, and one for each seven metrics of a group.
        let of_groups = METRICS.iter().map(|metrics| metrics.len().div_ceil(7));
        check(&[], 2 + of_groups.sum::<usize>());
    }

    #[test]
    fn every_group_has_fewer_metrics_than_a_mask_has_bits() {
        assert!(METRICS.iter().all(|metrics| metrics.len() <= 64) && METRICS.len() < 63);
    }

    #[test]
    fn values_come_in_the_order_of_their_numbers() {
        assert!(METRICS.iter().flatten().eq(Metric::ALL), "bodies have values in the catalogue's order");
    }

    #[test]
    fn what_is_stored_keeps_its_numbers() {
        let known: Vec<(&str, Vec<&str>)> =
            STORED.iter().map(|(group, metrics)| (*group, metrics.split(' ').collect())).collect();
        let field = |metric: &Metric| metric.name().split_once('.').map_or("", |(_, field)| field);
        let now: Vec<(&str, Vec<&str>)> = MetricGroup::ALL
            .iter()
            .zip(METRICS.iter())
            .map(|(group, metrics)| (group.name(), metrics.iter().map(field).collect()))
            .collect();
        assert_eq!(now, known, "append what is new to STORED; what is there already is in databases");
        let numbers: Vec<u8> = MetricGroup::ALL.iter().map(|group| *group as u8).collect();
        assert!(numbers.iter().map(|number| usize::from(*number)).eq(0..STORED.len()), "{numbers:?}");
    }

    /// What servers have stored since they first did: each group at its number, each metric at its place.
    const STORED: &[(&str, &str)] = &[
        ("cpu", "usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec"),
        (
            "memory",
            "current_bytes peak_bytes swap_current_bytes min_bytes low_bytes high_bytes max_bytes swap_max_bytes",
        ),
        (
            "memory_stat",
            "anon_bytes file_bytes kernel_bytes kernel_stack_bytes pagetables_bytes percpu_bytes sock_bytes \
             vmalloc_bytes shmem_bytes file_mapped_bytes file_dirty_bytes file_writeback_bytes swapcached_bytes \
             anon_thp_bytes shmem_thp_bytes inactive_anon_bytes active_anon_bytes inactive_file_bytes \
             active_file_bytes unevictable_bytes slab_reclaimable_bytes slab_unreclaimable_bytes \
             workingset_refault_anon workingset_refault_file pgscan pgsteal pgfault pgmajfault pgrefill \
             pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc",
        ),
        ("memory_events", "low high max oom oom_kill oom_group_kill"),
        ("memory_events_local", "low high max oom oom_kill oom_group_kill"),
        ("io", "rbytes wbytes rios wios dbytes dios"),
        ("pids", "current max"),
        (
            "pressure",
            "cpu_some_usec cpu_full_usec memory_some_usec memory_full_usec io_some_usec io_full_usec",
        ),
        ("structure", "populated frozen nr_descendants nr_dying_descendants"),
        ("reclaim", "count total_ns"),
        ("attach", "count"),
        ("runqueue", "count total_ns max_ns"),
        ("block_io", "count total_ns max_ns"),
    ];

    #[test]
    fn what_servers_stored_before_collectors_is_read_as_it_was() {
        // Of each metric that there was, in their order, a number more than of the one before.
        let groups = METRICS.iter().zip([6, 8, 34, 6, 6, 6, 2, 6, 4]);
        let metrics: Vec<Metric> = groups.flat_map(|(metrics, count)| &metrics[..count]).copied().collect();
        let mut decoder = HeadDecoder::default();
        for (payload, base) in [(KEYFRAME, 1_000), (DELTA, 1_200)] {
            let values: Vec<(Metric, u64)> = metrics.iter().copied().zip(base..).collect();
            let expect = [vec![(Metric::CpuUsage, base)], values].map(|values| {
                let mut sample = CgroupSample::default();
                for (metric, value) in values {
                    sample.set_metric(metric, Some(value));
                }
                sample
            });
            let [first, full] = expect;
            let samples =
                [(1, first), (7, full)].map(|(cgroup_id, sample)| CgroupSample { cgroup_id, ..sample });
            assert_eq!(decoder.apply(&bytes(payload)).unwrap(), &TickValues::of(&samples));
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
    }

    /// Two payloads of a stream as they were written when there were 78 metrics.
    const KEYFRAME: &str = "\
        01a5d8f22a28b52ffd20c8650500920b2933506d331c089d70c2504294102544095188175c70c105175c70c105176cfe \
        bfffefff3b33333333b336666666a60913cd36da24837f7b77736f6b67635f5b57534f73bcb1c619637cb1c515533cb1 \
        c41143fcb0c30d33bcb0c209237cb0c105133cb0c00103fcd97367ce9b3567c67cd972a5614b4ad2918a34a420fda847 \
        3b0af6abd7ae5cb76acd8af5aad5aa54a7b0529252ca39e78c5352e604ea14a3284528820201004d379d";
    const DELTA: &str = "\
        01330fcf8728b52ffd20bb4d0100140201a5d8f22a00020001020190030006fe073fff01ffffffff3f3f3f3f033f0f90 \
        030100b944b927";
}
