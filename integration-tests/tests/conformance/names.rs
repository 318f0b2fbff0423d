//! Names of any bytes but `/`, NUL and the newline, which the kernel refuses.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
};

use anyhow::{Result, ensure};
use cgfleet_proto::v1::{CgroupOrder, ErrorReason, WalkEnd};
use integration_tests::walk::by_id;
use nix::errno::Errno;
use tonic::Code;

use crate::site::Site;

/// They come back as text, and that text names the same cgroup.
pub(crate) fn of_any_bytes(site: &Site) -> Result<()> {
    let (longest, wildest) = ("x".repeat(255), [0xff; 255]);
    let escaped = "\\xff".repeat(255);
    let names = [
        (&b"a b"[..], "a b"),
        (b" ", " "),
        (b"a\tb", "a\\x09b"),
        (b"b\\x", "b\\x5cx"),
        (b"\\", "\\x5c"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("größe".as_bytes(), "größe"),
        (b"..x", "..x"),
        (longest.as_bytes(), &longest),
        (&wildest, &escaped),
    ];
    let path = |text: &str| format!("{}/{text}", site.tree.path("P/C1"));
    let mut found = vec![site.tree.path("P"), site.tree.path("P/C1")];
    for (name, text) in names {
        fs::create_dir(site.tree.directory("P/C1").join(OsStr::from_bytes(name)))?;
        found.push(path(text));
    }
    found.push(site.tree.path("P/C2"));
    site.check_paths(site.spec("P", CgroupOrder::DescendantsPre)?, &found, WalkEnd::Complete)?;
    for (name, text) in names {
        let id = fs::metadata(site.tree.directory("P/C1").join(OsStr::from_bytes(name)))?.ino();
        let target = if site.by_id { by_id(id) } else { site.by_path(&path(text)) };
        let walked =
            site.check_paths(site.spec_of(target, CgroupOrder::SelfOnly), &[path(text)], WalkEnd::Complete)?;
        ensure!(walked.samples[0].cgroup_id == id, "{text} is {}", walked.samples[0].cgroup_id);
    }
    Ok(())
}

/// kernel/cgroup/cgroup.c, cgroup_mkdir: /proc/PID/cgroup could not be read otherwise.
pub(crate) fn with_newline(site: &Site) -> Result<()> {
    let refused = fs::create_dir(site.tree.directory("P/a\nb")).err().and_then(|error| error.raw_os_error());
    ensure!(refused == Some(Errno::EINVAL as i32), "the kernel says {refused:?}");
    let target = site.by_path(&format!("{}/a\\x0ab", site.tree.path("P")));
    let spec = site.spec_of(target, CgroupOrder::SelfOnly);
    site.check_refused(spec, Code::NotFound, ErrorReason::CgroupNotFound, "a\\x0ab")
}
