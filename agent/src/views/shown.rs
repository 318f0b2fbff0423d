//! The views there are.

use std::{collections::BTreeMap, fs, fs::File, io, os::fd::AsRawFd as _};

use cgfleet_proto::v1;
use prost_types::FieldMask;

use super::{Columns, ViewDirectory, ViewName, ViewSpec, ViewsError};
use crate::{
    cgroupfs::Hierarchies,
    kernel::{AttachError, KernelError, PinnedView, ViewError, ViewLink, ViewPrograms, ViewSettings},
    service::wire_order,
    walker::{Found, Order, WalkError, find},
};

/// The request's field that names the cgroup.
const TARGET: &str = "view.target";

/// The views, and what makes them.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The reason if there is none.
    made_by: Result<(ViewPrograms, ViewDirectory), String>,
    hierarchies: Hierarchies,
    views: BTreeMap<ViewName, Entry>,
}

#[derive(Debug)]
struct Entry {
    view: PinnedView,
    columns: Columns,
    /// Of the cgroup where it starts: does not keep that from being freed, as the view does.
    directory: File,
}

impl Shown {
    pub(crate) fn new(
        made_by: Result<(ViewPrograms, ViewDirectory), String>,
        hierarchies: &Hierarchies,
    ) -> Self {
        Self { made_by, hierarchies: hierarchies.clone(), views: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    pub(super) fn create(&mut self, spec: &ViewSpec) -> Result<v1::View, ViewsError> {
        let (programs, directory) =
            self.made_by.as_mut().map_err(|reason| ViewsError::Unavailable(reason.clone()))?;
        if self.views.contains_key(&spec.name) {
            return Err(ViewsError::Exists(spec.name.as_str().to_owned()));
        }
        let found = find(&self.hierarchies, TARGET, &spec.target)?;
        let settings = ViewSettings {
            columns: spec.columns.bits(),
            order: spec.order.to_abi(),
            page_bytes: u32::try_from(rustix::param::page_size()).unwrap_or_default(),
            heading: spec.columns.heading(),
        };
        let view = programs.attach(&settings, found.start()).map_err(|error| refused(error, spec))?;
        let made = check_size(&view, spec)
            .and_then(|()| directory_of(found, &view, &self.hierarchies, spec))
            .and_then(|cgroup| {
                directory.pin(&view, spec.name.as_str()).map_err(|error| refused(error, spec))?;
                Ok(cgroup)
            });
        match made {
            Ok(cgroup) => {
                let entry = Entry { view, columns: spec.columns, directory: cgroup };
                let entry = self.views.entry(spec.name.clone()).or_insert(entry);
                to_wire(directory, &spec.name, entry)
            }
            Err(error) => {
                programs.give_back(view);
                Err(error)
            }
        }
    }

    pub(super) fn list(&self) -> Result<Vec<v1::View>, ViewsError> {
        // Where there can be none, there are none.
        let Ok((_, directory)) = &self.made_by else { return Ok(Vec::new()) };
        self.views.iter().map(|(name, entry)| to_wire(directory, name, entry)).collect()
    }

    pub(super) fn delete(&mut self, name: &ViewName) -> Result<(), ViewsError> {
        if self.remove(name) { Ok(()) } else { Err(ViewsError::NotFound(name.as_str().to_owned())) }
    }

    /// Removes the views of cgroups that were removed.
    pub(super) fn remove_gone(&mut self) {
        let gone = self.views.iter().filter(|(_, entry)| is_gone(&entry.directory));
        let gone: Vec<ViewName> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            tracing::info!(view = name.as_str(), "its cgroup was removed, and so is the view");
            self.remove(&name);
        }
    }

    pub(super) fn remove_all(&mut self) {
        let names: Vec<ViewName> = self.views.keys().cloned().collect();
        for name in names {
            self.remove(&name);
        }
    }

    /// Whether there was such a view.
    fn remove(&mut self, name: &ViewName) -> bool {
        let (Some(entry), Ok((programs, directory))) = (self.views.remove(name), &mut self.made_by) else {
            return false;
        };
        directory.unpin(name.as_str());
        programs.give_back(entry.view);
        true
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.remove_all();
    }
}

/// A removed cgroup has no files any more (fs/kernfs/dir.c, kernfs_iop_lookup), whatever has its name now.
fn is_gone(cgroup: &File) -> bool {
    let procs = format!("/proc/self/fd/{}/cgroup.procs", cgroup.as_raw_fd());
    fs::metadata(procs).is_err_and(|error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
    })
}

