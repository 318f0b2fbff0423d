//! What files told, into a sample: pure.

use cgfleet_proto::v1::{CgroupSample, IoDeviceSample, Source};

use crate::cgroupfs::{DeviceIo, FileValues};

/// Sets what was read from files, and says so of every group that has any of it.
pub(super) fn set_from_files(sample: &mut CgroupSample, FileValues { values, io_devices }: FileValues) {
    for (metric, value) in &values {
        sample.set_metric(*metric, Some(*value));
    }
    for (metric, _) in &values {
        sample.set_source(metric.info().group, Source::File);
    }
    if let Some(io) = &mut sample.io {
        io.devices.extend(io_devices.into_iter().map(device));
    }
}

fn device(DeviceIo { major, minor, bytes, ios }: DeviceIo) -> IoDeviceSample {
    let [rbytes, wbytes, dbytes] = bytes;
    let [rios, wios, dios] = ios;
    IoDeviceSample { major, minor, rbytes, wbytes, rios, wios, dbytes, dios }
}
