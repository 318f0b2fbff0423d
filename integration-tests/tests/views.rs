//! Text views: what they show, to whom, and that none outlives its cgroup or its agent.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_model::Metric;
use cgfleet_proto::v1::{
    AgentServiceCreateViewRequest, AgentServiceDeleteViewRequest, CgroupOrder, CgroupSample, ErrorReason,
    ListViewsRequest, View, ViewSpec,
};
use cgfleet_rpc::wire_error::reason_of;
use integration_tests::{
    cgroups::TestTree,
    daemon::{Daemon, Start, state_dir},
    wait,
    walk::{by_id, by_path, spec, walk},
};
use prost_types::FieldMask;
use tempfile::TempDir;
use tonic::{Code, Status};

/// Nobody's, and not the agent's.
const STRANGER: u32 = 65_533;

const PATIENCE: Duration = Duration::from_secs(10);

async fn start() -> Result<Daemon> {
    Start::agent()?.flag("--bpf", "require").flag("--collectors", "").start().await
}

fn view(name: &str, path: String, order: CgroupOrder) -> ViewSpec {
    ViewSpec { name: name.into(), target: Some(by_path(path)), order: order.into(), ..ViewSpec::default() }
}

async fn create(agent: &Daemon, view: ViewSpec) -> Result<View, Status> {
    let mut client = agent.agent().map_err(|error| Status::internal(error.to_string()))?;
    let made = client.create_view(AgentServiceCreateViewRequest { view: Some(view) }).await?;
    Ok(made.into_inner().view.unwrap_or_default())
}

async fn list(agent: &Daemon) -> Result<Vec<View>> {
    Ok(agent.agent()?.list_views(ListViewsRequest {}).await?.into_inner().views)
}

/// As cat does it: in reads of 128 KiB.
fn cat(path: &str) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.to_owned())?;
    let (mut text, mut buffer) = (Vec::new(), vec![0; 128 << 10]);
    loop {
        match file.read(&mut buffer).with_context(|| path.to_owned())? {
            0 => return Ok(String::from_utf8(text)?),
            bytes => text.extend_from_slice(&buffer[..bytes]),
        }
    }
}

/// A view's text, taken apart.
#[derive(Debug)]
struct Text {
    prologue: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    end: String,
}

impl Text {
    fn parse(text: &str) -> Result<Self> {
        let mut lines: Vec<&str> = text.lines().collect();
        let end = lines.pop().context("an end")?.to_owned();
        ensure!(!lines.is_empty() && text.ends_with('\n'), "{text:?}");
        let prologue = lines.remove(0).to_owned();
        let (_, columns) = prologue.split_once(" columns ").context("no columns")?;
        let columns: Vec<String> = columns.split(' ').map(str::to_owned).collect();
        let rows: Vec<Vec<String>> =
            lines.iter().map(|line| line.splitn(columns.len(), ' ').map(str::to_owned).collect()).collect();
        ensure!(rows.iter().all(|row| row.len() == columns.len()), "{text}");
        Ok(Self { prologue, columns, rows, end })
    }

    fn of(path: &str) -> Result<Self> {
        Self::parse(&cat(path)?)
    }

    fn column(&self, name: &str) -> Result<impl Iterator<Item = &str>> {
        let at = self.columns.iter().position(|column| column == name).context("no such column")?;
        Ok(self.rows.iter().map(move |row| row[at].as_str()))
    }

    fn number(&self, row: usize, column: &str) -> Result<Option<u64>> {
        Ok(self.numbers(column)?[row])
    }

    fn numbers(&self, name: &str) -> Result<Vec<Option<u64>>> {
        let number = |cell: &str| if cell == "-" { Ok(None) } else { Ok(Some(cell.parse()?)) };
        self.column(name)?.map(number).collect()
    }
}

