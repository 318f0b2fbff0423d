//! Work that makes the kernel count something: each load is a process, in cgroups that a test made.
//!
//! A test executable starts itself again as a load, so it gives its first arguments to [`as_load`] before
//! anything else. Loads must not know what is measured.

mod files;
mod memory;
mod stage;
mod tasks;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

pub use stage::Stage;

/// The argument that makes a test executable a load.
const ARGUMENT: &str = "--load";

/// Of a load's time, one part in so many is work: many loads share few CPUs.
const REST: u32 = 30;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

const MIB: usize = 1 << 20;

/// Where a load works.
#[derive(Debug, Clone)]
pub struct Place {
    /// A directory on a filesystem of a disk.
    pub disk: PathBuf,
    /// A directory on a tmpfs.
    pub tmpfs: PathBuf,
    /// A directory on a tmpfs of huge pages.
    pub huge_tmpfs: PathBuf,
    /// Its cgroups: one a hierarchy.
    pub cgroups: Vec<PathBuf>,
}

impl Place {
    /// Moves this process into cgroups.
    fn join(cgroups: &[PathBuf]) -> Result<()> {
        for cgroup in cgroups {
            fs::write(cgroup.join("cgroup.procs"), "0")
                .with_context(|| format!("join {}", cgroup.display()))?;
        }
        Ok(())
    }

    fn to_arguments(&self) -> impl Iterator<Item = &Path> {
        [&self.disk, &self.tmpfs, &self.huge_tmpfs].into_iter().chain(&self.cgroups).map(PathBuf::as_path)
    }

    fn from_arguments(arguments: &[String]) -> Result<Self> {
        let mut paths = arguments.iter().map(PathBuf::from);
        let mut next = || paths.next().context("a load lacks its directories");
        Ok(Self { disk: next()?, tmpfs: next()?, huge_tmpfs: next()?, cgroups: paths.collect() })
    }
}

/// One round of work, which is done again and again. It owns what the load keeps meanwhile.
type Round = Box<dyn FnMut() -> Result<()>>;

macro_rules! loads {
    ($($(#[doc = $text:literal])+ $load:ident = $name:literal, $joins:literal, $start:path;)*) => {
        /// What a load does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Load {
            $($(#[doc = $text])+ $load,)*
        }

        impl Load {
            const ALL: &[Self] = &[$(Self::$load,)*];

            fn name(self) -> &'static str {
                match self { $(Self::$load => $name,)* }
            }

            /// False: it brings processes of its own into its cgroups, and stays outside.
            fn joins(self) -> bool {
                match self { $(Self::$load => $joins,)* }
            }

            fn start(self, place: &Place) -> Result<Round> {
                match self { $(Self::$load => $start(place),)* }
            }
        }
    };
}

loads! {
    /// Uses a CPU.
    Busy = "busy", true, tasks::busy;
    /// Forks shells that end at once.
    Fork = "fork", true, tasks::fork;
    /// Has many threads, and starts more.
    Threads = "threads", true, tasks::threads;
    /// Lets data lie in TCP sockets.
    Sockets = "sockets", true, tasks::sockets;
    /// Has a table of a million file descriptors, for which the kernel takes memory by vmalloc.
    FileTable = "file-table", true, tasks::file_table;
    /// Has processes killed by the OOM killer, one at a time.
    OutOfMemory = "out-of-memory", false, tasks::out_of_memory;
    /// Fills more memory than it may.
    Fill = "fill", true, memory::fill;
    /// Makes cgroups, leaves something of theirs behind, and removes them.
    Dying = "dying", false, tasks::dying;
    /// Maps anonymous memory, fills it and gives it back.
    Anonymous = "anonymous", true, memory::anonymous;
    /// Touches more anonymous memory than fits below its limits, so that it is swapped out and in.
    Thrash = "thrash", true, memory::thrash;
    /// The same in transparent huge pages.
    Huge = "huge", true, memory::huge;
    /// Tells the kernel that its memory is cold.
    Cold = "cold", true, memory::cold;
    /// Gives memory back lazily, by MADV_FREE, and has it reclaimed.
    LazyFree = "lazy-free", true, memory::lazy_free;
    /// Locks memory.
    Locked = "locked", true, memory::locked;
    /// Writes files into a tmpfs.
    Tmpfs = "tmpfs", true, files::tmpfs;
    /// Writes files into a tmpfs of huge pages.
    HugeTmpfs = "huge-tmpfs", true, files::huge_tmpfs;
    /// Writes a file again and again, and has part of it written to the disk.
    Write = "write", true, files::write;
    /// Reads more of a file than fits into its limit, and runs a program from the disk meanwhile.
    Refault = "refault", true, files::refault;
    /// Runs programs from the disk, which maps them.
    Mapped = "mapped", true, files::mapped;
    /// Reads a file so often that it is active, and has it reclaimed.
    Active = "active", true, files::active;
    /// Reads and writes past the page cache.
    Direct = "direct", true, files::direct;
    /// Discards what the filesystem does not use.
    Discard = "discard", true, files::discard;
    /// Makes many files.
    Inodes = "inodes", true, files::inodes;
}

/// A load that runs. It ends with this, or with the process that started it.
#[derive(Debug)]
pub struct Running {
    load: Load,
    child: Child,
}

impl Running {
    /// Starts a load in a place.
    pub fn start(load: Load, place: &Place) -> Result<Self> {
        Ok(Self { load, child: command(load, place)?.stdout(Stdio::piped()).spawn()? })
    }

    /// Waits until it has done its work once.
    pub fn worked(&mut self) -> Result<()> {
        let Some(said) = self.child.stdout.take() else { return Ok(()) };
        let mut line = String::new();
        if BufReader::new(said).read_line(&mut line)? == 0 {
            bail!("the load {} ended: {}", self.load.name(), self.child.wait()?);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(load: Load, place: &Place) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ARGUMENT, load.name()]).args(place.to_arguments()).stdin(Stdio::null());
    Ok(command)
}

/// Becomes a load if these arguments (without the program's name) say so, and then never returns but with
/// an error.
pub fn as_load(arguments: &[String]) -> Result<()> {
    let [first, name, directories @ ..] = arguments else { return Ok(()) };
    if first != ARGUMENT {
        return Ok(());
    }
    let load = Load::ALL.iter().copied().find(|load| load.name() == name);
    run(load.with_context(|| format!("no load is called {name}"))?, &Place::from_arguments(directories)?)
        .with_context(|| format!("the load {name}"))
}

fn run(load: Load, place: &Place) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if load.joins() {
        Place::join(&place.cgroups)?;
    }
    let mut round = load.start(place)?;
    let mut is_first = true;
    loop {
        let started = Instant::now();
        round()?;
        if std::mem::take(&mut is_first) {
            println!("ready");
            std::io::stdout().flush()?;
        }
        thread::sleep((started.elapsed() * REST).clamp(PAUSE_MIN, PAUSE_MAX));
    }
}
