//! Streams of changes from many hosts: who joins, who is lost, and where each goes on.

mod cgctl;

use std::{collections::BTreeSet, fs, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    CgroupOrder, CgroupSample, ErrorReason, FleetServiceSubscribeRequest, HostChangeKind, HostPosition,
    HostSelector, QueryRequest, RegisterHostRequest, SubscribeSpec, fleet_service_client::FleetServiceClient,
};
use cgfleet_rpc::{trace::InjectTraceContext, wire_error::reason_of};
use integration_tests::{
    cgroups::TestTree,
    daemon::{Daemon, Start},
    fleet,
    network::Network,
    walk::{by_path, query, spec},
    watch::{Watching, everywhere, structure_now, structure_of},
};
use tonic::{Code, service::interceptor::InterceptedService, transport::Endpoint};

use HostChangeKind::{Back, Joined, Lost, Relist};

fn of_everywhere(spec: SubscribeSpec) -> FleetServiceSubscribeRequest {
    FleetServiceSubscribeRequest { hosts: Some(everywhere()), spec: Some(spec), positions: Vec::new() }
}

fn paths(tree: &TestTree, below: &[&str]) -> BTreeSet<String> {
    below.iter().map(|below| tree.path(below)).collect()
}

async fn server() -> Result<Daemon> {
    Start::server()?.flag("--heartbeat-interval", "300ms").start().await
}

