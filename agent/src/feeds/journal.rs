//! For tests: which ticks there were, on disk before anybody hears of them.
//!
//! A line a tick: agent epoch, sequence, CLOCK_BOOTTIME in nanoseconds, cgroups, and a checksum of what was measured.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use cgfleet_model::Metric;
use cgfleet_proto::v1::CgroupSample;

use crate::stream::Read;

/// The journal of one agent.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    epoch: String,
    /// Of the feed whose ticks are noted.
    pub(super) interval: Duration,
}

impl Journal {
    /// Appends to this file, which is made if it is missing.
    pub(crate) fn open(path: &Path, epoch: String, interval: Duration) -> io::Result<Self> {
        let file = File::options().create(true).append(true).mode(0o644).open(path)?;
        Ok(Self { file, epoch, interval })
    }

    /// Returns when the tick's line is on disk. For the walker's thread: it blocks.
    pub(super) fn note(&self, read: &Read) -> io::Result<()> {
        let Read { sequence, boottime, rows, .. } = read;
        let samples = rows.samples();
        let (epoch, boottime, cgroups) = (&self.epoch, boottime.as_nanos(), samples.len());
        let checksum = tick_checksum(samples);
        let line = format!("{epoch} {sequence} {boottime} {cgroups} {checksum:08x}\n");
        (&self.file).write_all(line.as_bytes())?;
        self.file.sync_data()
    }
}

/// A checksum of which cgroups a tick has and what was measured of each, whatever their order.
pub fn tick_checksum<'a>(samples: impl IntoIterator<Item = &'a CgroupSample>) -> u32 {
    let mut sorted: Vec<&CgroupSample> = samples.into_iter().collect();
    sorted.sort_by_key(|sample| (sample.hierarchy_id, sample.cgroup_id));
    let mut hasher = crc32fast::Hasher::new();
    for sample in sorted {
        hasher.update(&sample.hierarchy_id.to_le_bytes());
        hasher.update(&sample.cgroup_id.to_le_bytes());
        for metric in Metric::ALL {
            // What was not measured is not 0.
            let value = sample.metric(*metric);
            hasher.update(&[u8::from(value.is_some())]);
            hasher.update(&value.unwrap_or_default().to_le_bytes());
        }
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::CpuSample;

    use super::*;

    #[test]
    fn a_checksum_knows_what_was_measured_and_not_the_order() {
        let sample = |cgroup_id, usage_usec| CgroupSample {
            cgroup_id,
            cpu: Some(CpuSample { usage_usec, ..CpuSample::default() }),
            ..CgroupSample::default()
        };
        let tick = [sample(1, Some(0)), sample(2, Some(7))];
        let turned = [tick[1].clone(), tick[0].clone()];
        assert_eq!(tick_checksum(&tick), tick_checksum(&turned));
        let others = [
            vec![],
            vec![sample(1, Some(0))],
            vec![sample(1, None), sample(2, Some(7))],
            vec![sample(1, Some(0)), sample(2, Some(8))],
            vec![sample(1, Some(0)), sample(3, Some(7))],
        ];
        for other in others {
            assert_ne!(tick_checksum(&tick), tick_checksum(&other), "{other:?}");
        }
    }
}
