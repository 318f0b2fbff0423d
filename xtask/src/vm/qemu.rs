//! A virtual machine as a process.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

/// More than any job needs. Two CPUs: what is counted per CPU shall be summed.
const MEMORY_MIB: &str = "1024";
const CPUS: &str = "2";

/// The kernel's command line: only cgroup v2, warnings on the first serial port, an end instead of a hang.
const COMMAND_LINE: &str =
    "console=ttyS0 loglevel=5 panic=-1 mitigations=off cgroup_no_v1=all random.trust_cpu=on";

/// The port on which a guest's agent listens.
pub(super) const AGENT_PORT: u16 = 7401;

/// The machine that runs qemu, seen from a guest.
pub(super) const OUTER_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A machine that can be started.
pub(super) struct Machine<'a> {
    pub(super) image: &'a Path,
    /// Where its filesystem and its logs are kept.
    pub(super) directory: PathBuf,
    /// It is killed after so long.
    pub(super) seconds_max: u32,
    /// A port of our loopback that leads to its agent. Without it, it has no network.
    pub(super) port: Option<u16>,
}

impl Machine<'_> {
    /// What the kernel printed.
    pub(super) fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// What init.sh and its programs printed.
    pub(super) fn output(&self) -> PathBuf {
        self.directory.join("output.log")
    }

    /// The command that runs it with this filesystem until it powers off.
    ///
    /// Always in software: /dev/kvm that is there need not work, and then hangs. Its CPUs take turns on
    /// one thread: with a thread each, one may still run code that the other has just patched, which the
    /// kernel's int3 patching (arch/x86/kernel/alternative.c, smp_text_poke_batch_finish) does not expect,
    /// and then a guest dies now and then. It ends with the thread that starts it, however that ends, and
    /// in the foreground it hears Ctrl-C.
    pub(super) fn command(&self, filesystem: &[&[u8]]) -> Result<Command> {
        // Logs of an earlier run must not be taken for this one's.
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)
                .with_context(|| format!("remove {}", self.directory.display()))?;
        }
        fs::create_dir_all(&self.directory).with_context(|| format!("make {}", self.directory.display()))?;
        let initramfs = self.directory.join("initramfs");
        fs::write(&initramfs, filesystem.concat())
            .with_context(|| format!("write {}", initramfs.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "timeout", "--foreground", "--kill-after=5"]);
        command.args([&self.seconds_max.to_string(), "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
        command.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", CPUS, "-m", MEMORY_MIB]);
        command.arg("-kernel").arg(self.image).arg("-initrd").arg(initramfs).args(["-append", COMMAND_LINE]);
        for log in [self.console(), self.output()] {
            command.arg("-serial").arg(format!("file:{}", log.display()));
        }
        if let Some(port) = self.port {
            let forward =
                format!("user,id=net,ipv6=off,hostfwd=tcp:{}:{port}-:{AGENT_PORT}", Ipv4Addr::LOCALHOST);
            command.args(["-netdev", &forward, "-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }
}

/// A port of loopback that is free now.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
