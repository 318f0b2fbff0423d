//! What the kernel side tells, as it tells it.

use std::{collections::HashMap, fs, os::fd::AsFd as _, sync::mpsc::channel, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use cgfleet_agent::kernel::{FinalUsage, Lifecycle, LifecycleEvent, LifecycleState, RemovedCgroup, Start};
use cgfleet_ebpf::abi;
use integration_tests::{cgroups::TestTree, wait};
use rustix::{
    process::Uid,
    thread::{CapabilitySets, capabilities, set_thread_res_uid},
};

use crate::{ALONE, SLOTS, dying_below, flushed_usage_ns, holds, kernel, load_lifecycle, root, work_through};

const CHILDREN: usize = 200;

fn removals(lifecycle: &mut Lifecycle) -> HashMap<u64, RemovedCgroup> {
    let mut removed = HashMap::new();
    lifecycle.drain(|event| {
        if let LifecycleEvent::Removed(cgroup) = event {
            assert!(removed.insert(cgroup.cgroup_id, *cgroup).is_none(), "a removal is told once");
        }
    });
    removed
}

/// Final CPU times, and the sequence up to which there are.
fn take_finals(lifecycle: &mut Lifecycle, start: Start<'_>) -> Result<(Vec<FinalUsage>, u64)> {
    let mut finals = Vec::new();
    let taken_to = lifecycle.take_finals(start, |usage| finals.push(usage))?;
    Ok((finals, taken_to))
}

fn make_children(tree: &TestTree) -> Result<Vec<(String, u64)>> {
    let names = (0..CHILDREN).map(|child| format!("parent/{child}"));
    names.map(|name| tree.make(&name).map(|id| (name, id))).collect()
}

fn remove(tree: &TestTree, children: &[(String, u64)]) -> Result<()> {
    children.iter().try_for_each(|(name, _)| fs::remove_dir(tree.directory(name)).context("remove a child"))
}

#[tokio::test]
async fn final_cpu_times_add_up_to_the_parents() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (root, root_id) = root()?;
    let start = Start::Directory(root.as_fd());
    let mut lifecycle = load_lifecycle(SLOTS)?;
    assert_eq!(lifecycle.holds(), holds()?);
    let mut kernel = kernel()?;
    lifecycle.attach(root_id, abi::CG_GROUP_CPU)?;
    let tree = TestTree::v2()?;
    let children = make_children(&tree)?;
    tree.make("rest")?;
    let names: Vec<String> = children.iter().map(|(name, _)| name.clone()).collect();
    let mut worker = work_through(&tree, &names, "rest")?;
    remove(&tree, &children)?;

    let (finals, taken_to) = take_finals(&mut lifecycle, start)?;
    let told = removals(&mut lifecycle);
    let of_sequence: HashMap<u64, u64> =
        finals.iter().map(|usage| (usage.sequence, usage.cpu_usage_ns)).collect();
    let (mut sum, mut known_at_removal, mut used) = (0, 0, 0);
    let reads_cpus = fs::read_to_string("/proc/kallsyms")?.contains(" __per_cpu_offset\n");
    ensure!(lifecycle.holds() || reads_cpus, "an old kernel of the guests has it");
    for (name, id) in &children {
        let removed = told.get(id).with_context(|| format!("no removal of {name}"))?;
        ensure!(removed.sequence < taken_to, "{removed:?}");
        // Elsewhere it is not known of those that were never flushed.
        ensure!(!reads_cpus || removed.valid == abi::CG_GROUP_CPU, "{removed:?}");
        let usage_ns = if lifecycle.holds() {
            *of_sequence.get(&removed.sequence).with_context(|| format!("nothing of {name}"))?
        } else {
            removed.cpu_usage_ns
        };
        used += usize::from(usage_ns > 0);
        known_at_removal += removed.cpu_usage_ns;
        sum += usage_ns;
    }
    let parent = fs::File::open(tree.directory("parent"))?;
    assert_eq!(sum, flushed_usage_ns(&mut kernel, &parent)?, "of {CHILDREN} removed children");
    // The kernel may charge what was done in one cgroup to the next, where the worker went soon: on a busy
    // machine it does so with most.
    ensure!(used > CHILDREN / 50, "{used} used the CPU");
    assert!(!reads_cpus || known_at_removal == sum, "{known_at_removal} ns were known at the removals");
    println!("{CHILDREN} removed: {sum} ns, final: {}", lifecycle.holds());

    let freed = async || Ok((dying_below(&tree)? == 0).then_some(()));
    wait::until("the removed ones to be freed", Duration::from_secs(30), freed).await?;
    lifecycle.detach(start)?;
    worker.kill()?;
    worker.wait()?;
    Ok(())
}

