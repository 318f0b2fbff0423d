//! The part of `walk` for a guest, where cgroup v2 has every controller: what each record group adds.
//!
//! Everything is slow there in its own way, so each row is a ratio within this one run.

use anyhow::{Result, ensure};
use cgfleet_model::{KernelFile, Metric};
use cgfleet_proto::v1::WalkEngine;

use super::{OPEN_READ_CLOSE, PER_CGROUP, PREAD_KEPT, add_walk, per_cgroup_ns};
use crate::{
    bench::{
        Bench, Row,
        client::{CPU, Client, groups},
        files::CgroupFiles,
        interleaved::Interleaved,
        noop::{NOOP, add_noop},
        timed,
        trees::{Grown, Shape},
    },
    daemon::Start,
};

/// Of a walk for all groups, without the flush, to the iterator that does nothing.
const NOOP_REACH: f64 = 6.0;
/// Of a walk for all groups, flush included, to pread on kept descriptors of the same files.
const PREAD_REACH: f64 = 1.0 / 4.0;

const SHAPE: Shape =
    Shape { name: "5000 flat, every controller", below_top: 5_000, is_chain: false, rounds: 15 };
/// The readers read this many of them, evenly spread: a file that is kept open and was read keeps 4 KiB
/// of the kernel's memory.
const READ_CGROUPS: usize = 500;

const ALL_GROUPS: &str = "all groups";

/// The files that show what all groups hold, as the catalogue names them.
fn files_of_catalogue() -> Vec<&'static str> {
    let mut files: Vec<&str> = Vec::new();
    for KernelFile { file, .. } in Metric::ALL.iter().filter_map(|metric| metric.info().v2()) {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

pub(in crate::bench) fn run(bench: &Bench) -> Result<Vec<Row>> {
    measure(bench, &SHAPE.grow_with_controllers()?)
}

fn measure(bench: &Bench, grown: &Grown) -> Result<Vec<Row>> {
    let leaf = &grown.directories[1];
    let of_catalogue = files_of_catalogue().into_iter();
    let (names, absent): (Vec<&str>, Vec<&str>) = of_catalogue.partition(|name| leaf.join(name).exists());
    println!("files of a cgroup: {}; not here: {}", names.join(" "), absent.join(" "));
    let mut files = CgroupFiles::of(grown.tree.directory(""), &grown.directories[1..], &names)?;
    files.keep_open(READ_CGROUPS)?;
    let agent = bench.block_on(Start::agent()?.flushing_freely().start())?;
    let client = |groups: &[&str]| {
        let agent = bench.block_on(async { agent.agent() })?;
        anyhow::Ok(Client::new(agent, grown.tree.path(""), SHAPE.cgroups(), WalkEngine::Unlocked, groups))
    };

    let mut interleaved = Interleaved::of(SHAPE.name);
    add_noop(&mut interleaved, &SHAPE, grown)?;
    let all = groups();
    let mut masks: Vec<(String, Vec<&str>)> = vec![(CPU.to_owned(), vec![CPU])];
    masks.extend(
        all.iter().filter(|group| **group != CPU).map(|group| (format!("cpu + {group}"), vec![CPU, group])),
    );
    masks.push((ALL_GROUPS.to_owned(), all));
    for (name, groups) in &masks {
        let mut client = client(groups)?;
        if let [CPU, group] = groups[..] {
            let rows = bench.block_on(client.rows_with(group))?;
            println!("{group}: measured in {rows} of {} cgroups", SHAPE.cgroups());
        }
        add_walk(&mut interleaved, bench, name, client, SHAPE.cgroups());
    }
    let of_one = u32::try_from(names.len())?;
    let kept = files.kept_cgroups()?;
    interleaved.add(PREAD_KEPT, PER_CGROUP, || {
        let (found, took) = timed(|| files.pread_kept());
        ensure!(found?.files == kept * of_one, "pread missed files");
        Ok(per_cgroup_ns(took, kept))
    });
    interleaved.add(OPEN_READ_CLOSE, PER_CGROUP, || {
        let (found, took) = timed(|| files.open_read_close(grown.directories.len().div_ceil(READ_CGROUPS)));
        Ok(per_cgroup_ns(took, found?.files / of_one))
    });

    let figures = interleaved.run(bench, SHAPE.rounds)?;
    let get = |name: &str| figures.get(name);
    let (noop, pread_kept) = (get(NOOP)?, get(PREAD_KEPT)?);
    let mut rows = vec![noop.row()];
    for (name, _) in &masks {
        let row = get(name)?.row_against(noop);
        rows.push(if name == ALL_GROUPS { row.reach(NOOP_REACH) } else { row });
    }
    let with_flush = get(&format!("{ALL_GROUPS} with flush"))?;
    rows.push(with_flush.row_against(pread_kept).reach(PREAD_REACH));
    rows.push(get(&format!("{ALL_GROUPS}, gRPC round trip"))?.row_against(get(OPEN_READ_CLOSE)?));
    rows.extend([pread_kept.row(), get(OPEN_READ_CLOSE)?.row()]);
    Ok(rows)
}
