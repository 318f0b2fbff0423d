//! The BPF programs of this host by id, whoever loaded them. For the benchmarks alone, which find the ids
//! of an agent's programs in /proc but no names there, nor how long they run unless that is measured.

use std::{collections::BTreeMap, io, os::fd::OwnedFd};

use aya::sys::{Stats, enable_stats};

/// The names of the programs that are loaded; needs CAP_SYS_ADMIN. A program that is unloaded
/// meanwhile is left out.
pub fn loaded_programs() -> BTreeMap<u32, String> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    programs.map(|program| (program.id(), String::from_utf8_lossy(program.name()).into_owned())).collect()
}

/// Has the kernel measure every run of every program until what this gives is dropped
/// (`run_time_ns` and `run_cnt` of /proc/PID/fdinfo); needs CAP_SYS_ADMIN.
pub fn measure_runs() -> io::Result<OwnedFd> {
    enable_stats(Stats::RunTime).map_err(|error| error.io_error)
}
