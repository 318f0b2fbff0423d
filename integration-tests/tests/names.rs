//! Cgroups called as the kubelet, container runtimes and systemd call theirs: rows say what runs in them, and are
//! chosen by it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    CgroupOrder, HierarchyJoin, SubscribeRequest, WalkEnd, WalkEngine, WalkSpec, Workload, WorkloadFilter,
    subscribe_response::Event,
};
use integration_tests::{
    cgroups::TestTree,
    cli,
    daemon::{Daemon, Start, state_dir},
    wait,
    walk::{by_path, spec, walk},
};
use prost_types::FieldMask;
use serde_json::{Value, json};

const WEB_UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";
const WEB: &str = "8d7c5b0a5a7c4a1c9c6b0e6f2b1d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d";
const DB_UID: &str = "0f1a4f66-3e0a-4f5a-9d59-6a7f35b3a9d1";
const DB: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
const DOCKER: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
const PODMAN: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
const ENGINES: [WalkEngine; 3] = [WalkEngine::Unlocked, WalkEngine::Locked, WalkEngine::Files];

/// A host's cgroups, below one of our own.
struct World {
    tree: TestTree,
    web_pod: String,
    web: String,
    db_pod: String,
    db: String,
}

impl World {
    fn make() -> Result<Self> {
        let slice = format!("kubepods-burstable-pod{}.slice", WEB_UID.replace('-', "_"));
        let web_pod = format!("kubepods.slice/kubepods-burstable.slice/{slice}");
        let web = format!("{web_pod}/cri-containerd-{WEB}.scope");
        let db_pod = format!("kubepods/besteffort/pod{DB_UID}");
        let db = format!("{db_pod}/{DB}");
        let world = Self { tree: TestTree::v2()?, web_pod, web, db_pod, db };
        for below in [
            world.web.as_str(),
            &world.db,
            &format!("{}/inner", world.db),
            &format!("docker/{DOCKER}"),
            &format!("machine.slice/libpod-{PODMAN}.scope/container"),
            "system.slice/ssh.service",
            r"system.slice/system-systemd\x2dfsck.slice/fsck@a.service",
            "unknown/a",
        ] {
            world.tree.make(below)?;
        }
        Ok(world)
    }

    fn spec(&self, order: CgroupOrder, workload: Option<WorkloadFilter>) -> WalkSpec {
        let read_mask = Some(FieldMask { paths: vec!["pids".to_owned()] });
        WalkSpec { workload, read_mask, ..spec(by_path(self.tree.path("")), order) }
    }

    /// Paths of rows from this tree's root on.
    async fn chosen(&self, agent: &Daemon, spec: WalkSpec) -> Result<(Vec<String>, WalkEnd)> {
        let walked = walk(agent, spec).await?;
        let root = format!("{}/", self.tree.path(""));
        let below = |path: &str| path.strip_prefix(&root).unwrap_or_default().to_owned();
        let paths = walked.samples.iter().map(|sample| below(&sample.path)).collect();
        Ok((paths, walked.summary.end()))
    }
}

fn by_pod(pod: &str) -> WorkloadFilter {
    WorkloadFilter { pod: pod.to_owned(), ..WorkloadFilter::default() }
}

fn by_container(container: &str) -> WorkloadFilter {
    WorkloadFilter { container: container.to_owned(), ..WorkloadFilter::default() }
}

fn by_unit(unit: &str) -> WorkloadFilter {
    WorkloadFilter { unit: unit.to_owned(), ..WorkloadFilter::default() }
}

/// What the kubelet makes when it starts a pod with one container.
fn log_pod(log_dir: &Path, [namespace, pod, uid]: [&str; 3], container: &str, id: &str) -> Result<()> {
    let pod_dir = log_dir.join(format!("pods/{namespace}_{pod}_{uid}/{container}"));
    fs::create_dir_all(&pod_dir)?;
    fs::create_dir_all(log_dir.join("containers"))?;
    let link = log_dir.join(format!("containers/{pod}_{namespace}_{container}-{id}.log"));
    Ok(symlink(pod_dir.join("0.log"), link)?)
}

fn log_both(log_dir: &Path) -> Result<()> {
    log_pod(log_dir, ["shop", "web-0", WEB_UID], "nginx", WEB)?;
    log_pod(log_dir, ["shop", "db-0", DB_UID], "postgres", DB)
}

fn agent_with(log_dir: &Path) -> Result<Start> {
    Ok(Start::agent()?.flag("--kubelet-log-dir", &log_dir.display().to_string()))
}

