//! `bench NAME`: runs one benchmark. `cargo xtask bench NAME` builds it, with the daemons, and starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    integration_tests::bench::main(std::env::args().skip(1))
}
