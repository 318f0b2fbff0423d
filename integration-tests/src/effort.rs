//! How much a test repeats, by what the machine it runs on can bear.

/// By how much an emulated CPU is slower, where its machine has other work too.
const EMULATION: u32 = 20;

/// Whether the CPU is emulated, as in the guests of `cargo xtask vm`.
pub fn is_emulated() -> bool {
    std::env::var_os("CGFLEET_EMULATED").is_some()
}

/// How often to repeat what only looks for rare moments: so often, but less on an emulated CPU, where the
/// guests of `cargo xtask vm` run (their init sets the variable). It never becomes nothing.
pub fn repetitions(count: u32) -> u32 {
    if is_emulated() { count.div_ceil(EMULATION) } else { count }
}
