//! What a flush makes current, read where the kernel holds it: reading a file would flush again.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::fd::AsFd as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_agent::{
    kernel::{Bounds, Kernel, Start as From, WalkRequest, with_loader},
    walker::Order,
};
use cgfleet_model::Metric;
use cgfleet_proto::v1::{CgroupOrder, CgroupTarget, FlushMethod, WalkEngine, WalkSpec};
use integration_tests::{
    cgroups::TestTree,
    daemon::Start,
    walk::{by_path, spec, walk},
};
use prost_types::FieldMask;

use super::{LONG, flush, method, of, upward};

const PAGE_BYTES: usize = 4096;

/// A shell that works in a cgroup and is gone.
fn work_once(tree: &TestTree, below: &str) -> Result<()> {
    let script = "echo $$ > \"$0/cgroup.procs\" && i=0 && while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let status = Command::new("sh").args(["-c", script]).arg(tree.directory(below)).status()?;
    ensure!(status.success(), "the worker failed: {status}");
    Ok(())
}

/// The kernel side as the agent has it, to read what was not flushed for that.
fn load() -> Result<Kernel> {
    let bounds = Bounds { records_max: 256, locked_visits_max: 256, names_max: 256, slice_max: LONG };
    Ok(with_loader(|loader| Kernel::load(loader, bounds))?)
}

/// CPU time as the kernel holds it, which no flush precedes here.
fn unflushed_usage_ns(kernel: &mut Kernel, cgroup_id: u64) -> Result<u64> {
    let order = Order::SelfOnly.to_abi();
    let request = WalkRequest { groups: u32::MAX, ..WalkRequest::of(From::Id(cgroup_id), order) };
    let drained = kernel.walk_slice(&request, None)?;
    Ok(drained.records.first().context("the cgroup is gone")?.cpu_usage_ns)
}

