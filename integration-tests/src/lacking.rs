//! Hosts and users that leave a daemon without BPF.

/// What a daemon lacks to load BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// Root's capabilities for it, in the bounding set too.
    Capabilities,
    /// Root: it is started by an ordinary user.
    Root,
    /// The kernel's BTF: nothing is in /sys/kernel/btf, in a mount namespace of the daemon's own.
    Btf,
}

impl Lacking {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Capabilities, Self::Root, Self::Btf];

    /// The command that takes it away and then becomes the daemon.
    pub fn wrapper(self) -> &'static [&'static str] {
        match self {
            // CAP_SYS_ADMIN stands for both others (include/linux/capability.h, bpf_capable, perfmon_capable).
            Self::Capabilities => &["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin", "--inh-caps=-all"],
            Self::Root => &[],
            Self::Btf => &[
                "unshare",
                "--mount",
                "sh",
                "-c",
                "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"",
            ],
        }
    }

    /// The user that starts the daemon; `None` for the one who runs the tests.
    pub fn user(self) -> Option<u32> {
        (self == Self::Root).then_some(65_534)
    }

    /// What the daemon has to say of it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Capabilities | Self::Root => "not permitted to load BPF programs",
            Self::Btf => "this kernel has no BTF",
        }
    }
}