#[tokio::test]
async fn what_has_no_slot_is_counted_and_told_all_the_same() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (root, root_id) = root()?;
    let start = Start::Directory(root.as_fd());
    let mut lifecycle = load_lifecycle(16)?;
    lifecycle.attach(root_id, abi::CG_GROUP_CPU)?;
    let tree = TestTree::v2()?;
    let children = make_children(&tree)?;
    let mut told = HashMap::new();
    for few in children.chunks(20) {
        remove(&tree, few)?;
        told.extend(removals(&mut lifecycle));
    }
    let (finals, taken_to) = take_finals(&mut lifecycle, start)?;
    told.extend(removals(&mut lifecycle));
    let all = children.iter().all(|(_, id)| told.contains_key(id));
    assert!(all, "each is told");
    let LifecycleState { removed, displaced, lost, .. } = lifecycle.state();
    // Others may remove cgroups of theirs meanwhile.
    ensure!(removed >= CHILDREN as u64 && lost == 0, "{removed} told, {lost} lost");
    if lifecycle.holds() {
        ensure!(displaced >= CHILDREN as u64 - 16, "{displaced} of {removed} were displaced");
        ensure!(taken_to >= CHILDREN as u64 && finals.len() <= 16, "{taken_to}, {finals:?}");
    } else {
        ensure!(displaced == 0 && finals.is_empty());
    }
    lifecycle.detach(start)?;
    let freed = async || Ok((dying_below(&tree)? == 0).then_some(()));
    wait::until("the removed ones to be freed", Duration::from_secs(30), freed).await
}

#[tokio::test]
async fn what_was_flushed_is_told_where_a_later_session_fails() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (root, root_id) = root()?;
    let mut lifecycle = load_lifecycle(SLOTS)?;
    let tree = TestTree::v2()?;
    let start_id = tree.make("start")?;
    lifecycle.attach(root_id, abi::CG_GROUP_CPU)?;
    // One session takes no more than this.
    for _ in 0..=abi::CG_FINALS_MAX {
        tree.make("child")?;
        fs::remove_dir(tree.directory("child"))?;
    }
    let mut told = 0;
    let mut removed = Ok(());
    let taken = lifecycle.take_finals(Start::Id(start_id), |_| {
        // Then there is nothing where the next one could start.
        if told == 0 {
            removed = fs::remove_dir(tree.directory("start"));
        }
        told += 1;
    });
    removed?;
    if lifecycle.holds() {
        let error = taken.err().context("the second session started")?;
        assert_eq!(told, abi::CG_FINALS_MAX, "{error}");
    } else {
        ensure!(told == 0 && taken.is_ok(), "{told}, {taken:?}");
    }
    Ok(lifecycle.detach(Start::Directory(root.as_fd()))?)
}

#[tokio::test]
async fn what_finds_no_room_in_the_ring_buffer_is_lost_and_counted() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (root, root_id) = root()?;
    let mut lifecycle = load_lifecycle(16)?;
    lifecycle.attach(root_id, 0)?;
    let tree = TestTree::v2()?;
    // More than its 64 KiB, with the names' bytes alone.
    let below = ["a", "b", "c", "d"].map(|name| name.repeat(200)).join("/");
    for _ in 0..CHILDREN {
        tree.make(&below)?;
        fs::remove_dir(tree.directory(&below))?;
    }
    let told = removals(&mut lifecycle).len() as u64;
    let LifecycleState { removed, lost, .. } = lifecycle.state();
    ensure!(told == removed && lost > 0 && told + lost >= CHILDREN as u64, "{told} told, {lost} lost");
    Ok(lifecycle.detach(Start::Directory(root.as_fd()))?)
}

