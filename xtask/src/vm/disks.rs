//! A guest's block devices: files that take no room before the guest writes to them, and are gone with it.

use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::NamedTempFile;

/// A device: its name is its serial number too, by which init.sh sees that it has the right one.
struct Device {
    name: &'static str,
    size_mib: u64,
}

/// In the order in which guests name them: /dev/vda, for tests to write to, and /dev/vdb, for swap.
const DEVICES: [Device; 2] = [Device { name: "data", size_mib: 512 }, Device { name: "swap", size_mib: 256 }];

/// The files behind the devices, removed on drop.
pub(super) struct Disks(Vec<NamedTempFile>);

impl Disks {
    pub(super) fn make_in(directory: &Path) -> Result<Self> {
        let make = |device: &Device| {
            let mut name = tempfile::Builder::new();
            let file = name.prefix(device.name).suffix(".disk").tempfile_in(directory)?;
            file.as_file().set_len(device.size_mib << 20)?;
            Ok(file)
        };
        let files: Result<Vec<_>> = DEVICES.iter().map(make).collect();
        files.map(Self).with_context(|| format!("make disks in {}", directory.display()))
    }

    /// What attaches them. Nothing of theirs outlives the guest, so no write waits for the host's disk.
    pub(super) fn arguments(&self) -> Vec<String> {
        let pairs = DEVICES.iter().zip(&self.0);
        let arguments = pairs.flat_map(|(Device { name, .. }, file)| {
            let file = file.path().display();
            let drive = format!("if=none,id={name},format=raw,cache=unsafe,file={file}");
            let device = format!("virtio-blk-pci,drive={name},serial={name}");
            ["-drive".to_owned(), drive, "-device".to_owned(), device]
        });
        arguments.collect()
    }
}
