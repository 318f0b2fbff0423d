//! A virtual machine as a process.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::disks::Disks;
use crate::command::{self, CommandFailed};

/// What is counted per CPU shall be summed.
const CPUS: &str = "2";

/// All that TCG can, but for what it is slow at, and for what no program here asks: a fifth level of page
/// tables, and copying by `rep movsb`, of which it makes a step a byte.
const CPU: &str = "max,la57=off,erms=off,fsrm=off";

/// The kernel's command line: only cgroup v2, warnings on the first serial port, an end instead of a hang.
/// The timer's interrupt is taken for granted, as under KVM: a kernel that counts it while this machine is
/// busy panics (arch/x86/kernel/apic/io_apic.c, check_timer). Pages that are to be overwritten are not zeroed
/// first, as Debian has it, for that is slow here.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 mitigations=off cgroup_no_v1=all \
     random.trust_cpu=on no_timer_check init_on_alloc=0";

/// The port on which a guest's agent listens.
pub(super) const AGENT_PORT: u16 = 7401;

/// The machine that runs qemu, seen from a guest.
pub(super) const OUTER_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A machine that can be started.
pub(super) struct Machine<'a> {
    pub(super) image: &'a Path,
    /// Where its filesystem, its disks and its logs are kept.
    pub(super) directory: PathBuf,
    /// It is killed after so long.
    pub(super) seconds_max: u32,
    pub(super) memory_mib: u32,
    /// A port of our loopback that leads to its agent. Without it, it has no network.
    pub(super) port: Option<u16>,
}

/// A machine that powered off or was killed.
pub(super) struct Ended {
    /// What the kernel printed.
    pub(super) console: String,
    /// What init.sh and its programs printed.
    pub(super) output: String,
    /// `None` if qemu ended as it does when a guest powers off.
    pub(super) failure: Option<CommandFailed>,
}

impl Machine<'_> {
    /// Where what the kernel prints can be read while it runs.
    fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// Where what init.sh and its programs print can be read while it runs.
    pub(super) fn output(&self) -> PathBuf {
        self.directory.join("output.log")
    }

    /// Runs it with this filesystem until it ends.
    pub(super) fn run(&self, filesystem: &[&[u8]]) -> Result<Ended> {
        // Logs of an earlier run must not be taken for this one's.
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)
                .with_context(|| format!("remove {}", self.directory.display()))?;
        }
        fs::create_dir_all(&self.directory).with_context(|| format!("make {}", self.directory.display()))?;
        let initramfs = self.directory.join("initramfs");
        fs::write(&initramfs, filesystem.concat())
            .with_context(|| format!("write {}", initramfs.display()))?;
        let disks = Disks::make_in(&self.directory)?;
        let mut qemu = self.command(&initramfs, &disks);
        let status = qemu.status().with_context(|| command::cannot_start(&qemu))?;
        Ok(Ended {
            console: read_log(&self.console())?,
            output: read_log(&self.output())?,
            failure: (!status.success()).then(|| CommandFailed::new(&qemu, status)),
        })
    }

    /// Always in software: /dev/kvm that is there need not work, and then hangs. Its CPUs take turns on
    /// one thread: with a thread each, one may still run code that the other has just patched, which the
    /// kernel's int3 patching (arch/x86/kernel/alternative.c, smp_text_poke_batch_finish) does not expect,
    /// and then a guest dies now and then. It ends with the thread that starts it, however that ends, and
    /// in the foreground it hears Ctrl-C.
    fn command(&self, initramfs: &Path, disks: &Disks) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "timeout", "--foreground", "--kill-after=5"]);
        command.args([&self.seconds_max.to_string(), "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
        command.args(["-accel", "tcg,thread=single", "-cpu", CPU, "-smp", CPUS]);
        command.args(["-m", &self.memory_mib.to_string()]);
        command.arg("-kernel").arg(self.image).arg("-initrd").arg(initramfs).args(["-append", COMMAND_LINE]);
        for log in [self.console(), self.output()] {
            command.arg("-serial").arg(format!("file:{}", log.display()));
        }
        command.args(disks.arguments());
        if let Some(port) = self.port {
            let forward =
                format!("user,id=net,ipv6=off,hostfwd=tcp:{}:{port}-:{AGENT_PORT}", Ipv4Addr::LOCALHOST);
            command.args(["-netdev", &forward, "-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        command.stdin(Stdio::null());
        command
    }
}

/// A port of loopback that is free now.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

fn read_log(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}
