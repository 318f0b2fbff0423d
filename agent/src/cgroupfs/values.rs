//! Metrics read from cgroup files, where the catalogue says that they are.

use std::{fs, path::Path};

use cgfleet_model::{KernelFile, Metric, MetricSet};

use super::Hierarchy;

/// What the files of one cgroup told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileValues {
    /// Values in the metrics' units.
    pub values: Vec<(Metric, u64)>,
    /// Block I/O by device, if io.stat was read.
    pub io_devices: Vec<DeviceIo>,
}

/// Block I/O with one device, as a line of io.stat shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceIo {
    /// The device's major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read, written and discarded.
    pub bytes: [u64; 3],
    /// Reads, writes and discards.
    pub ios: [u64; 3],
}

impl DeviceIo {
    fn is_idle(&self) -> bool {
        self.bytes == [0; 3] && self.ios == [0; 3]
    }
}

/// Reads these metrics of the cgroup in this directory, each file once. What a file does not show, or the
/// root shows and does not measure, is left out.
pub fn read_metrics(
    hierarchy: &Hierarchy,
    directory: &Path,
    is_root: bool,
    metrics: MetricSet,
) -> FileValues {
    let mut found = FileValues::default();
    let mut texts: Vec<(&str, Option<String>)> = Vec::new();
    for metric in metrics.iter() {
        let Some(file) = file_of(hierarchy, metric).filter(|file| file.is_on_root || !is_root) else {
            continue;
        };
        if texts.iter().all(|(name, _)| *name != file.file) {
            let text = fs::read_to_string(directory.join(file.file)).ok();
            if file.file == "io.stat" {
                found.io_devices = text.as_deref().map(devices_in).unwrap_or_default();
            }
            texts.push((file.file, text));
        }
        let text = texts.iter().find(|(name, _)| *name == file.file).and_then(|(_, text)| text.as_ref());
        let Some(text) = text else { continue };
        found.values.extend(file.value_in(text).map(|value| (metric, value)));
    }
    found
}

/// Whether some cgroup of the hierarchy may have a file that shows the metric.
pub fn has_file(hierarchy: &Hierarchy, metric: Metric) -> bool {
    file_of(hierarchy, metric).is_some()
}

/// A v1 hierarchy has the files of its own controllers only.
fn file_of(hierarchy: &Hierarchy, metric: Metric) -> Option<KernelFile> {
    let info = metric.info();
    if hierarchy.is_v2() {
        return info.v2();
    }
    let file = info.v1()?;
    let controller = file.file.split('.').next().unwrap_or_default();
    hierarchy.has_controller(controller).then_some(file)
}

/// The devices with any I/O in the text of an io.stat.
fn devices_in(text: &str) -> Vec<DeviceIo> {
    text.lines().filter_map(device_in).filter(|device| !device.is_idle()).collect()
}

fn device_in(line: &str) -> Option<DeviceIo> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut device =
        DeviceIo { major: major.parse().ok()?, minor: minor.parse().ok()?, ..DeviceIo::default() };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let place = match key {
            "rbytes" => &mut device.bytes[0],
            "wbytes" => &mut device.bytes[1],
            "dbytes" => &mut device.bytes[2],
            "rios" => &mut device.ios[0],
            "wios" => &mut device.ios[1],
            "dios" => &mut device.ios[2],
            _ => continue,
        };
        *place = value.parse().ok()?;
    }
    Some(device)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A directory with these files, and what is read of it.
    fn read(name: &str, files: &[(&str, &str)], is_root: bool, paths: &[&str]) -> FileValues {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(directory.path().join(file), text).unwrap();
        }
        let id = u32::from(!name.is_empty());
        let hierarchy = Hierarchy { id, name: name.to_owned(), mount_point: PathBuf::new(), root_id: 0 };
        let metrics = MetricSet::from_paths(paths.iter().copied()).unwrap();
        read_metrics(&hierarchy, directory.path(), is_root, metrics)
    }

    #[test]
    fn a_missing_file_or_key_is_absent_and_not_zero() {
        let files = [("cpu.stat", "usage_usec 30\nuser_usec 10\nnr_periods 0\n"), ("memory.max", "max\n")];
        let found = read("", &files, false, &["cpu", "memory"]);
        let expect = [
            (Metric::CpuUsage, 30),
            (Metric::CpuUser, 10),
            (Metric::CpuNrPeriods, 0),
            (Metric::MemoryMax, u64::MAX),
        ];
        assert_eq!(found.values, expect);
    }

    #[test]
    fn what_a_root_does_not_measure_is_absent() {
        let files = [("cpu.stat", "usage_usec 30\nnr_periods 0\n")];
        assert_eq!(read("", &files, true, &["cpu"]).values, [(Metric::CpuUsage, 30)]);
    }

    #[test]
    fn a_v1_hierarchy_is_asked_for_the_files_of_its_controllers() {
        let files = [("cpuacct.usage", "5999\n"), ("cpu.stat", "nr_periods 7\n"), ("pids.max", "3\n")];
        let usage = (Metric::CpuUsage, 5);
        assert_eq!(read("cpuacct", &files, false, &[]).values, [usage]);
        assert_eq!(read("cpu,cpuacct", &files, false, &["cpu"]).values, [usage, (Metric::CpuNrPeriods, 7)]);
        assert_eq!(read("pids", &files, false, &[]).values, [(Metric::PidsMax, 3)]);
    }

    #[test]
    fn devices_without_io_are_left_out() {
        let text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=0 wbytes=0\nnonsense\n";
        let found = read("", &[("io.stat", text)], false, &["io"]);
        let device = DeviceIo { major: 8, minor: 0, bytes: [1, 2, 5], ios: [3, 4, 6] };
        assert_eq!(found.io_devices, [device]);
        assert_eq!(found.values.len(), 6);
    }
}
