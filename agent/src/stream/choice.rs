//! Which cgroups a follower is told of.

use cgfleet_proto::v1::CgroupSample;

/// A subtree of cgroup v2, down to a depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The topmost cgroup, as text.
    path: String,
    /// Levels below it.
    max_depth: Option<u32>,
}

impl Choice {
    /// A cgroup by its path as text, and so many levels below it; `None` for all.
    pub(crate) fn new(path: String, max_depth: Option<u32>) -> Self {
        Self { path, max_depth }
    }

    /// Whether it is in it.
    pub(crate) fn holds(&self, sample: &CgroupSample) -> bool {
        let Some(below) = below(&sample.path, &self.path) else { return false };
        let depth = below.bytes().filter(|byte| *byte == b'/').count();
        self.max_depth.is_none_or(|max_depth| depth <= max_depth as usize)
    }
}

/// What of a path is below another one: empty for that itself, else it begins with a slash.
fn below<'a>(path: &'a str, top: &str) -> Option<&'a str> {
    match (path, top) {
        ("/", "/") => Some(""),
        // What is above the mount is not below its root.
        (path, "/") => (!path.starts_with("/..")).then_some(path),
        (path, top) => {
            let below = path.strip_prefix(top)?;
            (below.is_empty() || below.starts_with('/')).then_some(below)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subtree_ends_where_its_paths_do() {
        let check = |top: &str, max_depth, expect: &[&str]| {
            let choice = Choice::new(top.to_owned(), max_depth);
            let paths = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/a b", "/.."];
            let held = paths.iter().copied().filter(|path| {
                choice.holds(&CgroupSample { path: (*path).to_owned(), ..CgroupSample::default() })
            });
            assert_eq!(held.collect::<Vec<_>>(), expect, "{top} {max_depth:?}");
        };
        check("/", None, &["/", "/a", "/a/b", "/a/b/c", "/ab", "/a b"]);
        check("/", Some(0), &["/"]);
        check("/", Some(1), &["/", "/a", "/ab", "/a b"]);
        check("/a", None, &["/a", "/a/b", "/a/b/c"]);
        check("/a", Some(0), &["/a"]);
        check("/a/b", Some(1), &["/a/b", "/a/b/c"]);
        check("/x", None, &[]);
    }
}
