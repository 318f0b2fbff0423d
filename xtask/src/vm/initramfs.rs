//! What a guest finds in its first and only filesystem.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    cpio::Archive,
    kernels::Kernel,
    programs::{self, Programs},
};
use crate::command;

/// The test executables of integration-tests that are meant for guests.
const TESTS: [&str; 3] = ["walk", "v1", "privileges"];

/// The programs beside them.
const PRODUCTS: [&str; 2] = ["cgfleet-agent", "cgctl"];

/// The network card's driver, each module after those it needs. Kernels have some of them built in.
const NETWORK_MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Where integration_tests::daemon looks: a test in deps/, the daemons beside that directory.
const DIRECTORY: &str = "/cgfleet";

/// What all guests have: the first process, a shell, the programs and their libraries.
pub(super) fn common(programs: &Programs) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["/dev", "/proc", "/sys", "/tmp", "/run"] {
        archive.directory(directory);
    }
    archive.file("/init", true, include_bytes!("init.sh"));
    let accounts = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    archive.file("/etc/passwd", false, accounts.as_bytes());
    archive.file("/etc/group", false, b"root:x:0:\nnogroup:x:65534:\n");
    archive.file("/etc/hosts", false, b"127.0.0.1 localhost\n");

    let busybox = command::capture(Command::new("which").arg("busybox")).context("find busybox")?;
    let busybox = Path::new(busybox.trim());
    archive.file("/bin/busybox", true, &read(busybox)?);
    let mut libraries: BTreeSet<PathBuf> = programs::libraries(busybox)?.into_iter().collect();
    for (below, names, built) in
        [("deps/", &TESTS[..], &programs.tests), ("", &PRODUCTS[..], &programs.products)]
    {
        for name in names {
            let file = programs::find(built, name)?;
            archive.file(&format!("{DIRECTORY}/{below}{name}"), true, &without_debug_info(file)?);
            libraries.extend(programs::libraries(file)?);
        }
    }
    for library in libraries {
        let path = library.to_str().context("a library whose path is not UTF-8")?;
        archive.file(path, true, &read(&library)?);
    }
    Ok(archive.finish())
}

/// What makes a guest run the tests.
pub(super) fn for_tests(kernel: &Kernel, arguments: &[String]) -> Vec<u8> {
    let mut archive = Archive::default();
    own(&mut archive, kernel, arguments);
    archive.finish()
}

/// What makes a guest run the agent, with a network.
pub(super) fn for_agent(kernel: &Kernel, flags: &[String]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    own(&mut archive, kernel, flags);
    for (position, name) in NETWORK_MODULES.iter().enumerate() {
        if let Some(file) = kernel.module(name) {
            archive.file(&format!("/modules/{position}-{name}.ko"), false, &unpacked(&file)?);
        }
    }
    Ok(archive.finish())
}

/// The name by which a guest calls itself.
pub(super) fn hostname(kernel: &Kernel) -> String {
    format!("linux-{}", kernel.series.name())
}

fn own(archive: &mut Archive, kernel: &Kernel, arguments: &[String]) {
    archive.file("/etc/hostname", false, hostname(kernel).as_bytes());
    let lines: Vec<u8> = arguments.iter().flat_map(|argument| argument.bytes().chain(*b"\n")).collect();
    archive.file(&format!("{DIRECTORY}/arguments"), false, &lines);
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// Two thirds of a program are debug info, and a guest unpacks everything into its memory.
fn without_debug_info(program: &Path) -> Result<Vec<u8>> {
    let stripped = tempfile::NamedTempFile::new().context("stage a stripped program")?;
    let mut strip = Command::new("strip");
    command::capture(strip.arg("--strip-debug").arg("-o").arg(stripped.path()).arg(program))?;
    read(stripped.path())
}

/// A module as the kernel's loader takes it.
fn unpacked(module: &Path) -> Result<Vec<u8>> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(module),
    };
    let mut unpack = Command::new(program);
    let output = unpack.arg("-dc").arg(module).output();
    let output = output.with_context(|| command::cannot_start(&unpack))?;
    anyhow::ensure!(output.status.success(), "{}: {}", command::command_line(&unpack), output.status);
    Ok(output.stdout)
}
