//! Collectors: what they count, in whom, and that nothing of it is lost.
//!
//! Its executable is the load, too: it starts itself for that. Hence no harness of libtest's.

mod agent;
mod full;
mod restart;
mod sums;
mod switch;

use std::process::ExitCode;

use anyhow::Result;
use integration_tests::load;
use libtest_mimic::{Arguments, ColorSetting, Failed, Trial};
use tokio::runtime::Runtime;

fn trial<F: Future<Output = Result<()>> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        let run = || Runtime::new()?.block_on(test());
        run().map_err(|error: anyhow::Error| Failed::from(format!("{error:#}")))
    })
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    load::as_load(&arguments)?;
    let mut arguments = Arguments::from_args();
    // What one test does to the CPUs and the memory, another would count.
    arguments.test_threads = Some(1);
    arguments.color.get_or_insert(ColorSetting::Never);
    let trials = vec![
        trial("attached_tasks_add_up_to_the_root", sums::attached_tasks_add_up_to_the_root),
        trial("what_a_removed_cgroup_counted_stays", sums::what_a_removed_cgroup_counted_stays),
        trial("reclaim_adds_up", sums::reclaim_adds_up),
        trial("waits_for_a_cpu_add_up", sums::waits_for_a_cpu_add_up),
        trial("block_requests_are_timed", sums::block_requests_are_timed),
        trial("collectors_are_switched_without_privilege", switch::collectors_are_switched_without_privilege),
        trial("what_cannot_be_switched_is_said", switch::what_cannot_be_switched_is_said),
        trial("a_full_map_makes_no_sum_wrong", full::a_full_map_makes_no_sum_wrong),
        trial("totals_outlive_an_agent_that_is_killed", restart::totals_outlive_an_agent_that_is_killed),
        trial("what_was_removed_meanwhile_stays", restart::what_was_removed_meanwhile_stays),
        trial("two_agents_do_not_share_a_directory", restart::two_agents_do_not_share_a_directory),
    ];
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}