/// What a walk saw lies between two reads of a view; what is steady is the same in all.
fn check_values(tree: &TestTree, before: &Text, walked: &[CgroupSample], after: &Text) -> Result<()> {
    for (row, sample) in walked.iter().enumerate() {
        assert_eq!(before.number(row, "parent_id")?, Some(sample.parent_id));
        assert_eq!(before.number(row, "level")?, Some(sample.level.into()));
        // A file's value, of the root, is none that a view has.
        if sample.level == 0 {
            continue;
        }
        let [low, value, high] = [
            before.number(row, "cpu.usage_usec")?,
            sample.metric(Metric::CpuUsage),
            after.number(row, "cpu.usage_usec")?,
        ];
        ensure!(low <= value && value <= high && low.is_some(), "{low:?} {value:?} {high:?}");
        // The worker's tasks come and go, and so may what others have.
        let steady = [Metric::PidsCurrent, Metric::StructurePopulated, Metric::StructureNrDescendants];
        let is_ours = sample.path.starts_with(&tree.path(""));
        let skipped = usize::from(sample.path != tree.path("d"));
        for metric in steady.into_iter().skip(skipped).filter(|_| is_ours) {
            let (found, expect) = (before.number(row, metric.name())?, sample.metric(metric));
            ensure!(found == expect, "{metric:?} of {}: {found:?}, {expect:?}", sample.path);
        }
        let (found, expect) =
            (before.number(row, "memory.current_bytes")?, sample.metric(Metric::MemoryCurrent));
        assert_eq!(found.is_some(), expect.is_some(), "{}", sample.path);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_a_walk_of_now() -> Result<()> {
    let agent = start().await?;
    let mut tree = TestTree::v2()?;
    for below in ["a/b", "a/c", "d"] {
        tree.make(below)?;
    }
    tree.work_in("a/b")?;
    tree.rest_in("d")?;
    for (name, order, start) in [
        ("pre", CgroupOrder::DescendantsPre, ""),
        ("post", CgroupOrder::DescendantsPost, ""),
        ("self", CgroupOrder::SelfOnly, "a/b"),
        ("up", CgroupOrder::AncestorsUp, "a/b"),
    ] {
        let made = create(&agent, view(name, tree.path(start), order)).await?;
        assert_eq!((made.cgroup_id, made.order()), (tree.id(start)?, order), "{made:?}");
        assert_eq!(made.cgroup_path, tree.path(start));
        ensure!(made.fdinfo.contains("target_name:\tcgroup") && made.link_id > 0, "{made:?}");
        let before = Text::of(&made.path)?;
        let walked = walk(&agent, spec(by_path(tree.path(start)), order)).await?.samples;
        let usage = |text: &Text| {
            Ok::<_, anyhow::Error>(text.numbers("cpu.usage_usec")?.iter().flatten().sum::<u64>())
        };
        let first = usage(&before)?;
        let after = wait::until("the worker to have worked", PATIENCE, || {
            let text = Text::of(&made.path);
            async { text.and_then(|text| Ok((usage(&text)? > first).then_some(text))) }
        });
        let after = after.await?;
        ensure!(before.prologue.starts_with("# cgfleet-view 1 flushed yes "), "{}", before.prologue);
        assert_eq!(before.end, format!("# end of {} cgroups", walked.len()));
        let ids: Vec<Option<u64>> = walked.iter().map(|sample| Some(sample.cgroup_id)).collect();
        assert_eq!(before.numbers("cgroup_id")?, ids, "{order:?}");
        let names = walked.iter().map(|sample| sample.path.rsplit('/').next().unwrap_or_default());
        let names: Vec<&str> = names.map(|name| if name.is_empty() { "/" } else { name }).collect();
        assert_eq!(before.column("name")?.collect::<Vec<_>>(), names);
        check_values(&tree, &before, &walked, &after)?;
    }
    assert_eq!(list(&agent).await?.len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_children_has_them_alone_or_the_kernel_has_not_the_order() -> Result<()> {
    let agent = start().await?;
    let tree = TestTree::v2()?;
    let ids = ["a", "b"].into_iter().map(|below| Ok(Some(tree.make(below)?))).collect::<Result<Vec<_>>>()?;
    tree.make("a/grandchild")?;
    match create(&agent, view("children", tree.path(""), CgroupOrder::Children)).await {
        Ok(made) => assert_eq!(Text::of(&made.path)?.numbers("cgroup_id")?, ids),
        Err(refused) => {
            let told = (refused.code(), reason_of(&refused));
            assert_eq!(told, (Code::FailedPrecondition, ErrorReason::KernelUnsupported), "{refused}");
        }
    }
    let made = create(&agent, view("none", tree.path("b"), CgroupOrder::DescendantsPost)).await?;
    assert_eq!(Text::of(&made.path)?.rows.len(), 1);
    Ok(())
}

/// A BPF filesystem whose root others may pass through.
#[derive(Debug)]
struct Bpffs(TempDir);

impl Bpffs {
    fn mount() -> Result<Self> {
        let at = state_dir()?;
        let mounted =
            Command::new("mount").args(["-t", "bpf", "-o", "mode=711", "bpf"]).arg(at.path()).status()?;
        ensure!(mounted.success(), "mount a BPF filesystem");
        Ok(Self(at))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

/// The first line of a view, or the shell's complaint, as somebody else.
fn first_line(path: &str, user: u32, group: u32) -> Result<(bool, String)> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "read line < \"$0\" && echo \"$line\"", path]).uid(user).gid(group);
    let output = shell.output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_read_a_view_and_its_group_does() -> Result<()> {
    let bpffs = Bpffs::mount()?;
    let tree = TestTree::v2()?;
    for (directory, group) in [("own", None), ("given", Some(STRANGER))] {
        let directory = bpffs.0.path().join(directory);
        let agent = Start::agent()?.flag("--bpf", "require").flag("--collectors", "");
        let agent = agent.flag("--bpffs-dir", &directory.display().to_string());
        let agent = match group {
            Some(group) => agent.flag("--view-group", &group.to_string()).start().await?,
            None => agent.start().await?,
        };
        let made = create(&agent, view("v", tree.path(""), CgroupOrder::SelfOnly)).await?;
        let (read, said) = first_line(&made.path, STRANGER, STRANGER)?;
        assert_eq!(read, group.is_some(), "{said}");
        ensure!(said.contains(if read { "# cgfleet-view 1 " } else { "ermission denied" }), "{said}");
        let (read, said) = first_line(&made.path, STRANGER, STRANGER - 1)?;
        ensure!(!read && said.contains("ermission denied"), "neither owner nor group: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_goes_with_its_cgroup() -> Result<()> {
    let agent = start().await?;
    let tree = TestTree::v2()?;
    let id = tree.make("P/C")?;
    let by_path = create(&agent, view("by_path", tree.path("P/C"), CgroupOrder::DescendantsPre)).await?;
    let by_id =
        ViewSpec { target: Some(by_id(id)), ..view("by_id", String::new(), CgroupOrder::AncestorsUp) };
    let by_id = create(&agent, by_id).await?;
    let stays = create(&agent, view("stays", tree.path("P"), CgroupOrder::DescendantsPre)).await?;
    for made in [&by_path, &by_id, &stays] {
        ensure!(Text::of(&made.path)?.end.starts_with("# end of "), "{made:?}");
    }
    fs::remove_dir(tree.directory("P/C"))?;
    // Another of that name is another cgroup.
    tree.make("P/C")?;
    let gone = wait::until("the views to be gone", Duration::from_secs(1), || {
        let is_gone = !Path::new(&by_path.path).exists() && !Path::new(&by_id.path).exists();
        async move { Ok(is_gone.then_some(())) }
    });
    gone.await?;
    let freed = wait::until("the cgroup to be freed", PATIENCE, || {
        let stat = fs::read_to_string(tree.directory("P").join("cgroup.stat"));
        async { Ok(stat?.contains("nr_dying_descendants 0\n").then_some(())) }
    });
    freed.await?;
    let names: Vec<String> = list(&agent).await?.into_iter().map(|view| view.name).collect();
    assert_eq!(names, ["stays"]);
    assert_eq!(Text::of(&stays.path)?.rows.len(), 2);
    Ok(())
}

fn files(agent: &Daemon) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(agent.bpffs_dir().join("views"))? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_view_is_left_of_an_agent_that_ended() -> Result<()> {
    let tree = TestTree::v2()?;
    tree.make("P")?;
    let wanted = format!("wanted={}:pre:cpu", tree.path("P"));
    let agent = Start::agent()?.flag("--bpf", "require").flag("--collectors", "").flag("--views", &wanted);
    let mut agent = agent.start().await?;
    let only_wanted = vec![agent.bpffs_dir().join("views/wanted")];
    for _ in 0..3 {
        create(&agent, view("made", tree.path(""), CgroupOrder::DescendantsPre)).await?;
        assert_eq!(files(&agent)?.len(), 2);
        agent.kill_9()?;
        assert_eq!(files(&agent)?.len(), 2, "a pin stays");
        agent.start_again().await?;
        assert_eq!(list(&agent).await?.len(), 1);
        assert_eq!(files(&agent)?, only_wanted);
    }
    let text = Text::of(&only_wanted[0].display().to_string())?;
    assert_eq!(text.columns, ["cgroup_id", "parent_id", "level", "cpu.usage_usec", "name"]);
    assert_eq!(agent.stop().await?, Some(0));
    ensure!(files(&agent)?.is_empty(), "after a clean end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_does_not_fit_is_never_silently_short() -> Result<()> {
    const CGROUPS: usize = 600;
    let agent = start().await?;
    let tree = TestTree::v2()?;
    for number in 0..CGROUPS {
        tree.make(&format!("{number:0>64}"))?;
    }
    let whole = ViewSpec {
        read_mask: Some(FieldMask { paths: vec!["pids".into()] }),
        ..view("large", tree.path(""), CgroupOrder::DescendantsPre)
    };
    let refused = create(&agent, whole.clone()).await.err().context("it was made")?;
    assert_eq!((refused.code(), reason_of(&refused)), (Code::FailedPrecondition, ErrorReason::ViewTooLarge));
    ensure!(refused.message().contains("32768 bytes"), "{refused}");
    ensure!(files(&agent)?.is_empty(), "a refused view has no file");
    let made = create(&agent, ViewSpec { truncate: true, ..whole.clone() }).await?;
    let text = Text::of(&made.path)?;
    let expect = format!("# truncated after {} cgroups: more than 32768 bytes", text.rows.len());
    assert_eq!(text.end, expect);
    ensure!((200..CGROUPS).contains(&text.rows.len()), "{} rows", text.rows.len());
    ensure!(text.prologue.contains("flushed unneeded"), "{}", text.prologue);
    // A view that fits when it is made may not later.
    let small =
        create(&agent, ViewSpec { order: CgroupOrder::SelfOnly.into(), name: "small".into(), ..whole })
            .await?;
    assert_eq!(Text::of(&small.path)?.end, "# end of 1 cgroups");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_be_is_refused() -> Result<()> {
    let agent = Start::agent()?.flag("--bpf", "require").flag("--collectors", "").flag("--views-max", "1");
    let agent = agent.start().await?;
    let tree = TestTree::v2()?;
    let right = view("v", tree.path(""), CgroupOrder::SelfOnly);
    let refused = async |view: ViewSpec, code: Code, reason: ErrorReason| {
        let refused = create(&agent, view.clone()).await.err().with_context(|| format!("made: {view:?}"))?;
        assert_eq!((refused.code(), reason_of(&refused)), (code, reason), "{view:?}: {refused}");
        anyhow::Ok(())
    };
    let invalid = (Code::InvalidArgument, ErrorReason::InvalidField);
    for name in ["", "a/b", "..", "a.b", &"x".repeat(65)] {
        refused(ViewSpec { name: name.into(), ..right.clone() }, invalid.0, invalid.1).await?;
    }
    let mask = Some(FieldMask { paths: vec!["io".into()] });
    refused(ViewSpec { read_mask: mask, ..right.clone() }, invalid.0, invalid.1).await?;
    refused(ViewSpec { order: 0, ..right.clone() }, invalid.0, invalid.1).await?;
    let elsewhere = Some(by_path(tree.path("none")));
    refused(ViewSpec { target: elsewhere, ..right.clone() }, Code::NotFound, ErrorReason::CgroupNotFound)
        .await?;
    create(&agent, right.clone()).await?;
    refused(right.clone(), Code::AlreadyExists, ErrorReason::ViewExists).await?;
    let other = ViewSpec { name: "w".into(), ..right.clone() };
    refused(other.clone(), Code::ResourceExhausted, ErrorReason::LimitExceeded).await?;
    let delete = |name: &str| AgentServiceDeleteViewRequest { name: name.to_owned() };
    agent.agent()?.delete_view(delete("v")).await?;
    let again = agent.agent()?.delete_view(delete("v")).await.err().context("it was there")?;
    assert_eq!((again.code(), reason_of(&again)), (Code::NotFound, ErrorReason::ViewNotFound));
    ensure!(files(&agent)?.is_empty(), "a deleted view has no file");
    create(&agent, other).await?;
    let without = Start::agent()?.flag("--bpf", "off").start().await?;
    let refused = create(&without, right).await.err().context("made without BPF")?;
    assert_eq!(
        (refused.code(), reason_of(&refused)),
        (Code::FailedPrecondition, ErrorReason::ViewsUnavailable)
    );
    ensure!(list(&without).await?.is_empty(), "none are listed");
    Ok(())
}
