//! The BPF programs of this host by id, whoever loaded them. For the benchmarks alone, which find the ids
//! of an agent's programs in /proc but no names there.

use std::collections::BTreeMap;

/// The names of the programs that are loaded; needs CAP_SYS_ADMIN. A program that is unloaded
/// meanwhile is left out.
pub fn loaded_programs() -> BTreeMap<u32, String> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    programs.map(|program| (program.id(), String::from_utf8_lossy(program.name()).into_owned())).collect()
}
