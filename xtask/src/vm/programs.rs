//! What cargo built, what this machine has, and what those programs load: a guest gets the same bytes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::command;

/// The programs of this workspace that guests start.
pub(crate) struct Programs {
    /// The programs that are no tests: name and file.
    pub(super) products: Vec<(String, PathBuf)>,
    /// The test executables of integration-tests: name and file.
    pub(super) tests: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Builds with this command of cargo's.
    pub(crate) fn build(build: &mut Command) -> Result<Self> {
        Self::read(&command::run_capturing(build.arg("--message-format=json-render-diagnostics"))?)
    }

    fn read(messages: &str) -> Result<Self> {
        let (mut products, mut tests) = (Vec::new(), Vec::new());
        for line in messages.lines() {
            let message: Value = serde_json::from_str(line).context("read what cargo built")?;
            let Some(executable) = message["executable"].as_str() else { continue };
            let target = &message["target"];
            let program = (target["name"].as_str().unwrap_or_default().to_owned(), executable.into());
            let package = Path::new(message["manifest_path"].as_str().unwrap_or_default()).parent();
            let kind = target["kind"][0].as_str();
            if kind == Some("bin") && message["profile"]["test"] == false {
                products.push(program);
            } else if kind == Some("test") && package.is_some_and(|dir| dir.ends_with("integration-tests")) {
                tests.push(program);
            }
        }
        Ok(Self { products, tests })
    }
}

/// The file of a program by its name.
pub(super) fn find<'a>(programs: &'a [(String, PathBuf)], name: &str) -> Result<&'a Path> {
    let found = programs.iter().find(|(known, _)| known == name);
    found.map(|(_, file)| file.as_path()).with_context(|| format!("cargo built no {name}"))
}

/// The file of a program that this machine has installed.
pub(super) fn of_host(name: &str) -> Result<PathBuf> {
    let found = command::capture(Command::new("which").arg(name));
    Ok(found.with_context(|| format!("find {name}"))?.trim().into())
}

/// The shared libraries that a program loads, with the loader itself; none if it is static.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // Of a static program ldd says so and fails.
        let complaint = String::from_utf8_lossy(&output.stderr);
        if !format!("{said}{complaint}").contains("not a dynamic executable") {
            bail!("ldd {}: {}", program.display(), complaint.trim());
        }
        return Ok(Vec::new());
    }
    loaded(&said).with_context(|| format!("ldd {}", program.display()))
}

/// The files in ldd's lines: `name => /file (address)`, `/file (address)`, or a name without a file for the vdso.
fn loaded(ldd: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for line in ldd.lines() {
        if line.contains("not found") {
            bail!("{}", line.trim());
        }
        files.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_tests_are_told_apart() {
        let artifact = |package: &str, name: &str, kind: &str, test: bool, executable: &str| {
            let executable = if executable.is_empty() { Value::Null } else { executable.into() };
            let message = serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": format!("/x/{package}/Cargo.toml"),
                "target": {"name": name, "kind": [kind]}, "profile": {"test": test}, "executable": executable,
            });
            format!("{message}\n")
        };
        let messages = [
            artifact("agent", "cgfleet_agent", "lib", false, ""),
            artifact("agent", "cgfleet-agent", "bin", false, "/t/cgfleet-agent"),
            artifact("agent", "cgfleet-agent", "bin", true, "/t/deps/cgfleet_agent-1"),
            artifact("integration-tests", "walk", "test", true, "/t/deps/walk-2"),
            artifact("server", "walk", "test", true, "/t/deps/walk-3"),
            "{\"reason\":\"build-finished\",\"success\":true}".to_owned(),
        ];
        let programs = Programs::read(&messages.concat()).unwrap();
        assert_eq!(programs.products, [("cgfleet-agent".to_owned(), PathBuf::from("/t/cgfleet-agent"))]);
        assert_eq!(find(&programs.tests, "walk").unwrap(), Path::new("/t/deps/walk-2"));
        assert!(find(&programs.tests, "fleet").is_err());
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007fe7)\n\t/lib64/ld.so (0x00)\n";
        assert_eq!(loaded(ldd).unwrap(), [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld.so")]);
        assert!(loaded("\tlibz.so.1 => not found\n").is_err());
        assert!(loaded("\tstatically linked\n").unwrap().is_empty());
    }
}
