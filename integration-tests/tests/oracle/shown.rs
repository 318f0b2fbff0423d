//! What cgroup files show: a parser of its own, for the agent's must not be its own judge.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cgfleet_model::{KernelFile, Metric, Shape};

/// The files of one cgroup, read one after the other.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    values: HashMap<Metric, u64>,
    /// By `MAJOR:MINOR`: the keys of io.stat.
    pub(crate) devices: HashMap<String, HashMap<String, u64>>,
}

impl Shown {
    pub(crate) fn value(&self, metric: Metric) -> Option<u64> {
        self.values.get(&metric).copied()
    }

    fn read(directory: &Path, is_v2: bool) -> Self {
        let mut texts: HashMap<&str, Option<String>> = HashMap::new();
        let mut shown = Self::default();
        for metric in Metric::ALL {
            let info = metric.info();
            let Some(file) = (if is_v2 { info.v2() } else { info.v1() }) else { continue };
            let text =
                texts.entry(file.file).or_insert_with(|| fs::read_to_string(directory.join(file.file)).ok());
            let value = text.as_deref().and_then(|text| value(file, text));
            shown.values.extend(value.map(|value| (*metric, value)));
        }
        if let Some(Some(text)) = texts.get("io.stat") {
            shown.devices = text.lines().filter_map(device).collect();
        }
        shown
    }
}

/// Reads a cgroup and those below it, by their ids. What goes away meanwhile is left out.
pub(crate) fn read_subtree(directory: &Path, is_v2: bool) -> Result<HashMap<u64, Shown>> {
    let mut found = HashMap::new();
    read_below(directory, is_v2, &mut found).with_context(|| format!("read {}", directory.display()))?;
    Ok(found)
}

/// Gives how many cgroups there are below, and whether a process is in any.
fn read_below(directory: &Path, is_v2: bool, found: &mut HashMap<u64, Shown>) -> io::Result<(u64, bool)> {
    let mut shown = Shown::read(directory, is_v2);
    let mut descendants = 0;
    let mut is_populated = !fs::read(directory.join("cgroup.procs"))?.is_empty();
    for child in subdirectories(directory)? {
        if let Ok((below, is_child_populated)) = read_below(&child, is_v2, found) {
            descendants += 1 + below;
            is_populated |= is_child_populated;
        }
    }
    if !is_v2 {
        // cgroup v1 has no file for what anybody can see there.
        shown.values.insert(Metric::StructureNrDescendants, descendants);
        shown.values.insert(Metric::StructurePopulated, is_populated.into());
    }
    found.insert(fs::metadata(directory)?.ino(), shown);
    Ok((descendants, is_populated))
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let directories = entries.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.map(|entry| entry.path()).collect())
}

fn value(file: KernelFile, text: &str) -> Option<u64> {
    let number = |text: &str| match text {
        // The second is how cgroup v1 says it, with pages of 4 KiB.
        "max" | "9223372036854771712" => Some(u64::MAX),
        text => text.parse::<u64>().ok(),
    };
    let value = match file.shape {
        Shape::Value => number(text.trim_end())?,
        Shape::Flat(key) => {
            let pairs: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
            number(pairs.get(key)?)?
        }
        Shape::Nested(key) => {
            text.lines().filter_map(device).filter_map(|(_, keys)| keys.get(key).copied()).sum()
        }
        Shape::Stall(line) => {
            let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let words = lines.find(|words| words.first() == Some(&line))?;
            number(words.last()?.strip_prefix("total=")?)?
        }
    };
    Some(if value == u64::MAX { value } else { value / file.divisor })
}

/// A line of io.stat.
fn device(line: &str) -> Option<(String, HashMap<String, u64>)> {
    let (name, keys) = line.split_once(' ')?;
    let pairs = keys.split(' ').filter_map(|pair| pair.split_once('='));
    let numbers = pairs.filter_map(|(key, number)| Some((key.to_owned(), number.parse().ok()?)));
    Some((name.to_owned(), numbers.collect()))
}
