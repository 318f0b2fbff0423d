//! What a guest finds in its first and only filesystem.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{
    cpio::Archive,
    kernels::Kernel,
    programs::{self, Programs},
};
use crate::command;

/// The test executables of integration-tests that are meant for guests. One without libtest's harness
/// takes libtest's arguments all the same, and ends with libtest's line: `test result: ok. 2 passed; 0 failed`.
const TESTS: [&str; 12] = [
    "walk",
    "flush",
    "v1",
    "privileges",
    "without_bpf",
    "conformance",
    "collectors",
    "lifecycle",
    "views",
    "large_trees",
    "storm",
    "oracle",
];

/// The programs beside them.
const PRODUCTS: [&str; 2] = ["cgfleet-agent", "cgctl"];

/// The benchmarks of integration-tests.
const BENCH: &str = "bench";

/// The host's programs that are in guests too, below /usr/bin: with them a test changes what an agent may
/// do and see. Busybox has namesakes that know less, and a shell that prefers them.
const TOOLS: [&str; 5] = ["sh", "setpriv", "unshare", "mount", "perl"];

/// The drivers of the disks and of the network card, each after those it needs. Kernels have some of them
/// built in.
const MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Where integration_tests::daemon looks: a test in deps/, the daemons beside that directory.
const DIRECTORY: &str = "/cgfleet";

/// What a guest is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Job<'a> {
    /// Run these test executables; none named are all.
    Tests(&'a [String]),
    /// Be a host with an agent that other machines reach.
    Agent,
    /// Run the benchmark program.
    Bench,
}

impl Job<'_> {
    /// What init.sh calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Tests(_) => "tests",
            Self::Agent => "agent",
            Self::Bench => "bench",
        }
    }

    /// The programs that it needs, and where they go.
    fn programs(self, built: &Programs) -> Result<Vec<(String, &Path)>> {
        let mut programs = Vec::new();
        let mut add = |below: &str, names: &[&str], built| {
            for name in names {
                programs.push((format!("{DIRECTORY}/{below}{name}"), programs::find(built, name)?));
            }
            anyhow::Ok(())
        };
        add("", &PRODUCTS, &built.products)?;
        match self {
            Self::Tests(chosen) => add("deps/", &chosen_of_tests(chosen)?, &built.tests)?,
            Self::Agent => {}
            Self::Bench => add("", &[BENCH], &built.products)?,
        }
        Ok(programs)
    }
}

fn chosen_of_tests(chosen: &[String]) -> Result<Vec<&str>> {
    if let Some(unknown) = chosen.iter().find(|name| !TESTS.contains(&name.as_str())) {
        bail!("--only is {unknown}: guests have {}", TESTS.join(", "));
    }
    Ok(if chosen.is_empty() { TESTS.to_vec() } else { chosen.iter().map(String::as_str).collect() })
}

/// What all guests with this job have: the first process, shells, the programs and their libraries.
pub(super) fn common(job: Job<'_>, built: &Programs) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["/dev", "/proc", "/sys", "/tmp", "/run"] {
        archive.directory(directory);
    }
    archive.file("/init", true, include_bytes!("init.sh"));
    let accounts = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    archive.file("/etc/passwd", false, accounts.as_bytes());
    archive.file("/etc/group", false, b"root:x:0:\nnogroup:x:65534:\n");
    archive.file("/etc/hosts", false, b"127.0.0.1 localhost\n");
    archive.file(&format!("{DIRECTORY}/job"), false, job.name().as_bytes());

    let mut libraries = BTreeSet::new();
    let tools = TOOLS.map(|name| (format!("/usr/bin/{name}"), name));
    for (path, name) in tools.into_iter().chain([("/bin/busybox".to_owned(), "busybox")]) {
        let file = programs::of_host(name)?;
        archive.file(&path, true, &read(&file)?);
        libraries.extend(programs::libraries(&file)?);
    }
    for (path, file) in job.programs(built)? {
        archive.file(&path, true, &without_debug_info(file)?);
        libraries.extend(programs::libraries(file)?);
    }
    for library in libraries {
        let path = library.to_str().context("a library whose path is not UTF-8")?;
        archive.file(path, true, &read(&library)?);
    }
    Ok(archive.finish())
}

/// What the guest with this kernel has beside that: its drivers, its name, and what its job is given.
pub(super) fn own(kernel: &Kernel, arguments: &[String]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("/etc/hostname", false, hostname(kernel).as_bytes());
    let lines: Vec<u8> = arguments.iter().flat_map(|argument| argument.bytes().chain(*b"\n")).collect();
    archive.file(&format!("{DIRECTORY}/arguments"), false, &lines);
    for (position, name) in MODULES.iter().enumerate() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_chosen_by_name() {
        let check = |chosen: &[&str], expect: Result<&[&str], &str>| {
            let names: Vec<String> = chosen.iter().map(|&name| name.to_owned()).collect();
            let found = chosen_of_tests(&names).map_err(|error| error.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expect, "{chosen:?}");
        };
        check(&["views", "walk"], Ok(&["views", "walk"]));
        check(&[], Ok(&TESTS));
        check(&["view"], Err(&format!("--only is view: guests have {}", TESTS.join(", "))));
    }
}