/// Refuses a view whose text is not whole, unless that was asked for.
fn check_size(view: &PinnedView, spec: &ViewSpec) -> Result<(), ViewsError> {
    let text = view.read().map_err(|error| refused(error, spec))?;
    let Some((cgroups, bytes)) = truncated(&text) else { return Ok(()) };
    if spec.truncate {
        return Ok(());
    }
    Err(ViewsError::TooLarge { name: spec.name.as_str().to_owned(), cgroups, bytes })
}

/// From the last line of a view that is not whole: how many cgroups it has, and how many bytes there are.
fn truncated(text: &[u8]) -> Option<(String, String)> {
    let text = text.strip_suffix(b"\n")?;
    let last = text.rsplit(|byte| *byte == b'\n').next()?;
    let numbers = str::from_utf8(last).ok()?.strip_prefix("# truncated after ")?;
    let mut words = numbers.split(' ').filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

/// The directory of the cgroup at which a view starts.
fn directory_of(
    found: Found,
    view: &PinnedView,
    hierarchies: &Hierarchies,
    spec: &ViewSpec,
) -> Result<File, ViewsError> {
    let id = match found {
        Found::ByPath(located) => return Ok(located.directory),
        Found::ById(id) => id,
    };
    let link = view.link().map_err(|error| refused(ViewError::Read(error), spec))?;
    let located = hierarchies.locate("", cgroup_path(&link).as_bytes()).ok();
    let located = located.filter(|located| located.cgroup_id == id || id == 0);
    let gone = || WalkError::NoSuchCgroup { field: TARGET, target: spec.target.to_text() };
    Ok(located.ok_or_else(gone)?.directory)
}

fn cgroup_path(link: &ViewLink) -> &str {
    link.fdinfo.lines().find_map(|line| line.strip_prefix("cgroup_path:\t")).unwrap_or_default()
}

fn refused(error: ViewError, spec: &ViewSpec) -> ViewsError {
    match error {
        ViewError::Attach(AttachError::Refused(error))
            if error.raw_os_error() == Some(libc::EINVAL) && spec.order == Order::Children =>
        {
            ViewsError::NoSuchOrder(error)
        }
        ViewError::Attach(error) => {
            ViewsError::Target(WalkError::from(KernelError::from(error)).at(TARGET, &spec.target))
        }
        source => ViewsError::Kernel { name: spec.name.as_str().to_owned(), source },
    }
}

fn to_wire(directory: &ViewDirectory, name: &ViewName, entry: &Entry) -> Result<v1::View, ViewsError> {
    let link = entry.view.link().map_err(|error| ViewsError::Kernel {
        name: name.as_str().to_owned(),
        source: ViewError::Read(error),
    })?;
    let order = Order::ALL.into_iter().find(|order| order.to_abi() == link.order);
    Ok(v1::View {
        name: name.as_str().to_owned(),
        path: directory.path_of(name.as_str()).display().to_string(),
        cgroup_path: cgroup_path(&link).to_owned(),
        cgroup_id: link.cgroup_id,
        order: order.map_or(v1::CgroupOrder::Unspecified, wire_order).into(),
        read_mask: Some(FieldMask { paths: entry.columns.names().map(str::to_owned).collect() }),
        link_id: link.link_id,
        program_id: link.program_id,
        fdinfo: link.fdinfo,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_whether_the_text_is_whole() {
        let check = |text: &str, expect: Option<(&str, &str)>| {
            let expect = expect.map(|(cgroups, bytes)| (cgroups.to_owned(), bytes.to_owned()));
            assert_eq!(truncated(text.as_bytes()), expect, "{text:?}");
        };
        check("# cgfleet-view 1\n1 0 0 /\n# end of 1 cgroups\n", None);
        check("1 0 0 /\n# truncated after 1 cgroups: more than 32768 bytes\n", Some(("1", "32768")));
        check("1 0 1 # truncated after 1 cgroups: more than 32768 bytes\n# end of 1 cgroups\n", None);
        check("", None);
    }
}
