//! What a process costs, as /proc tells it: CPU time by thread, memory, BPF maps and programs.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

/// Maps that can be mapped (include/uapi/linux/bpf.h).
const BPF_F_MMAPABLE: u64 = 1 << 10;

/// What descriptors of programs tell, and those of links do not, which have a prog_id too
/// (kernel/bpf/syscall.c, bpf_link_show_fdinfo).
const PROGRAM: &str = "prog_type";

/// A running process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pid: u32,
}

impl Process {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn path(self, below: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{below}", self.pid))
    }

    fn read(self, below: &str) -> Result<String> {
        let path = self.path(below);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Time on a CPU since it started, by the names of its threads; of those that are still there.
    pub(super) fn cpu_time(self) -> Result<BTreeMap<String, Duration>> {
        let mut cpu_time = BTreeMap::<String, Duration>::new();
        for thread in fs::read_dir(self.path("task"))? {
            let thread = thread?.path();
            let read = |file: &str| fs::read_to_string(thread.join(file));
            // A thread may end while this looks at it.
            let (Ok(name), Ok(text)) = (read("comm"), read("schedstat")) else { continue };
            *cpu_time.entry(name.trim().to_owned()).or_default() += parse_schedstat(&text)?;
        }
        Ok(cpu_time)
    }

    /// The most physical memory that it has had so far, mapped maps included.
    pub(super) fn rss_peak_bytes(self) -> Result<u64> {
        let status = self.read("status")?;
        let mut pairs = status.lines().filter_map(|line| line.split_once(':'));
        let peak = pairs.find(|(key, _)| *key == "VmHWM").map(|(_, value)| value.trim());
        let kib = peak.and_then(|peak| peak.strip_suffix(" kB")).context("the kernel tells no VmHWM")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// The memory of its BPF maps: of those in its address space, which needs no descriptor, and of
    /// those that cannot be there.
    pub(super) fn bpf_map_bytes(self) -> Result<u64> {
        let maps = self.read("maps")?;
        let mapped: u64 = maps.lines().filter(|line| line.ends_with("anon_inode:bpf-map")).map(length).sum();
        let mut others = BTreeMap::new();
        for map in self.bpf_objects("map_id")? {
            if map.number("map_flags")? & BPF_F_MMAPABLE == 0 {
                others.insert(map.number("map_id")?, map.number("memlock")?);
            }
        }
        Ok(mapped + others.values().sum::<u64>())
    }

    /// The ids of its BPF programs, and how many instructions the verifier went through for each.
    pub(super) fn verified_insns(self) -> Result<BTreeMap<u32, u32>> {
        let programs = self.bpf_objects(PROGRAM)?;
        let read = |program: &FdInfo| {
            let number = |key| anyhow::Ok(u32::try_from(program.number(key)?)?);
            Ok((number("prog_id")?, number("verified_insns")?))
        };
        programs.iter().map(read).collect()
    }

    /// By the ids of its BPF programs: their runs while the kernel measured them.
    pub(super) fn program_runs(self) -> Result<BTreeMap<u32, Runs>> {
        let programs = self.bpf_objects(PROGRAM)?;
        let read = |program: &FdInfo| {
            let runs = Runs { ns: program.number("run_time_ns")?, count: program.number("run_cnt")? };
            anyhow::Ok((u32::try_from(program.number("prog_id")?)?, runs))
        };
        programs.iter().map(read).collect()
    }

    /// What is told of its descriptors of this kind of object; several may be of the same one.
    fn bpf_objects(self, key: &str) -> Result<Vec<FdInfo>> {
        let mut found = Vec::new();
        for fd in fs::read_dir(self.path("fdinfo"))? {
            // It may be closed while this looks at it.
            let Ok(text) = fs::read_to_string(fd?.path()) else { continue };
            let fd_info = FdInfo(text);
            if fd_info.value(key).is_some() {
                found.push(fd_info);
            }
        }
        Ok(found)
    }
}

/// Runs of a BPF program.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Runs {
    /// Together.
    pub(super) ns: u64,
    pub(super) count: u64,
}

impl Runs {
    /// One of them; not a number where there was none.
    pub(super) fn ns_each(self) -> Result<f64> {
        Ok(Duration::from_nanos(self.ns).as_secs_f64() * 1e9 / f64::from(u32::try_from(self.count)?))
    }
}

/// A file of /proc/PID/fdinfo.
struct FdInfo(String);

impl FdInfo {
    fn value(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.trim())
    }

    fn number(&self, key: &str) -> Result<u64> {
        let value = self.value(key).with_context(|| format!("no {key} in {}", self.0))?;
        let parsed = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        parsed.with_context(|| format!("{key} is {value}"))
    }
}

/// schedstat begins with the time on a CPU in nanoseconds (fs/proc/base.c, proc_pid_schedstat).
fn parse_schedstat(text: &str) -> Result<Duration> {
    let on_cpu_ns = text.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(on_cpu_ns.parse().with_context(|| format!("schedstat says {text}"))?))
}

/// The bytes of a line's range in /proc/PID/maps.
fn length(line: &str) -> u64 {
    let range = line.split(' ').next().and_then(|range| range.split_once('-'));
    let address = |digits| u64::from_str_radix(digits, 16).unwrap_or_default();
    range.map_or(0, |(start, end)| address(end) - address(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_as_long_as_from_start_to_end() {
        let line = "7fddd14d2000-7fddd16f2000 rw-s 00000000 00:10 1038       anon_inode:bpf-map";
        assert_eq!(length(line), 0x22_0000);
    }

    #[test]
    fn numbers_of_fdinfo_may_be_hexadecimal() {
        let fd_info = FdInfo("pos:\t0\nmap_id:\t612\nmap_flags:\t0x400\n".to_owned());
        assert_eq!(fd_info.number("map_id").unwrap(), 612);
        assert_eq!(fd_info.number("map_flags").unwrap(), BPF_F_MMAPABLE);
        assert!(fd_info.number("memlock").is_err());
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let itself = Process::new(std::process::id());
        assert!(itself.cpu_time().unwrap().values().sum::<Duration>() > Duration::ZERO);
        assert!(itself.rss_peak_bytes().unwrap() > 100_000);
    }
}
