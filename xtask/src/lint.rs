//! The lints: formatting, clippy, protos, fences.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    checkout::Checkout,
    command::{self, cargo},
    install::{Job, install},
    phases::Phases,
    tidy,
};

/// The protos of the last landing, as a buf image.
const LANDED_PROTOS: &str = "proto/landed.binpb";

type Lint = fn(&Checkout) -> Result<()>;

/// The quick ones first.
const LINTS: [(&str, Lint); 5] = [
    ("tidy", tidy::tidy),
    ("rustfmt", rustfmt),
    ("clang-format", clang_format),
    ("buf", buf),
    ("clippy", clippy),
];

/// Runs every lint, also after one that found something, and names those that did.
pub(crate) fn lint(checkout: &Checkout) -> Result<()> {
    let mut phases = Phases::start("lint");
    phases.run("install", || install(checkout, &[Job::Build, Job::Lint]))?;
    let mut failed = Vec::new();
    for (name, lint) in LINTS {
        if let Err(error) = phases.run(name, || lint(checkout)) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("these lints found something: {}", failed.join(", "));
    }
    Ok(())
}

/// Makes the protos as they are now the ones that must not be broken.
pub(crate) fn proto_landed(checkout: &Checkout) -> Result<()> {
    install(checkout, &[Job::Lint])?;
    command::run(Command::new(checkout.buf()).args(["build", "--exclude-source-info", "-o", LANDED_PROTOS]))
}

fn rustfmt(_: &Checkout) -> Result<()> {
    command::run(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(_: &Checkout) -> Result<()> {
    let lint = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    command::run(cargo().args(lint))
}

fn buf(checkout: &Checkout) -> Result<()> {
    command::run(Command::new(checkout.buf()).arg("lint"))?;
    if !Path::new(LANDED_PROTOS).exists() {
        bail!("{LANDED_PROTOS} is missing: make it with `cargo xtask proto-landed` and commit it");
    }
    command::run(Command::new(checkout.buf()).args(["breaking", "--against", LANDED_PROTOS]))
}

fn clang_format(checkout: &Checkout) -> Result<()> {
    let mut sources = Vec::new();
    collect_c(Path::new("ebpf"), &mut sources)?;
    if sources.is_empty() {
        bail!("no C source below ebpf/");
    }
    sources.sort();
    command::run(
        Command::new(checkout.venv_program("clang-format")).args(["--dry-run", "-Werror"]).args(sources),
    )
}

fn collect_c(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect_c(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "c" || extension == "h") {
            found.push(path);
        }
    }
    Ok(())
}