#[tokio::test]
async fn only_what_is_below_the_root_is_told_as_seen_from_there() -> Result<()> {
    let _alone = ALONE.lock().await;
    let tree = TestTree::v2()?;
    let root_id = tree.make("mounted")?;
    let deep = format!("mounted/in/{}", "d".repeat(20));
    let (inside, outside) = (tree.make(&deep)?, tree.make("outside")?);
    let mut lifecycle = load_lifecycle(16)?;
    lifecycle.attach(root_id, 0)?;
    fs::remove_dir(tree.directory("outside"))?;
    fs::remove_dir(tree.directory(&deep))?;
    let told = removals(&mut lifecycle);
    assert_eq!(told.keys().collect::<Vec<_>>(), [&inside], "and not {outside}");
    let removed = &told[&inside];
    assert_eq!(&*removed.names, format!("{}\0in\0", "d".repeat(20)).as_bytes());
    assert_eq!(removed.parent_id, tree.id("mounted/in")?);
    let root = fs::File::open(tree.directory("mounted"))?;
    Ok(lifecycle.detach(Start::Directory(root.as_fd()))?)
}

/// Gives up root and every capability of this thread, and says whether it has.
fn give_up_privileges() -> Result<bool> {
    let nobody = Uid::from_raw(65_534);
    // That takes all capabilities along (capabilities(7)).
    set_thread_res_uid(nobody, nobody, nobody)?;
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    Ok(effective.is_empty() && permitted.is_empty())
}

#[test]
fn watching_takes_no_privilege_once_the_programs_are_loaded() -> Result<()> {
    let _alone = ALONE.blocking_lock();
    let (root, root_id) = root()?;
    let mut lifecycle = load_lifecycle(SLOTS)?;
    let tree = TestTree::v2()?;
    let id = tree.make("leaf")?;
    let (watched, wait_for_watched) = channel();
    let (removed, wait_for_removed) = channel();
    let watcher = thread::spawn(move || -> Result<_> {
        ensure!(give_up_privileges()?, "it is still privileged");
        lifecycle.attach(root_id, abi::CG_GROUP_CPU)?;
        watched.send(())?;
        wait_for_removed.recv()?;
        let start = Start::Directory(root.as_fd());
        let (finals, _) = take_finals(&mut lifecycle, start)?;
        let told = removals(&mut lifecycle);
        lifecycle.detach(start)?;
        Ok((lifecycle.holds(), finals, told))
    });
    wait_for_watched.recv().context("the watcher failed")?;
    fs::remove_dir(tree.directory("leaf"))?;
    removed.send(())?;
    let (holds, finals, told) = watcher.join().map_err(|_| anyhow!("the watcher panicked"))??;
    ensure!(told.contains_key(&id), "it is told");
    assert_eq!(finals.iter().any(|usage| usage.cgroup_id == id), holds);
    Ok(())
}

/// So that they load on kernels whose verifier goes more ways; it stops at a million.
const VERIFIED_MAX: u32 = 300_000;

#[test]
fn programs_are_cheap_to_verify() -> Result<()> {
    let _alone = ALONE.blocking_lock();
    let lifecycle = load_lifecycle(SLOTS)?;
    let mut verified = Vec::new();
    for file in fs::read_dir("/proc/self/fdinfo")? {
        // The directory's own descriptor is gone by then.
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        let instructions = text.lines().find_map(|line| line.strip_prefix("verified_insns:"));
        verified.extend(instructions.map(|count| count.trim().parse::<u32>()).transpose()?);
    }
    println!("verified instructions: {verified:?}");
    ensure!(verified.len() >= if lifecycle.holds() { 4 } else { 3 }, "{verified:?}");
    ensure!(verified.iter().all(|count| *count < VERIFIED_MAX), "{verified:?}");
    Ok(())
}
