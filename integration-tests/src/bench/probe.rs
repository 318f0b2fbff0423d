//! What others feel while an agent walks: how long a mkdir takes, and how late a thread wakes.
//!
//! The worker has a real-time priority, so that no time for which it only waits for a CPU that an
//! ordinary thread has is counted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    figure::p99,
    worker::{self, Worker},
};

pub(super) const NAME: &str = "probe";

/// util-linux, which every host has: to become real-time is not in the safe part of any library here.
const REAL_TIME: [&str; 3] = ["chrt", "--fifo", "50"];

/// A mkdir, and a wake, is due once in this time.
const PERIOD: Duration = Duration::from_micros(500);
const MKDIRS: usize = 2000;

/// The calling thread, for sched_setaffinity(2).
pub(super) const THIS_THREAD: Pid = Pid::from_raw(0);

/// The 99th percentiles of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Felt {
    pub(super) mkdir_p99_us: f64,
    pub(super) wake_p99_us: f64,
}

/// The worker.
#[derive(Debug)]
pub(super) struct Probe(Worker);

impl Probe {
    /// Makes and removes cgroups in `directory`, and wakes on this CPU.
    pub(super) fn start(directory: &Path, wakes_on_cpu: usize) -> Result<Self> {
        let arguments = [directory.display().to_string(), wakes_on_cpu.to_string()];
        Ok(Self(Worker::start(NAME, &REAL_TIME, &arguments)?))
    }

    /// Measures once.
    pub(super) fn feel(&mut self) -> Result<Felt> {
        let answer = self.0.ask()?;
        let (mkdir, wake) = answer.split_once(' ').with_context(|| format!("the probe says {answer}"))?;
        Ok(Felt { mkdir_p99_us: mkdir.parse()?, wake_p99_us: wake.parse()? })
    }
}

/// The CPUs that this process may use.
pub(super) fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(THIS_THREAD)?;
    Ok((0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect())
}

/// Keeps a thread on these CPUs.
pub(super) fn pin(thread: Pid, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
    sched_setaffinity(thread, &set).with_context(|| format!("keep thread {thread} on CPUs {cpus:?}"))
}

/// The worker itself: `arguments` are those of `Probe::start`.
pub(super) fn work(arguments: &[String]) -> Result<()> {
    let [directory, cpu] = arguments else { bail!("a directory and a CPU are wanted") };
    let (directory, cpu) = (PathBuf::from(directory), cpu.parse::<usize>()?);
    let others: Vec<usize> = cpus()?.into_iter().filter(|other| *other != cpu).collect();
    worker::serve(|| {
        let felt = feel(&directory, cpu, &others)?;
        Ok(format!("{} {}", felt.mkdir_p99_us, felt.wake_p99_us))
    })
}

/// Makes cgroups, away from the CPU on which meanwhile a thread wakes again and again.
fn feel(directory: &Path, cpu: usize, others: &[usize]) -> Result<Felt> {
    let cgroup = directory.join("made");
    let made = AtomicBool::new(false);
    thread::scope(|scope| {
        let waking = scope.spawn(|| {
            pin(THIS_THREAD, &[cpu])?;
            let mut schedule = Schedule::from_now();
            let mut late_us = Vec::new();
            while !made.load(Ordering::Relaxed) {
                schedule.wait();
                late_us.push(schedule.late_us());
            }
            anyhow::Ok(late_us)
        });
        let making = scope.spawn(|| {
            let late_us = pin(THIS_THREAD, others).and_then(|()| make_cgroups(&cgroup));
            made.store(true, Ordering::Relaxed);
            late_us
        });
        let joined = |panic| anyhow!("a thread of the probe panicked: {panic:?}");
        let made_late_us = making.join().map_err(joined)??;
        let woken_late_us = waking.join().map_err(joined)??;
        Ok(Felt { mkdir_p99_us: p99(made_late_us), wake_p99_us: p99(woken_late_us) })
    })
}

/// Makes a cgroup whenever one is due. The time until it is there counts from then on, so that one mkdir
/// that waits makes those late that become due meanwhile, as it would those of others.
fn make_cgroups(cgroup: &Path) -> Result<Vec<f64>> {
    let mut schedule = Schedule::from_now();
    let mut late_us = Vec::with_capacity(MKDIRS);
    for _ in 0..MKDIRS {
        schedule.wait();
        fs::create_dir(cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        late_us.push(schedule.late_us());
        fs::remove_dir(cgroup)?;
    }
    Ok(late_us)
}

/// Something is due every PERIOD, whether or not what was due before is done.
struct Schedule {
    due: Instant,
}

impl Schedule {
    fn from_now() -> Self {
        Self { due: Instant::now() }
    }

    /// Goes on to what is due next, and waits for it unless it is late already.
    fn wait(&mut self) {
        self.due += PERIOD;
        thread::sleep(self.due.saturating_duration_since(Instant::now()));
    }

    fn late_us(&self) -> f64 {
        self.due.elapsed().as_secs_f64() * 1e6
    }
}