/// All that the kernel holds of memory.stat's states, whatever they are, which no flush precedes here.
fn unflushed_states(kernel: &mut Kernel, tree: &TestTree) -> Result<Vec<i64>> {
    let directory = File::open(tree.directory(""))?;
    let (start, order) = (From::Directory(directory.as_fd()), Order::SelfOnly.to_abi());
    let drained =
        kernel.walk_slice(&WalkRequest { groups: u32::MAX, ..WalkRequest::of(start, order) }, None)?;
    Ok(drained.memory_stats.first().context("the cgroup is gone")?.state.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_makes_cpu_time_current_up_to_the_target() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let tree = TestTree::v2()?;
    tree.make("P/C")?;
    let mut kernel = load()?;
    for (request, levels) in [
        (of(by_path(tree.path("P"))), &["P", "P/C"][..]),
        (upward(by_path(tree.path("P"))), &["", "P", "P/C"]),
    ] {
        work_once(&tree, "P/C")?;
        let flushed = flush(&agent, request).await?;
        assert_eq!(method(&flushed, "cpu"), Some(FlushMethod::Rstat), "{flushed:?}");
        let found = levels.iter().map(|below| unflushed_usage_ns(&mut kernel, tree.id(below)?));
        let found = found.collect::<Result<Vec<_>>>()?;
        for (below, usage_ns) in levels.iter().zip(found) {
            // Reading it flushes, and the work is over.
            assert_eq!(usage_ns / 1000, tree.cpu_stat_usage_usec(below)?, "{below:?}: {flushed:?}");
            assert!(usage_ns > 0);
        }
    }
    Ok(())
}

/// A process in a cgroup that takes memory when it is told to.
struct Taker {
    process: Child,
    tell: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Taker {
    fn start(tree: &TestTree, below: &str) -> Result<Self> {
        let script = "echo $$ > \"$0/cgroup.procs\" && exec perl -e \
                      '$| = 1; print \"0\\n\"; while (<STDIN>) { push @kept, \"x\" x $_; print \"1\\n\" }'";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(tree.directory(below)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let tell = process.stdin.take().context("no stdin")?;
        let told = BufReader::new(process.stdout.take().context("no stdout")?);
        let mut taker = Self { process, tell, told };
        taker.wait()?;
        Ok(taker)
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        writeln!(self.tell, "{bytes}")?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let mut line = String::new();
        ensure!(self.told.read_line(&mut line)? > 0, "the process that takes memory has ended");
        Ok(())
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a program flushes memory, what is far below the threshold of memory.stat is current too.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_makes_memory_statistics_as_current_as_it_says() -> Result<()> {
    let agent = Start::agent()?.start().await?;
    let v2 = TestTree::v2()?;
    let is_on_v2 = v2.directory("").join("memory.stat").exists();
    let v1 = if is_on_v2 { None } else { TestTree::v1("memory")? };
    let (tree, key, hierarchy) = match &v1 {
        Some(tree) => (tree, "total_rss", "memory"),
        None => (&v2, "anon", ""),
    };
    tree.make("P")?;
    let target = || CgroupTarget { hierarchy: hierarchy.to_owned(), ..by_path(tree.path("")) };
    if !is_on_v2 {
        let flushed = flush(&agent, of(by_path(v2.path("")))).await?;
        assert_eq!(method(&flushed, "memory"), None, "cgroup v2 has no memory here: {flushed:?}");
    }
    if !tree.directory("").join("memory.stat").exists() {
        return Ok(());
    }
    let (mut kernel, mut taker) = (load()?, Taker::start(tree, "P")?);
    for _ in 0..3 {
        let flushed = flush(&agent, of(target())).await?;
        let bytes = match method(&flushed, "memory").context("memory was not flushed")? {
            FlushMethod::Rstat => 40 * PAGE_BYTES,
            FlushMethod::FilePastThreshold => 4096 * PAGE_BYTES,
            method => panic!("{method:?}: {flushed:?}"),
        };
        let (states, before) = (unflushed_states(&mut kernel, tree)?, memory_stat(tree, key)?);
        taker.take(bytes)?;
        let flushed = flush(&agent, of(target())).await?;
        let now = unflushed_states(&mut kernel, tree)?;
        let grown_most = now.iter().zip(states).map(|(now, before)| now - before).max().unwrap_or_default();
        assert!(grown_most >= i64::try_from(bytes / PAGE_BYTES)?, "{grown_most}: {flushed:?}");
        let grown = memory_stat(tree, key)? - before;
        assert!(grown >= bytes, "{grown} of {bytes} bytes: {flushed:?}");
    }
    Ok(())
}

/// What a counter or gauge grew by in the kernel, `real`, and as a walk has it that nothing but its own flush preceded.
/// Some of it may lie unflushed: a batch for each CPU, or what a process still does when its parent knows of its end.
fn check_grown(real: u64, walked: u64, what: &str) {
    assert!(walked > real / 2 && walked <= real + real / 2, "{what}: {walked} of {real}");
}

/// Files are read after the walk alone: to read them flushes too. Each round begins where the last one was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_makes_current_what_it_reads() -> Result<()> {
    let agent = Start::agent()?.flag("--bpf", "require").start().await?;
    let v2 = TestTree::v2()?;
    v2.make("P/C")?;
    let of_memory =
        if v2.directory("").join("memory.stat").exists() { None } else { TestTree::v1("memory")? };
    let (memory, key, hierarchy) = match &of_memory {
        Some(v1) => (v1, "total_rss", "memory"),
        None => (&v2, "anon", ""),
    };
    memory.make("P")?;
    let mut taker = Taker::start(memory, "P")?;
    let top = async |tree: &TestTree, hierarchy: &str, engine| {
        let target = CgroupTarget { hierarchy: hierarchy.to_owned(), ..by_path(tree.path("")) };
        // All of memory.stat might have to come from the file.
        let paths =
            [Metric::CpuUsage, Metric::MemoryStatAnon].map(|metric| metric.name().to_owned()).to_vec();
        let spec = WalkSpec {
            engine: i32::from(engine),
            read_mask: Some(FieldMask { paths }),
            ..spec(target, CgroupOrder::DescendantsPre)
        };
        walk(&agent, spec).await?.samples.into_iter().next().context("no row")
    };
    let (mut usage, mut anon) = (v2.cpu_stat_usage_usec("")?, memory_stat(memory, key)? as u64);
    for engine in [WalkEngine::Unlocked, WalkEngine::Locked].into_iter().cycle().take(6) {
        work_once(&v2, "P/C")?;
        let row = top(&v2, "", engine).await?;
        let now = v2.cpu_stat_usage_usec("")?;
        let walked = row.metric(Metric::CpuUsage).context("no cpu")?;
        check_grown(now - usage, walked.saturating_sub(usage), &format!("cpu, {engine:?}"));
        usage = now;

        taker.take(4096 * PAGE_BYTES)?;
        let row = top(memory, hierarchy, engine).await?;
        let now = memory_stat(memory, key)? as u64;
        let walked = row.metric(Metric::MemoryStatAnon).context("no memory_stat")?;
        check_grown(now - anon, walked.saturating_sub(anon), &format!("anon, {engine:?}"));
        anon = now;
    }
    Ok(())
}

fn memory_stat(tree: &TestTree, key: &str) -> Result<usize> {
    let text = std::fs::read_to_string(tree.directory("").join("memory.stat"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("memory.stat has no {key}"))?.parse()?)
}
