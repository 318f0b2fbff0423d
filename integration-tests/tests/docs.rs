//! The documents that repeat what the code says, compared with the code.
//!
//! docs/configuration.md and docs/metrics.md are written from it: renew them with `UPDATE_EXPECT=1 cargo test -p
//! integration-tests --test docs`. docs/errors.md and ARCHITECTURE.md are written by hand, and what they forgot is named.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cgfleet_agent::config::AgentConfig;
use cgfleet_config::markdown;
use cgfleet_model::{Metric, MetricKind, Origin};
use cgfleet_proto::{FILE_DESCRIPTOR_SET, v1::ErrorReason};
use cgfleet_server::config::ServerConfig;
use expect_test::expect_file;
use prost::Message as _;
use prost_types::FileDescriptorSet;

#[test]
fn the_configuration_page_is_what_the_structs_say() {
    let page = format!(
        "# Configuration\n\n\
         Both daemons take each key from a flag, an environment variable or a TOML file. A flag wins over the \
         environment,\nthe environment over the file, the file over the default. `--print-config` shows what is in \
         force and where each\nvalue came from; `--check-config` only validates. A bad value ends the daemon with \
         exit code 2 and one line that names\nthe value, where it came from, and what is allowed.\n\n\
         {}\n{}",
        markdown::<AgentConfig>(&cgfleet_agent::config::DAEMON),
        markdown::<ServerConfig>(&cgfleet_server::config::DAEMON),
    );
    expect_file!["../../docs/configuration.md"].assert_eq(&page);
}

#[test]
fn the_metrics_page_is_the_catalogue() {
    let intro = "# Metrics\n\n\
         The name is the field's path in `CgroupSample`: it goes into a request's read mask and cgctl's `--fields`, \
         and so\ndoes a whole group, such as `cpu`. A metric that was not measured is absent, never 0. \
         `cgctl doctor` says where an\nagent reads each, and why.\n\n\
         What a collector counts is in no file: it is there once the collector was switched on (`cgctl collectors`), \
         and is of\na cgroup and its descendants, removed ones too.\n\n\
         A counter only grows, a gauge goes up and down, a limit is set by somebody and may be `max` (2^64-1 on the \
         wire).\nUnit 1 is a plain number.\n\n\
         | Name | Unit | Kind | Same as | On cgroup v1 | Meaning |\n|---|---|---|---|---|---|\n";
    let rows = Metric::ALL.iter().map(|metric| {
        let info = metric.info();
        let kind = match info.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Limit => "limit",
        };
        let (name, unit, meaning) = (info.name, info.unit, info.description);
        let same_as = match info.origin {
            Origin::Files { v2, .. } => format!("`{}`", v2.to_text()),
            Origin::Collector(collector) => format!("collector {collector}"),
        };
        let v1 = info.v1().map_or_else(|| "-".to_owned(), |file| format!("`{}`", file.to_text()));
        format!("| `{name}` | {unit} | {kind} | {same_as} | {v1} | {meaning} |\n")
    });
    let rows: String = rows.collect();
    expect_file!["../../docs/metrics.md"].assert_eq(&format!("{intro}{rows}"));
}

#[test]
fn the_errors_page_has_every_reason_with_its_code() -> Result<()> {
    let page = fs::read_to_string(checkout().join("docs/errors.md"))?;
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented = rows.filter_map(|row| {
        let mut cells = row.split('|').map(str::trim);
        Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
    });
    let documented: BTreeSet<_> = documented.collect();
    let defined = reasons_with_codes()?;
    let forgotten: Vec<_> = defined.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&defined).collect();
    assert!(forgotten.is_empty(), "error.proto has what docs/errors.md forgot: {forgotten:?}");
    assert!(stale.is_empty(), "docs/errors.md has what error.proto does not: {stale:?}");
    Ok(())
}

/// Every reason that is sent, and the gRPC code that its comment in error.proto begins with.
fn reasons_with_codes() -> Result<BTreeSet<(String, String)>> {
    // Field numbers in descriptor.proto: a file's enums, and an enum's values.
    const ENUMS: i32 = 5;
    const VALUES: i32 = 2;
    let descriptors = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?;
    let file = descriptors.file.iter().find(|file| file.name() == "cgfleet/v1/error.proto");
    let file = file.context("error.proto is in the descriptor set")?;
    let locations = &file.source_code_info.as_ref().context("the descriptors keep comments")?.location;
    let mut reasons = BTreeSet::new();
    for (at, value) in (0..).zip(&file.enum_type.first().context("error.proto has one enum")?.value) {
        let reason = ErrorReason::from_str_name(value.name()).context("a value of the enum")?;
        let location = locations.iter().find(|location| location.path == [ENUMS, 0, VALUES, at]);
        let comment = location.context("every reason has a comment")?.leading_comments();
        if reason != ErrorReason::Unspecified {
            let code = comment.split('.').next().unwrap_or_default().trim();
            reasons.insert((reason.as_wire().to_owned(), code.to_owned()));
        }
    }
    Ok(reasons)
}

#[test]
fn the_architecture_names_what_exists_and_every_crate() -> Result<()> {
    let page = fs::read_to_string(checkout().join("ARCHITECTURE.md"))?;
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    let top: BTreeSet<String> = fs::read_dir(checkout())?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<_>>()?;
    let is_path = |name: &&&str| name.split_once('/').is_some_and(|(first, _)| top.contains(first));
    let gone: Vec<_> = named.iter().filter(is_path).filter(|path| !checkout().join(path).exists()).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names what is not there: {gone:?}");

    let has_manifest = |name: &&String| checkout().join(name).join("Cargo.toml").exists();
    let forgotten: Vec<_> =
        top.iter().filter(has_manifest).filter(|name| !named.contains(format!("{name}/").as_str())).collect();
    assert!(forgotten.is_empty(), "ARCHITECTURE.md forgot these crates: {forgotten:?}");
    Ok(())
}

#[test]
fn every_link_between_documents_leads_somewhere() -> Result<()> {
    let mut broken = Vec::new();
    for dir in ["", "docs", "docs/adr"].map(|dir| checkout().join(dir)) {
        for entry in fs::read_dir(&dir)? {
            let page = entry?.path();
            if page.extension().is_none_or(|kind| kind != "md") {
                continue;
            }
            let text = fs::read_to_string(&page)?;
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            let files = targets.map(|target| target.split('#').next().unwrap_or_default());
            let gone = files.filter(|file| !file.contains("://") && !dir.join(file).exists());
            broken.extend(gone.map(|file| format!("{}: {file}", page.display())));
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
    Ok(())
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
