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
    use super::*;

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
}