/// What runs where, of paths below the tree's root.
fn expected(world: &World) -> BTreeMap<String, Option<Workload>> {
    let web_slice = format!("kubepods-burstable-pod{}.slice", WEB_UID.replace('-', "_"));
    let pod = |name: &str, uid: &str| Workload {
        pod_namespace: "shop".into(),
        pod_name: name.into(),
        pod_uid: uid.into(),
        ..Workload::default()
    };
    let db = Workload { container_name: "postgres".into(), container_id: DB.into(), ..pod("db-0", DB_UID) };
    [
        (String::new(), None),
        ("unknown/a".into(), None),
        ("kubepods/besteffort".into(), None),
        (world.db_pod.clone(), Some(pod("db-0", DB_UID))),
        (world.db.clone(), Some(db.clone())),
        (format!("{}/inner", world.db), Some(db)),
        (world.web_pod.clone(), Some(Workload { systemd_slice: web_slice.clone(), ..pod("web-0", WEB_UID) })),
        (
            world.web.clone(),
            Some(Workload {
                container_name: "nginx".into(),
                container_id: WEB.into(),
                runtime: "containerd".into(),
                systemd_unit: format!("cri-containerd-{WEB}.scope"),
                systemd_slice: web_slice,
                ..pod("web-0", WEB_UID)
            }),
        ),
        (
            format!("docker/{DOCKER}"),
            Some(Workload { container_id: DOCKER.into(), runtime: "docker".into(), ..Workload::default() }),
        ),
        (
            format!("machine.slice/libpod-{PODMAN}.scope/container"),
            Some(Workload {
                container_id: PODMAN.into(),
                runtime: "podman".into(),
                systemd_unit: format!("libpod-{PODMAN}.scope"),
                systemd_slice: "machine.slice".into(),
                ..Workload::default()
            }),
        ),
        (
            r"system.slice/system-systemd\x5cx2dfsck.slice/fsck@a.service".into(),
            Some(Workload {
                systemd_unit: "fsck@a.service".into(),
                systemd_slice: r"system-systemd\x2dfsck.slice".into(),
                ..Workload::default()
            }),
        ),
    ]
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_a_walk_says_what_runs_in_it() -> Result<()> {
    let (world, logs) = (World::make()?, state_dir()?);
    log_both(logs.path())?;
    let agent = agent_with(logs.path())?.start().await?;
    let expect = expected(&world);
    for engine in ENGINES {
        let spec = WalkSpec { engine: engine.into(), ..world.spec(CgroupOrder::DescendantsPre, None) };
        let walked = walk(&agent, spec).await?;
        for (below, expect) in &expect {
            let path = if below.is_empty() {
                world.tree.path("")
            } else {
                format!("{}/{below}", world.tree.path(""))
            };
            let row = walked.samples.iter().find(|sample| sample.path == path).context(path)?;
            assert_eq!(row.workload.as_deref(), expect.as_ref(), "{engine:?} {below}");
        }
    }
    Ok(())
}

/// They tell what changes, and that does not.
#[tokio::test(flavor = "multi_thread")]
async fn no_row_of_a_whole_tick_says_what_runs_in_it() -> Result<()> {
    let (world, logs) = (World::make()?, state_dir()?);
    log_both(logs.path())?;
    let agent = agent_with(logs.path())?.start().await?;
    let mut ticks = agent.agent()?.subscribe(SubscribeRequest::default()).await?.into_inner();
    let mut rows = 0;
    while let Some(message) = ticks.message().await? {
        match message.event {
            Some(Event::Batch(batch)) => {
                assert!(batch.samples.iter().all(|sample| sample.workload.is_none()));
                rows += batch.samples.len();
            }
            Some(Event::Summary(_)) => break,
            _ => {}
        }
    }
    assert!(rows > expected(&world).len(), "{rows}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_chosen_by_pod_container_and_unit() -> Result<()> {
    let (world, logs) = (World::make()?, state_dir()?);
    log_both(logs.path())?;
    let agent = agent_with(logs.path())?.start().await?;
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let inner = format!("{}/inner", world.db);
    let of_db = paths(&[&world.db_pod, &world.db, &inner]);
    let fsck = r"system.slice/system-systemd\x5cx2dfsck.slice";
    let container_of = |container: &str, pod: &str| WorkloadFilter {
        container: container.into(),
        pod: pod.into(),
        ..WorkloadFilter::default()
    };
    for (filter, expect) in [
        (by_pod("db-0"), of_db.clone()),
        (by_pod("shop/db-0"), of_db.clone()),
        (by_pod(DB_UID), of_db),
        (by_pod("web-0"), paths(&[&world.web_pod, &world.web])),
        (by_pod("default/db-0"), paths(&[])),
        (by_container("postgres"), paths(&[&world.db, &inner])),
        (by_container(DB), paths(&[&world.db, &inner])),
        (by_container(&DOCKER[..12]), vec![format!("docker/{DOCKER}")]),
        (by_unit("ssh.service"), paths(&["system.slice/ssh.service"])),
        (by_unit(&format!("cri-containerd-{WEB}.scope")), paths(&[&world.web])),
        (by_unit(r"system-systemd\x2dfsck.slice"), vec![fsck.to_owned(), format!("{fsck}/fsck@a.service")]),
        (container_of("nginx", "web-0"), paths(&[&world.web])),
        (container_of("nginx", "db-0"), paths(&[])),
    ] {
        for engine in ENGINES {
            check_chosen(&world, &agent, engine, &filter, &expect).await?;
        }
    }
    Ok(())
}

/// Every way down, with every limit.
async fn check_chosen(
    world: &World,
    agent: &Daemon,
    engine: WalkEngine,
    filter: &WorkloadFilter,
    expect: &[String],
) -> Result<()> {
    let of =
        |order, limit| WalkSpec { engine: engine.into(), limit, ..world.spec(order, Some(filter.clone())) };
    let pre = world.chosen(agent, of(CgroupOrder::DescendantsPre, 0)).await?;
    assert_eq!(pre, (expect.to_vec(), WalkEnd::Complete), "{engine:?} {filter:?}");
    // All that are chosen are one in the other.
    let reversed = expect.iter().rev().cloned().collect();
    let post = world.chosen(agent, of(CgroupOrder::DescendantsPost, 0)).await?;
    assert_eq!(post, (reversed, WalkEnd::Complete), "{engine:?} {filter:?}");
    for limit in 1..=expect.len() {
        let cut = of(CgroupOrder::DescendantsPre, u32::try_from(limit)?);
        let found = world.chosen(agent, cut).await?;
        assert_eq!(found, (expect[..limit].to_vec(), WalkEnd::Limit), "{engine:?} {filter:?} {limit}");
    }
    let joined = WalkSpec { join: HierarchyJoin::Path.into(), ..of(CgroupOrder::DescendantsPre, 0) };
    assert_eq!(world.chosen(agent, joined).await?.0, expect, "{engine:?} {filter:?}");
    Ok(())
}

/// What ends a walk is every cgroup's, whether its row is in the answer or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_stops_at_a_cgroup_that_is_left_out() -> Result<()> {
    let (world, logs) = (World::make()?, state_dir()?);
    let agent = agent_with(logs.path())?.start().await?;
    let (pod, container) = (world.tree.path(&world.db_pod), world.tree.path(&format!("{}/inner", world.db)));
    for engine in ENGINES {
        let upward = |filter, stop_at: &str| WalkSpec {
            engine: engine.into(),
            stop_at: Some(by_path(stop_at)),
            workload: Some(filter),
            ..spec(by_path(container.clone()), CgroupOrder::AncestorsUp)
        };
        let found = world.chosen(&agent, upward(by_container(DB), &pod)).await?;
        let inner = format!("{}/inner", world.db);
        assert_eq!(found, (vec![inner.clone(), world.db.clone()], WalkEnd::StopAt), "{engine:?}");
        let limited = WalkSpec { limit: 1, ..upward(by_container(DB), &pod) };
        assert_eq!(world.chosen(&agent, limited).await?, (vec![inner], WalkEnd::Limit), "{engine:?}");
        let found = world.chosen(&agent, upward(by_unit("ssh.service"), &pod)).await?;
        assert_eq!(found, (vec![], WalkEnd::StopAt), "{engine:?}");
    }
    Ok(())
}

/// The pod's name, as the row of this cgroup has it.
async fn pod_name(agent: &Daemon, path: &str) -> Result<String> {
    let walked = walk(agent, spec(by_path(path), CgroupOrder::SelfOnly)).await?;
    let row = walked.samples.into_iter().next().context("no row")?;
    Ok(row.workload.context("no workload")?.pod_name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_its_name_when_the_kubelet_makes_its_logs() -> Result<()> {
    let (world, logs) = (World::make()?, state_dir()?);
    let agent = agent_with(&logs.path().join("log"))?.start().await?;
    let path = world.tree.path(&world.db);
    assert_eq!(pod_name(&agent, &path).await?, "");
    log_both(&logs.path().join("log"))?;
    wait::until("the pod's name", Duration::from_secs(20), || async {
        Ok(Some(pod_name(&agent, &path).await?).filter(|name| name == "db-0"))
    })
    .await?;
    // Its logs go before its cgroup.
    fs::remove_dir_all(logs.path().join("log"))?;
    assert_eq!(pod_name(&agent, &path).await?, "db-0");
    Ok(())
}

/// Names are still read after every privilege was given up.
#[tokio::test(flavor = "multi_thread")]
async fn log_directories_may_be_closed_to_the_agents_user() -> Result<()> {
    let (world, logs) = (World::make()?, state_dir()?);
    log_both(logs.path())?;
    for closed in ["pods", "containers", ""] {
        fs::set_permissions(logs.path().join(closed), fs::Permissions::from_mode(0o700))?;
    }
    let agent = agent_with(logs.path())?.start().await?;
    let path = world.tree.path(&world.db);
    assert_eq!(pod_name(&agent, &path).await?, "db-0");
    log_pod(logs.path(), ["shop", "mail-0", &DB_UID.replace('0', "1")], "postfix", DOCKER)?;
    let mail = world.tree.path(&format!("kubepods/pod{}", DB_UID.replace('0', "1")));
    world.tree.make(&format!("kubepods/pod{}", DB_UID.replace('0', "1")))?;
    wait::until("the new pod's name", Duration::from_secs(20), || async {
        Ok(Some(pod_name(&agent, &mail).await?).filter(|name| name == "mail-0"))
    })
    .await?;
    Ok(())
}

async fn cgctl(arguments: &[&str]) -> Result<String> {
    let ran = cli::run("cgctl", arguments).await?;
    ensure!(ran.code == 0, "cgctl {arguments:?}: {}: {}", ran.code, ran.stderr);
    Ok(ran.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn cgctl_takes_and_shows_names_of_one_host_and_of_the_fleet() -> Result<()> {
    let (world, logs) = (World::make()?, state_dir()?);
    log_both(logs.path())?;
    let server = Start::server()?.start().await?;
    let agent = agent_with(logs.path())?.registered(&server, "web-1").start().await?;
    let (target, address, url) = (world.tree.path(""), agent.address().to_string(), server.url());
    wait::until("the host", Duration::from_secs(20), || async {
        let hosts = cgctl(&["hosts", "--server", &url]).await?;
        Ok(hosts.contains("web-1").then_some(()))
    })
    .await?;
    for from in [vec!["--agent", &address], vec!["--server", &url, "--all"]] {
        let query = async |arguments: &[&str]| {
            let arguments = [&["query", &target][..], &from, arguments].concat();
            cgctl(&arguments).await
        };
        let table = query(&["--pod", "shop/web-0", "--container", "nginx"]).await?;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert!(lines[0].contains("NAME") && lines[1].contains("  shop/web-0/nginx  /"), "{table}");
        let table = query(&["--unit", "ssh.service"]).await?;
        assert!(table.contains("  ssh.service  /"), "{table}");
        let table = query(&["--container", &PODMAN[..12], "--limit", "1"]).await?;
        assert!(table.contains(&format!("  podman {}  /", &PODMAN[..12])), "{table}");

        let lines = query(&["--container", "postgres", "--limit", "1", "-o", "ndjson"]).await?;
        let row: Value = serde_json::from_str(lines.lines().next().context("no row")?)?;
        let expect = json!({
            "pod_namespace": "shop", "pod_name": "db-0", "pod_uid": DB_UID,
            "container_name": "postgres", "container_id": DB,
        });
        assert_eq!(row["workload"], expect, "{lines}");
        let document: Value = serde_json::from_str(&query(&["--order", "self", "-o", "json"]).await?)?;
        assert_eq!(document["hosts"][0]["rows"][0].get("workload"), None, "{document}");
    }
    // What was stored has no names.
    let history = wait::until("a point of history", Duration::from_secs(20), || async {
        let path = world.tree.path(&world.web);
        let history = cgctl(&["history", "--server", &url, "--host", "web-1", &path, "-o", "ndjson"]).await?;
        Ok(Some(history).filter(|history| history.contains("cgroup_id")))
    })
    .await?;
    assert!(!history.contains("workload"), "{history}");
    Ok(())
}
