//! The cases, and to which ways of naming a cgroup each applies.

use std::process::Command;

use anyhow::{Result, ensure};
use cgfleet_proto::v1::{CgroupOrder, CgroupTarget, ErrorReason, WalkEnd, WalkSpec};
use integration_tests::walk::by_id;
use tonic::Code;

use crate::{
    Case, dead, names,
    site::{Named, Site},
};

/// The cases of all.
const OF_ALL: [(&str, Case); 15] = [
    ("invalid_order", invalid_order),
    ("invalid_target_unknown", invalid_target_unknown),
    ("invalid_target_twofold", invalid_target_twofold),
    ("self_only", self_only),
    ("preorder", preorder),
    ("postorder", postorder),
    ("ancestors", ancestors),
    ("children", children),
    ("max_depth", max_depth),
    ("early_termination", early_termination),
    ("stop_at", stop_at),
    ("repeat", repeat),
    ("dead_self_before_the_session", dead::before_the_session),
    ("dead_self_in_the_session", dead::in_the_session),
    ("names_of_any_bytes", names::of_any_bytes),
];

/// The cases of those named by path, and of cgroup v2.
const BY_PATH: (&str, Case) = ("name_with_newline", names::with_newline);
const OF_V2: (&str, Case) = ("dead_self_in_the_flush", dead::in_the_flush);

pub(crate) fn of(named: &Named) -> impl Iterator<Item = (&'static str, Case)> {
    let by_path = (!named.by_id).then_some(BY_PATH);
    OF_ALL.into_iter().chain(by_path).chain(named.hierarchy.is_v2().then_some(OF_V2))
}

fn invalid_order(site: &Site) -> Result<()> {
    for order in [CgroupOrder::Unspecified.into(), 6, 99] {
        let spec = WalkSpec { order, ..site.spec("P", CgroupOrder::Unspecified)? };
        site.check_refused(spec, Code::InvalidArgument, ErrorReason::InvalidField, "spec.order")?;
    }
    Ok(())
}

fn invalid_target_unknown(site: &Site) -> Result<()> {
    let unknown = if site.by_id {
        // The id of a cgroup that is gone: ids are not used again soon.
        let id = site.tree.make("P/gone")?;
        std::fs::remove_dir(site.tree.directory("P/gone"))?;
        by_id(id)
    } else {
        site.by_path(&site.tree.path("P/unknown"))
    };
    for order in [CgroupOrder::SelfOnly, CgroupOrder::DescendantsPre, CgroupOrder::AncestorsUp] {
        let spec = site.spec_of(unknown.clone(), order);
        site.check_refused(spec, Code::NotFound, ErrorReason::CgroupNotFound, "spec.target")?;
    }
    Ok(())
}

fn invalid_target_twofold(site: &Site) -> Result<()> {
    let both = CgroupTarget { cgroup_id: site.tree.id("P")?, ..site.by_path(&site.tree.path("P")) };
    let spec = site.spec_of(both, CgroupOrder::DescendantsPre);
    site.check_refused(spec, Code::InvalidArgument, ErrorReason::InvalidField, "spec.target.path")
}

fn self_only(site: &Site) -> Result<()> {
    site.check(site.spec("P", CgroupOrder::SelfOnly)?, &["P"], WalkEnd::Complete)?;
    Ok(())
}

fn preorder(site: &Site) -> Result<()> {
    let spec = site.spec("P", CgroupOrder::DescendantsPre)?;
    let found = site.check(spec, &["P", "P/C1", "P/C2"], WalkEnd::Complete)?.samples;
    let found: Vec<_> = found.iter().map(|sample| (sample.cgroup_id, sample.parent_id)).collect();
    let (p, c1, c2) = (site.tree.id("P")?, site.tree.id("P/C1")?, site.tree.id("P/C2")?);
    ensure!(found == [(p, site.tree.id("")?), (c1, p), (c2, p)], "{found:?}");
    Ok(())
}

fn postorder(site: &Site) -> Result<()> {
    let spec = site.spec("P", CgroupOrder::DescendantsPost)?;
    site.check(spec, &["P/C1", "P/C2", "P"], WalkEnd::Complete)?;
    Ok(())
}

