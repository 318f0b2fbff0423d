//! A target that is removed: before its walk, and at the worst moments of it, where the agent is held by
//! ptrace(2).

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cgfleet_proto::v1::{CgroupOrder, ErrorReason, WalkEnd};
use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tonic::Code;

use crate::site::Site;

/// BPF_ITER_CREATE of bpf(2) (enum bpf_cmd of the kernel's uapi): a session begins.
const BPF_ITER_CREATE: u64 = 33;

pub(crate) fn before_the_session(site: &Site) -> Result<()> {
    site.tree.make("P/D")?;
    let spec = site.spec("P/D", CgroupOrder::SelfOnly)?;
    site.check(spec.clone(), &["P/D"], WalkEnd::Complete)?;
    fs::remove_dir(site.tree.directory("P/D"))?;
    site.check_refused(spec, Code::NotFound, ErrorReason::CgroupNotFound, "spec.target")
}

/// The session that walks is open already: what the kernel passes over is no row.
pub(crate) fn in_the_session(site: &Site) -> Result<()> {
    for order in [CgroupOrder::SelfOnly, CgroupOrder::DescendantsPre, CgroupOrder::Children] {
        site.tree.make("P/D")?;
        let spec = site.spec("P/D", order)?;
        // It is known to the agent then, and the second time takes no sessions for names.
        site.walk(spec.clone())?;
        // cgroup v2 is flushed first, in a session of its own.
        let held = Held::at_session(site, if site.is_v2() { 2 } else { 1 }, "P/D")?;
        let walked = site.walk(spec);
        held.finish()?;
        let walked = walked?;
        ensure!(walked.samples.is_empty(), "{order:?}: {:?} is gone", walked.samples);
        ensure!(walked.summary.end() == WalkEnd::TargetGone, "{order:?}: {:?}", walked.summary);
    }
    Ok(())
}

/// The session that flushes is open already, and the one that walks finds no cgroup.
pub(crate) fn in_the_flush(site: &Site) -> Result<()> {
    site.tree.make("P/D")?;
    let spec = site.spec("P/D", CgroupOrder::SelfOnly)?;
    site.walk(spec.clone())?;
    let held = Held::at_session(site, 1, "P/D")?;
    let refused = site.check_refused(spec, Code::NotFound, ErrorReason::CgroupNotFound, "spec.target");
    held.finish()?;
    refused
}

/// The agent's walker, held by a tracer.
struct Held {
    tracer: JoinHandle<Result<()>>,
    /// The walk is over, and no more sessions will come.
    is_over: Arc<AtomicBool>,
}

impl Held {
    /// From now on removes a cgroup when the walker has begun its nth session and not read it yet.
    fn at_session(site: &Site, nth: u32, below: &str) -> Result<Self> {
        let walker = walker_of(site.agent()?.pid())?;
        let directory = site.tree.directory(below);
        let (holds, held) = channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&is_over);
        // A thread is traced by one thread, and by no other.
        let tracer = thread::spawn(move || {
            ptrace::seize(walker, Options::PTRACE_O_TRACESYSGOOD).context("trace the agent")?;
            let removed = remove_at_session(walker, nth, &directory, &holds, &end);
            // It is stopped now, or has ended, which the error tells.
            let let_go = ptrace::detach(walker, None).context("let the agent go");
            removed.and(let_go)
        });
        // An error of the tracer's is told when it is finished.
        let _ = held.recv();
        Ok(Self { tracer, is_over })
    }

    fn finish(self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        self.tracer.join().map_err(|_| anyhow!("the tracer panicked"))?
    }
}

fn remove_at_session(
    walker: Pid,
    nth: u32,
    directory: &Path,
    holds: &Sender<()>,
    is_over: &AtomicBool,
) -> Result<()> {
    ptrace::interrupt(walker)?;
    wait_for_stop(walker)?;
    holds.send(())?;
    let (mut sessions, mut is_entry, mut begins_session) = (0, true, false);
    while !is_over.load(Ordering::Relaxed) {
        ptrace::syscall(walker, None)?;
        if !is_at_system_call(walker, is_over)? {
            continue;
        }
        if is_entry {
            begins_session = system_call(walker)? == (libc::SYS_bpf.cast_unsigned(), BPF_ITER_CREATE);
        } else if begins_session {
            sessions += 1;
            if sessions == nth {
                return fs::remove_dir(directory).context("remove the target");
            }
        }
        is_entry = !is_entry;
    }
    bail!("the walk began only {sessions} sessions")
}

/// Waits until the walker stops at a system call. Stops it, if the walk is over before.
fn is_at_system_call(walker: Pid, is_over: &AtomicBool) -> Result<bool> {
    while !is_over.load(Ordering::Relaxed) {
        match waitpid(walker, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive => thread::yield_now(),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => bail!("the agent ended"),
            status => return Ok(matches!(status, WaitStatus::PtraceSyscall(_))),
        }
    }
    ptrace::interrupt(walker)?;
    wait_for_stop(walker).map(|_| false)
}

fn wait_for_stop(walker: Pid) -> Result<WaitStatus> {
    // A thread that is no child of ours is waited for like this (waitpid(2)).
    match waitpid(walker, Some(WaitPidFlag::__WALL))? {
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => bail!("the agent ended"),
        status => Ok(status),
    }
}

/// The number of the system call that the thread enters, and its first argument.
#[cfg(target_arch = "x86_64")]
fn system_call(walker: Pid) -> Result<(u64, u64)> {
    let registers = ptrace::getregs(walker)?;
    Ok((registers.orig_rax, registers.rdi))
}

/// As above.
#[cfg(target_arch = "aarch64")]
fn system_call(walker: Pid) -> Result<(u64, u64)> {
    let registers = ptrace::getregs(walker)?;
    Ok((registers.regs[8], registers.regs[0]))
}

/// The agent's thread that walks.
fn walker_of(pid: u32) -> Result<Pid> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim() == "walker" {
            return Ok(Pid::from_raw(task.file_name().to_string_lossy().parse()?));
        }
    }
    bail!("the agent has no walker")
}
