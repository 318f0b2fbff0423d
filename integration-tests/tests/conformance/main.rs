//! The cases of the kernel's own selftest of the cgroup iterator (tools/testing/selftests/bpf,
//! prog_tests/cgroup_iter.c), and a few of ours, from a gRPC request to its answer: for every hierarchy,
//! way to name a cgroup, engine, and surroundings of the agent. Each is a line of what is printed.

mod cases;
mod dead;
mod names;
mod site;
mod world;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use cgfleet_proto::v1::WalkEngine;
use integration_tests::cgroups::v1_controllers;
use libtest_mimic::{Arguments, ColorSetting, Trial};

use crate::{
    site::{Hierarchy, Named, Site},
    world::{SharedMount, Surroundings, World},
};

/// A case: fails if the agent does not answer as the kernel does.
type Case = fn(&Site) -> Result<()>;

const ENGINES: [(&str, WalkEngine); 2] = [("unlocked", WalkEngine::Unlocked), ("locked", WalkEngine::Locked)];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The agent walks one walk at a time, and one case stops it in the middle of one.
    arguments.test_threads = Some(1);
    // A guest's serial port is taken for a terminal, and what reads it for a person.
    arguments.color.get_or_insert(ColorSetting::Never);
    let table = Table::default();
    match trials(&table) {
        Ok(trials) => {
            let conclusion = libtest_mimic::run(&arguments, trials);
            table.print();
            conclusion.exit_code()
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many cases passed and failed, by where and how they ran. It is also what the host shows of a guest.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<String, [u32; 2]>>>);

impl Table {
    fn count<T>(&self, row: &str, result: &Result<T>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.entry(row.to_owned()).or_default()[usize::from(result.is_err())] += 1;
    }

    fn print(&self) {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, [passed, failed]) in rows.iter() {
            println!("cgfleet-show: {row:<40} {passed:>3} passed {failed:>3} failed");
        }
    }
}

fn trials(table: &Table) -> Result<Vec<Trial>> {
    let mut v1: Vec<Named> = vec![Named::v1("v1_named", Hierarchy::V1Named)];
    for controller in v1_controllers()? {
        v1.push(Named::v1(&format!("v1_{controller}"), Hierarchy::V1(controller)));
    }
    let v2 = [Named::v2("v2_by_path", false), Named::v2("v2_by_id", true)];
    let mount = SharedMount::default();
    let mut trials = Vec::new();
    for surroundings in Surroundings::ALL {
        let world = Arc::new(World::new(surroundings, mount.clone()));
        // A container has cgroup v2 alone.
        let v1 = v1.iter().filter(|_| surroundings != Surroundings::Container);
        for named in v2.iter().chain(v1) {
            for (engine_name, engine) in ENGINES {
                let row = format!("{}{}::{engine_name}", surroundings.prefix(), named.name);
                for (case_name, case) in cases::of(named) {
                    let name = format!("{row}::{case_name}");
                    let (world, named) = (Arc::clone(&world), named.clone());
                    let (table, row) = (table.clone(), row.clone());
                    let run = move || {
                        let result = Site::make(&world, &named, engine).and_then(|site| case(&site));
                        table.count(&row, &result);
                        result
                    };
                    trials
                        .push(Trial::test(name, move || run().map_err(|error| format!("{error:#}").into())));
                }
            }
        }
    }
    Ok(trials)
}
