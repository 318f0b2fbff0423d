//! The binary `cgctl`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cgctl::run(std::env::args_os()).into()
}
