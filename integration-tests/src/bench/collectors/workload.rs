//! Workers whose work is the events that a collector counts.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _, pipe},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use memmap2::MmapMut;
use nix::time::{ClockId, clock_gettime};
use rustix::fs::OFlags;

use crate::bench::{
    probe::{THIS_THREAD, pin},
    worker::{self, Worker},
};

pub(in crate::bench) const NAME: &str = "workload";

/// What direct I/O reads at a time, and a page.
const BLOCK_BYTES: usize = 4096;
const FILE_BLOCKS: usize = 1024;
/// Memory that cannot be reclaimed where there is no swap; where there is, one page is enough to ask for.
const MEMORY_BYTES: usize = 1 << 20;

/// Between the cgroups to join and what the work is done on.
const ON: &str = "--on";

/// What is done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// Moves itself through these cgroups.
    Move,
    /// Asks this file for memory to be reclaimed.
    Reclaim,
    /// Has two threads switch on this CPU, twice each time.
    Switch { cpu: usize },
    /// Reads a block of a file in this directory.
    Read,
}

impl Work {
    fn to_words(self) -> [String; 2] {
        let (name, cpu) = match self {
            Self::Move => ("move", 0),
            Self::Reclaim => ("reclaim", 0),
            Self::Switch { cpu } => ("switch", cpu),
            Self::Read => ("read", 0),
        };
        [name.to_owned(), cpu.to_string()]
    }

    fn of_words(name: &str, cpu: &str) -> Result<Self> {
        Ok(match name {
            "move" => Self::Move,
            "reclaim" => Self::Reclaim,
            "switch" => Self::Switch { cpu: cpu.parse()? },
            "read" => Self::Read,
            _ => bail!("no work is called {name}"),
        })
    }
}

/// The worker, at rest.
#[derive(Debug)]
pub(super) struct Workload(Worker);

/// How long all repeats took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    pub(super) wall_ns: f64,
    /// Of the process, all threads.
    pub(super) on_cpu_ns: f64,
}

impl Workload {
    /// Starts it: it cgroups and then, when it is asked, does this so many times on these paths.
    pub(super) fn start(work: Work, repeats: u32, joins: &[PathBuf], on: &[PathBuf]) -> Result<Self> {
        let [name, cpu] = work.to_words();
        let texts =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let mut arguments = vec![name, cpu, repeats.to_string()];
        arguments.extend(texts(joins));
        arguments.push(ON.to_owned());
        arguments.extend(texts(on));
        Ok(Self(Worker::start(NAME, &[], &arguments)?))
    }

    /// Has it do its work.
    pub(super) fn work(&mut self) -> Result<Took> {
        let answer = self.0.ask()?;
        let (wall, on_cpu) = answer.split_once(' ').with_context(|| format!("the workload says {answer}"))?;
        Ok(Took { wall_ns: wall.parse()?, on_cpu_ns: on_cpu.parse()? })
    }
}

/// The worker itself: `arguments` are as `Workload::start` gives them.
pub(in crate::bench) fn work(arguments: &[String]) -> Result<()> {
    let [name, cpu, repeats, paths @ ..] = arguments else { bail!("work, a CPU and a number are wanted") };
    let (work, repeats) = (Work::of_words(name, cpu)?, repeats.parse()?);
    let (joins, on) = paths.split_at(paths.iter().position(|word| word == ON).context("no paths")?);
    joins.iter().try_for_each(|cgroup| join(Path::new(cgroup)))?;
    let on: Vec<PathBuf> = on[1..].iter().map(PathBuf::from).collect();
    let mut act: Box<dyn FnMut() -> Result<()>> = match work {
        Work::Move => moving(on),
        Work::Reclaim => reclaiming(on)?,
        Work::Switch { cpu } => switching(cpu)?,
        Work::Read => reading(&on)?,
    };
    worker::serve(|| {
        let (started, on_cpu) = (Instant::now(), on_cpu_time()?);
        for _ in 0..repeats {
            act()?;
        }
        let wall = started.elapsed();
        Ok(format!("{} {}", wall.as_nanos(), on_cpu_time()?.saturating_sub(on_cpu).as_nanos()))
    })
}

/// Of this process, all threads.
fn on_cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn join(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("join {}", cgroup.display()))
}

fn moving(cgroups: Vec<PathBuf>) -> Box<dyn FnMut() -> Result<()>> {
    let mut next = 0;
    Box::new(move || {
        join(&cgroups[next])?;
        next = (next + 1) % cgroups.len();
        Ok(())
    })
}

fn reclaiming(files: Vec<PathBuf>) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let mut memory = MmapMut::map_anon(MEMORY_BYTES)?;
    memory.fill(7);
    Ok(Box::new(move || {
        for file in &files {
            // A cgroup of v1 is told nothing but to be emptied. That little could be reclaimed is no matter.
            let _ = fs::write(file, "1G");
        }
        memory[0] = 1;
        Ok(())
    }))
}

fn switching(cpu: usize) -> Result<Box<dyn FnMut() -> Result<()>>> {
    pin(THIS_THREAD, &[cpu])?;
    let ((mut from_other, mut to_us), (mut from_us, mut to_other)) = (pipe()?, pipe()?);
    thread::spawn(move || {
        let mut byte = [0];
        while from_us.read_exact(&mut byte).is_ok() && to_us.write_all(&byte).is_ok() {}
    });
    Ok(Box::new(move || {
        to_other.write_all(&[1])?;
        Ok(from_other.read_exact(&mut [0])?)
    }))
}

fn reading(directories: &[PathBuf]) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let path = directories.first().context("no disk")?.join("blocks");
    let mut written = File::create(&path)?;
    written.write_all(&vec![7; FILE_BLOCKS * BLOCK_BYTES])?;
    written.sync_all()?;
    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // Whole pages, as direct I/O has it.
    let mut block = MmapMut::map_anon(BLOCK_BYTES)?;
    let mut at = 0;
    Ok(Box::new(move || {
        // Not one behind the other, which might be put together.
        at = (at + 7) % FILE_BLOCKS;
        Ok(file.read_exact_at(&mut block, (at * BLOCK_BYTES) as u64)?)
    }))
}