async fn agent(server: &Daemon, name: &str) -> Result<Daemon> {
    Start::agent()?.registered(server, name).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_again_is_relisted_and_the_others_go_on() -> Result<()> {
    let server = server().await?;
    let left = agent(&server, "left").await?;
    fleet::all_up(&server, &["left"]).await?;
    let tree = TestTree::v2()?;
    tree.make("a")?;
    let mut watching = Watching::open(&server, of_everywhere(structure_of(&tree.path("")))).await?;
    let has = |name: &'static str, below: &[&str]| {
        let expect = paths(&tree, below);
        move |watching: &Watching| watching.host(name).paths() == expect
    };
    watching.until("left's snapshot", has("left", &["", "a"])).await?;
    let mut right = agent(&server, "right").await?;
    watching.until("a host that registers later", has("right", &["", "a"])).await?;

    tree.make("b")?;
    fs::remove_dir(tree.directory("a"))?;
    for name in ["left", "right"] {
        watching.until("what was made and removed", has(name, &["", "b"])).await?;
        assert_eq!(watching.host(name).removed, [tree.path("a")], "{name}");
    }

    right.kill_9()?;
    let was_lost = |watching: &Watching| watching.host("right").last_change() == Some(Lost);
    watching.until("right lost", was_lost).await?;
    let before = watching.host("left").bookmarks.len();
    let goes_on = |watching: &Watching| watching.host("left").bookmarks.len() > before + 3;
    watching.until("left going on", goes_on).await?;
    assert_eq!(watching.host("right").last_change(), Some(Lost));
    tree.make("c")?;
    right.start_again().await?;
    for name in ["left", "right"] {
        watching.until("all as it is", has(name, &["", "b", "c"])).await?;
    }
    let now = structure_now(&left, &tree.path("")).await?;
    for name in ["left", "right"] {
        assert_eq!(watching.host(name).rows, now, "{name}");
    }
    let (left, right) = (watching.host("left"), watching.host("right"));
    assert_eq!((left.changes.as_slice(), left.snapshots), (&[(Joined, None)][..], 1), "undisturbed");
    let [joined, lost @ .., relisted] = right.changes.as_slice() else { panic!("{right:?}") };
    let expired = Some(ErrorReason::ResumeExpired);
    assert_eq!((joined, relisted, right.snapshots), (&(Joined, None), &(Relist, expired), 2));
    // A loss is told again if its reason changes, as where a host that starts is slow to answer.
    assert_eq!(lost[0], (Lost, Some(ErrorReason::HostUnreachable)));
    assert!(lost.iter().all(|(kind, _)| *kind == Lost), "{lost:?}");
    assert_ne!(right.bookmarks[0].agent_epoch, right.bookmarks[right.bookmarks.len() - 1].agent_epoch);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_cable_was_pulled_is_back_without_a_gap() -> Result<()> {
    let mut network = Network::new()?;
    let (namespace, address) = network.host()?;
    let server = Start::server()?
        .listening_on(SocketAddr::from((network.address(1), 7400)))
        .flag("--heartbeat-interval", "300ms")
        .start()
        .await?;
    // Other tests fill snapshots of this host with their cgroups, and so the history.
    let start = Start::agent()?.registered(&server, "far").flag("--history-bytes-max", "268435456");
    let agent = start.in_namespace(&namespace, SocketAddr::from((address, 7401))).start().await?;
    fleet::all_up(&server, &["far"]).await?;
    let tree = TestTree::v2()?;
    tree.make("a")?;
    let mut watching = Watching::open(&server, of_everywhere(structure_of(&tree.path("")))).await?;
    watching.until("the snapshot", |watching| !watching.host("far").bookmarks.is_empty()).await?;

    network.connect(&namespace, false)?;
    watching.until("far lost", |watching| watching.host("far").last_change() == Some(Lost)).await?;
    fs::remove_dir(tree.directory("a"))?;
    tree.make("b")?;
    network.connect(&namespace, true)?;
    let expect = paths(&tree, &["", "b"]);
    watching.until("what happened meanwhile", |watching| watching.host("far").paths() == expect).await?;
    let far = watching.host("far");
    assert_eq!((far.removed.as_slice(), far.snapshots), (&[tree.path("a")][..], 1), "{:?}", far.changes);
    let changes: Vec<_> = far.changes.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(changes.first(), Some(&Joined));
    // A loss is told again if its reason changes.
    assert!(changes[1..changes.len() - 1].iter().all(|kind| *kind == Lost), "{changes:?}");
    assert_eq!(changes.last(), Some(&Back));
    drop(agent);
    Ok(())
}

/// Makes a host known to a server as its agent would.
async fn introduce(known_at: &Daemon, server: &Daemon) -> Result<()> {
    for status in fleet::hosts(known_at).await? {
        server.fleet()?.register_host(RegisterHostRequest { host: status.host }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_at_another_server_and_misses_nothing() -> Result<()> {
    let (first, second) = (server().await?, server().await?);
    let mut only = agent(&first, "only").await?;
    fleet::all_up(&first, &["only"]).await?;
    introduce(&first, &second).await?;
    let tree = TestTree::v2()?;
    tree.make("a")?;
    let request = of_everywhere(structure_of(&tree.path("")));
    let mut watching = Watching::open(&first, request.clone()).await?;
    watching.until("some ticks", |watching| watching.host("only").bookmarks.len() > 2).await?;
    let (rows, positions) = (watching.host("only").rows.clone(), watching.positions());
    drop(watching);
    fs::remove_dir(tree.directory("a"))?;
    tree.make("b")?;

    let at = |positions| FleetServiceSubscribeRequest { positions, ..request.clone() };
    let mut watching = Watching::open(&second, at(positions.clone())).await?;
    watching.hosts.entry("only".to_owned()).or_default().rows = rows;
    let expect = paths(&tree, &["", "b"]);
    watching.until("what happened meanwhile", |watching| watching.host("only").paths() == expect).await?;
    let host = watching.host("only");
    assert_eq!((host.changes.as_slice(), host.snapshots), (&[(Joined, None)][..], 0));
    assert_eq!(host.removed, [tree.path("a")]);
    assert_eq!(host.rows, structure_now(&only, &tree.path("")).await?);
    drop(watching);

    only.kill_9()?;
    only.start_again().await?;
    let mut watching = Watching::open(&second, at(positions)).await?;
    watching.hosts.entry("only".to_owned()).or_default().rows.insert(1, CgroupSample::default());
    watching.until("a snapshot", |watching| !watching.host("only").bookmarks.is_empty()).await?;
    let host = watching.host("only");
    let relisted: Vec<_> = host.changes.iter().filter(|(kind, _)| *kind != Lost).collect();
    assert_eq!(relisted, [&(Relist, Some(ErrorReason::ResumeExpired))], "instead of JOINED");
    assert_eq!(host.paths(), expect);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_host_may_do_is_refused_and_what_one_does_not_allow_is_its_loss() -> Result<()> {
    let server = Start::server()?.flag("--subscriptions-max", "1").start().await?;
    let _only = agent(&server, "only").await?;
    fleet::all_up(&server, &["only"]).await?;
    let refused = async |request: FleetServiceSubscribeRequest| {
        let refused = server.fleet()?.subscribe(request).await.err().context("it was not refused")?;
        anyhow::Ok((refused.code(), reason_of(&refused), refused.message().to_owned()))
    };
    let named = |name: &str| Some(HostSelector { hosts: vec![name.to_owned()], all: false });
    let stranger =
        HostPosition { host_id: "0190b5b4-0000-7000-8000-000000000000".into(), resume_token: "t".into() };
    let request = |hosts, spec, positions| FleetServiceSubscribeRequest { hosts, spec, positions };
    for (request, field) in [
        (request(Some(everywhere()), None, vec![]), "spec: "),
        (request(None, Some(SubscribeSpec::default()), vec![]), "hosts: "),
        (request(named("only"), Some(SubscribeSpec::default()), vec![stranger]), "positions.host_id: "),
        (of_everywhere(SubscribeSpec { dead_band: 2.0, ..SubscribeSpec::default() }), "spec.dead_band: "),
    ] {
        let (code, reason, message) = refused(request).await?;
        assert_eq!((code, reason), (Code::InvalidArgument, ErrorReason::InvalidField), "{message}");
        assert!(message.starts_with(field), "{message}");
    }
    let (code, reason, _) = refused(request(named("other"), Some(SubscribeSpec::default()), vec![])).await?;
    assert_eq!((code, reason), (Code::NotFound, ErrorReason::HostUnknown));

    // Less than the agent's subscribe_interval_min, but not than every agent's.
    let interval = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let often = of_everywhere(SubscribeSpec { interval, ..SubscribeSpec::default() });
    let mut watching = Watching::open(&server, often).await?;
    watching.until("the agent's refusal", |watching| !watching.host("only").changes.is_empty()).await?;
    assert_eq!(watching.host("only").changes, [(Lost, Some(ErrorReason::InvalidField))]);
    let (code, reason, message) = refused(of_everywhere(SubscribeSpec::default())).await?;
    assert_eq!((code, reason), (Code::ResourceExhausted, ErrorReason::LimitExceeded));
    assert!(message.contains("subscriptions_max"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so() -> Result<()> {
    let mut server = server().await?;
    let _only = agent(&server, "only").await?;
    fleet::all_up(&server, &["only"]).await?;
    let mut stream = server.fleet()?.subscribe(of_everywhere(SubscribeSpec::default())).await?.into_inner();
    stream.message().await?.context("it began")?;
    let stopped = tokio::spawn(async move {
        let code = server.stop().await;
        code.map(|code| (code, server))
    });
    let ended = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!(
        (ended.code(), reason_of(&ended)),
        (Code::Unavailable, ErrorReason::ShuttingDown),
        "{ended:?}"
    );
    assert_eq!(stopped.await??.0, Some(0));
    Ok(())
}

/// Cgroups whose rows are long, and change together.
const ROWS: usize = 1000;
/// Clients that do not read: more than would fit into the windows of the connection that queries use.
const STALLED: usize = 5;

fn make_long_rows(tree: &TestTree) -> Result<()> {
    let above = format!("{}/{}", "u".repeat(250), "v".repeat(250));
    for number in 0..ROWS {
        tree.make(&format!("{above}/{number}-{}", "w".repeat(200)))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_cost_the_others_nothing() -> Result<()> {
    let server = server().await?;
    let only = agent(&server, "only").await?;
    fleet::all_up(&server, &["only"]).await?;
    let tree = TestTree::v2()?;
    make_long_rows(&tree)?;
    let request = of_everywhere(structure_of(&tree.path("")));
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let endpoint = Endpoint::from_shared(server.url())?.initial_stream_window_size(64 << 10);
        let channel = InterceptedService::new(endpoint.connect_lazy(), InjectTraceContext);
        stalled.push(Watching::open_through(FleetServiceClient::new(channel), request.clone()).await?);
    }
    let mut reading = Watching::open(&server, request).await?;
    // Much more than what may wait on the way: 16 parts at the server, windows and buffers at both ends.
    for round in 1..=40 {
        let frozen = u64::from(round % 2 == 1);
        fs::write(tree.directory("cgroup.freeze"), frozen.to_string())?;
        let all_so = |watching: &Watching| {
            let rows = watching.host("only").rows.values();
            let so = rows.filter(|sample| {
                sample.structure.as_ref().is_some_and(|structure| structure.frozen == Some(frozen))
            });
            so.count() == ROWS + 3
        };
        reading.until(&format!("round {round}"), all_so).await?;
    }
    let whole = query(
        &server,
        QueryRequest {
            hosts: Some(everywhere()),
            spec: Some(spec(by_path("/"), CgroupOrder::SelfOnly)),
            ..QueryRequest::default()
        },
    );
    ensure!(whole.await?.summary.hosts_complete == 1, "queries go on");
    let points = fleet::history(&server, "only", by_path("/")).await?.points.len();
    fleet::more_history(&server, "only", by_path("/"), points).await?;

    // Such that no state before is the same.
    tree.make("last")?;
    let now = structure_now(&only, &tree.path("")).await?;
    let mut stalled = stalled.pop().context("none stalled")?;
    stalled.until("the newest state", |stalled| stalled.host("only").rows == now).await?;
    let merged: u64 = stalled.host("only").bookmarks.iter().map(|bookmark| bookmark.merged_ticks).sum();
    assert!(merged > 0, "what waited was merged, not kept");
    assert_eq!(stalled.host("only").changes, [(Joined, None)]);
    Ok(())
}
