//! How far each host was watched, in a file, so that a watch that ended goes on where it was.
//!
//! What is in the file was printed before. It is written at bookmarks, but not at all of them: of a watch that
//! is killed, the last second comes again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use cgfleet_proto::v1::SubscribeSpec;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;

/// How often the file is written, at most, before the end.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The positions of a watch.
pub(super) struct Positions {
    /// Where they are kept, if they are.
    file: Option<PathBuf>,
    content: Content,
    written_at: Option<Instant>,
    is_changed: bool,
}

/// The file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Content {
    /// What was watched: of another watch, the positions would hide what changed before them.
    watch: String,
    /// By host id.
    resume_tokens: BTreeMap<String, String>,
}

impl Positions {
    /// Those in the file, if there is one and it is there.
    pub(super) fn load(file: Option<PathBuf>, spec: &SubscribeSpec) -> Result<Self, Error> {
        let mut content = Content { watch: name(spec), ..Content::default() };
        if let Some(file) = &file
            && let Some(found) = read(file)?
        {
            if found.watch != content.watch {
                let cause = format!("it is of another watch ({})", found.watch);
                return Err(Error::NoPositions { path: file.display().to_string(), cause });
            }
            content = found;
        }
        Ok(Self { file, content, written_at: None, is_changed: false })
    }

    /// Host id and resume token of each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.content.resume_tokens.iter().map(|(host_id, token)| (host_id.as_str(), token.as_str()))
    }

    /// A host's resume token.
    pub(super) fn of(&self, host_id: &str) -> Option<&str> {
        self.content.resume_tokens.get(host_id).map(String::as_str)
    }

    /// Takes in a bookmark, behind all that was printed.
    pub(super) fn advance(&mut self, host_id: &str, resume_token: &str) -> Result<(), Error> {
        if self.file.is_none() {
            return Ok(());
        }
        self.content.resume_tokens.insert(host_id.to_owned(), resume_token.to_owned());
        self.is_changed = true;
        let is_due = self.written_at.is_none_or(|written_at| written_at.elapsed() >= WRITE_INTERVAL);
        if is_due { self.write() } else { Ok(()) }
    }

    /// Writes the file, if it is not up to date.
    pub(super) fn write(&mut self) -> Result<(), Error> {
        let Some(file) = self.file.as_ref().filter(|_| self.is_changed) else { return Ok(()) };
        let failed = |cause| Error::Positions { path: file.display().to_string(), cause };
        let mut text = serde_json::to_vec(&self.content).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        // Whoever reads it sees the old one or the new one.
        let mut new = file.clone().into_os_string();
        new.push(".new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, file)).map_err(failed)?;
        (self.written_at, self.is_changed) = (Some(Instant::now()), false);
        Ok(())
    }
}

fn read(file: &Path) -> Result<Option<Content>, Error> {
    let path = || file.display().to_string();
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Error::Positions { path: path(), cause }),
    };
    let content = serde_json::from_slice(&text);
    content.map(Some).map_err(|error| Error::NoPositions {
        path: path(),
        cause: format!("it is no file of positions ({error})"),
    })
}

/// What is watched, in one line.
fn name(spec: &SubscribeSpec) -> String {
    let target = spec.target.clone().unwrap_or_default();
    let target = if target.cgroup_id == 0 { target.path } else { target.cgroup_id.to_string() };
    let mut name = if target.is_empty() { "/".to_owned() } else { target };
    let interval = spec.interval.and_then(|interval| Duration::try_from(interval).ok());
    let workload = spec.workload.clone().unwrap_or_default();
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let parts = [
        ("pod", given(workload.pod)),
        ("container", given(workload.container)),
        ("unit", given(workload.unit)),
        ("max-depth", spec.max_depth.map(|levels| levels.to_string())),
        ("fields", spec.read_mask.as_ref().map(|mask| mask.paths.join(","))),
        ("interval", interval.map(|interval| humantime::format_duration(interval).to_string())),
        ("counters", Some(spec.counters).filter(|form| *form > 1).map(|form| form.to_string())),
    ];
    for (what, value) in parts {
        if let Some(value) = value {
            name = format!("{name} {what}={value}");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_were_written_and_by_the_same_watch_alone() {
        let dir = std::env::temp_dir().join(format!("cgctl-positions-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("positions");
        let spec = SubscribeSpec { max_depth: Some(1), ..SubscribeSpec::default() };
        let load = |spec: &SubscribeSpec| Positions::load(Some(file.clone()), spec);
        let mut positions = load(&spec).unwrap();
        assert_eq!(positions.iter().next(), None, "there is no file yet");
        positions.advance("a", "1").unwrap();
        positions.advance("b", "2").unwrap();
        positions.advance("a", "3").unwrap();
        assert_eq!(load(&spec).unwrap().of("a"), Some("1"), "not at every bookmark");
        positions.write().unwrap();
        let found = load(&spec).unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), [("a", "3"), ("b", "2")]);
        let refused = load(&SubscribeSpec::default()).err().unwrap().to_string();
        assert!(refused.contains("of another watch (/ max-depth=1)"), "{refused}");
        fs::write(&file, "{}").unwrap();
        assert!(matches!(load(&spec), Err(Error::NoPositions { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}