fn ancestors(site: &Site) -> Result<()> {
    let spec = site.spec("P/C1", CgroupOrder::AncestorsUp)?;
    let found = site.check_paths(spec, &site.up_to_the_root(&["P/C1", "P", ""]), WalkEnd::Complete)?;
    let levels: Vec<u32> = found.samples.iter().map(|sample| sample.level).collect();
    ensure!(
        levels.iter().rev().copied().eq(0..u32::try_from(levels.len())?),
        "up to the real root: {levels:?}"
    );
    Ok(())
}

fn children(site: &Site) -> Result<()> {
    site.tree.make("P/C1/below")?;
    let spec = site.spec("P", CgroupOrder::Children)?;
    let walked = site.check(spec.clone(), &["P/C1", "P/C2"], WalkEnd::Complete)?;
    // By an iterator that has the order no others are visited, by one that has not all that are below P.
    let visited = if site.is_locked() && !iterates_children()? { 4 } else { 2 };
    ensure!(walked.summary.cgroups_visited == visited, "{} were visited", walked.summary.cgroups_visited);
    site.check(WalkSpec { limit: 1, ..spec.clone() }, &["P/C1"], WalkEnd::Limit)?;
    let stopped = WalkSpec { stop_at: Some(site.target("P/C1")?), ..spec };
    site.check(stopped, &["P/C1"], WalkEnd::StopAt)?;
    site.check(site.spec("P/C2", CgroupOrder::Children)?, &[], WalkEnd::Complete)?;
    Ok(())
}

/// Whether the kernel's iterator has an order for the children of a cgroup (7.0), as its BTF tells.
fn iterates_children() -> Result<bool> {
    let mut grep = Command::new("grep");
    let grep = grep.args(["-q", "BPF_CGROUP_ITER_CHILDREN", "/sys/kernel/btf/vmlinux"]).status()?;
    Ok(grep.success())
}

fn max_depth(site: &Site) -> Result<()> {
    site.tree.make("P/C1/below")?;
    for (order, max_depth, expect) in [
        (CgroupOrder::DescendantsPre, 0, &["P"][..]),
        (CgroupOrder::DescendantsPre, 1, &["P", "P/C1", "P/C2"]),
        (CgroupOrder::DescendantsPre, 2, &["P", "P/C1", "P/C1/below", "P/C2"]),
        (CgroupOrder::DescendantsPost, 0, &["P"]),
        (CgroupOrder::DescendantsPost, 1, &["P/C1", "P/C2", "P"]),
        (CgroupOrder::DescendantsPost, u32::MAX, &["P/C1/below", "P/C1", "P/C2", "P"]),
    ] {
        let spec = WalkSpec { max_depth: Some(max_depth), ..site.spec("P", order)? };
        site.check(spec, expect, WalkEnd::Complete)?;
    }
    Ok(())
}

/// The kernel ends the walk, and the summary still comes.
fn early_termination(site: &Site) -> Result<()> {
    let spec = site.spec("P", CgroupOrder::DescendantsPre)?;
    let limited = WalkSpec { limit: 1, ..spec };
    let visited = site.check(limited, &["P"], WalkEnd::Limit)?.summary.cgroups_visited;
    ensure!(visited == 1, "{visited} were visited");
    let spec = site.spec("P", CgroupOrder::DescendantsPost)?;
    site.check(WalkSpec { limit: 2, ..spec }, &["P/C1", "P/C2"], WalkEnd::Limit)?;
    Ok(())
}

fn stop_at(site: &Site) -> Result<()> {
    for stop_at in [site.target("")?, site.by_path(&site.tree.path(""))] {
        let spec = WalkSpec { stop_at: Some(stop_at), ..site.spec("P/C1", CgroupOrder::AncestorsUp)? };
        let summary = site.check(spec, &["P/C1", "P", ""], WalkEnd::StopAt)?.summary;
        ensure!(summary.cgroups_visited == 3, "{} were visited", summary.cgroups_visited);
        let topmost = if site.is_v2() { site.tree.id("")? } else { 0 };
        ensure!(summary.flushed_cgroup_id == topmost, "flushed {}", summary.flushed_cgroup_id);
    }
    Ok(())
}

/// A session that was read to its end leaves nothing for the next walk to find.
fn repeat(site: &Site) -> Result<()> {
    for _ in 0..2 {
        site.check(site.spec("P", CgroupOrder::DescendantsPre)?, &["P", "P/C1", "P/C2"], WalkEnd::Complete)?;
        site.check(site.spec("P/C2", CgroupOrder::DescendantsPre)?, &["P/C2"], WalkEnd::Complete)?;
    }
    Ok(())
}
