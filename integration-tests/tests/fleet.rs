//! Agents, a server and its Postgres together, with hosts and servers that die.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{
    CgroupOrder, ErrorReason, FleetServiceFlushRequest, FlushMode, GapReason, HostSelector, HostState,
    QueryRequest, WalkSpec, fleet_service_flush_response::Outcome as FlushOutcome, host_result::Outcome,
};
use integration_tests::{
    cgroups::TestTree,
    cli,
    daemon::{Daemon, Start},
    fleet,
    network::Network,
    wait,
    walk::{by_path, query, spec},
};

fn everywhere() -> HostSelector {
    HostSelector { all: true, ..HostSelector::default() }
}

/// Counts of the head: ticks, and ticks that differ.
fn stored_ticks(server: &Daemon) -> Result<(u64, u64)> {
    let statement = "select count(*), count(distinct (host_id, agent_epoch, sequence)) from head";
    let output = Command::new("psql")
        .args(["-U", "cgfleet", "-d", "cgfleet", "-AtF", " ", "-c", statement, "-h"])
        .arg(server.state().join("postgres/run"))
        .output()
        .context("run psql (package postgresql-client)")?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let (all, distinct) = text.trim().split_once(' ').context("two counts")?;
    Ok((all.parse()?, distinct.parse()?))
}

/// Two hosts with networks of their own, one of them dying and coming back.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_costs_the_others_nothing_and_comes_back_by_itself() -> Result<()> {
    let mut network = Network::new()?;
    let ((left, left_address), (right, right_address)) = (network.host()?, network.host()?);
    let server = Start::server()?
        .listening_on(SocketAddr::from((network.address(1), 7400)))
        .flag("--heartbeat-interval", "300ms")
        .start()
        .await?;
    let start = |namespace: &str, address, name| {
        let start = Start::agent()?.registered(&server, name);
        Ok::<_, anyhow::Error>(start.in_namespace(namespace, SocketAddr::from((address, 7401))).start())
    };
    let left = start(&left, left_address, "left")?.await?;
    let mut right = start(&right, right_address, "right")?.await?;
    fleet::all_up(&server, &["left", "right"]).await?;
    let tree = TestTree::v2()?;
    let request = || QueryRequest {
        hosts: Some(everywhere()),
        spec: Some(spec(by_path(tree.path("")), CgroupOrder::AncestorsUp)),
        ..QueryRequest::default()
    };

    let whole = query(&server, request()).await?;
    assert_eq!((whole.summary.hosts, whole.summary.hosts_complete), (2, 2));
    assert_eq!(whole.samples.len(), 4, "the test cgroup and the root, on both");

    right.kill_9()?;
    let asked = Instant::now();
    let url = server.url();
    let ran = cli::run(
        "cgctl",
        &["--server", &url, "query", "--all", &tree.path(""), "--order", "self", "-o", "ndjson"],
    )
    .await?;
    assert!(asked.elapsed().as_secs() < 10, "{:?}", asked.elapsed());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("right") && ran.stderr.contains("HOST_UNREACHABLE"), "{}", ran.stderr);
    assert!(ran.stdout.contains(r#""hostname":"left""#), "{}", ran.stdout);
    let partial = query(&server, request()).await?;
    assert_eq!((partial.summary.hosts_complete, partial.summary.hosts_failed), (1, 1));
    assert_eq!(partial.samples.len(), 2);
    let failed = partial
        .results
        .iter()
        .find(|result| result.hostname == "right")
        .context("no result for the dead host")?;
    let Some(Outcome::Error(error)) = &failed.outcome else { panic!("{failed:?}") };
    assert_eq!(error.reason(), ErrorReason::HostUnreachable);
    assert!(partial.samples.iter().all(|(host_id, _)| *host_id != failed.host_id), "{:?}", partial.samples);
    assert!(error.message.contains(&right.address().to_string()), "{}", error.message);
    wait::until("the dead host lost", Duration::from_secs(10), || async {
        let hosts = fleet::hosts(&server).await?;
        Ok(hosts
            .iter()
            .any(|host| fleet::hostname(host) == Some("right") && host.state() == HostState::Lost)
            .then_some(()))
    })
    .await?;

    right.start_again().await?;
    fleet::all_up(&server, &["left", "right"]).await?;
    let ran =
        cli::run("cgctl", &["--server", &url, "query", "--all", &tree.path(""), "--order", "self"]).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let points = fleet::history(&server, "right", by_path("/")).await?.points.len();
    let history = fleet::more_history(&server, "right", by_path("/"), points + 2).await?;
    let reasons: Vec<_> = history.gaps.iter().map(cgfleet_proto::v1::HistoryGap::reason).collect();
    assert_eq!(reasons, [GapReason::AgentRestarted]);
    drop(left);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_with_hosts_and_history_and_stores_every_tick_once() -> Result<()> {
    let mut server = Start::server()?.flag("--heartbeat-interval", "300ms").start().await?;
    let mut agent = Start::agent()?.registered(&server, "only").start().await?;
    let mut tree = TestTree::v2()?;
    tree.make("busy")?;
    tree.work_in("busy")?;
    fleet::all_up(&server, &["only"]).await?;
    let busy = || by_path(tree.path("busy"));
    for round in 1..=3 {
        let before = wait::until("history before the kill", Duration::from_secs(20), || async {
            // Until its first tick the cgroup is unknown.
            let history = fleet::history(&server, "only", busy()).await?;
            Ok((history.points.len() >= round * 4).then_some(history))
        })
        .await?;
        server.kill_9()?;
        server.start_again().await?;
        let names: Vec<String> =
            fleet::hosts(&server).await?.iter().filter_map(fleet::hostname).map(str::to_owned).collect();
        assert_eq!(names, ["only"], "known before any heartbeat");
        let after = fleet::more_history(&server, "only", busy(), before.points.len() + 3).await?;
        assert_eq!(
            after.points[..before.points.len()],
            before.points[..],
            "round {round}: what was stored stays"
        );
        let (all, distinct) = stored_ticks(&server)?;
        assert_eq!(all, distinct, "round {round}");
        assert!(after.gaps.iter().all(|gap| gap.reason() == GapReason::NotReceived), "{:?}", after.gaps);
        let usage: Vec<u64> =
            after.points.iter().filter_map(|point| point.sample.as_ref()?.cpu.as_ref()?.usage_usec).collect();
        assert_eq!(usage.len(), after.points.len());
        assert!(usage.is_sorted() && usage.first() < usage.last(), "a counter grows: {usage:?}");
    }
    assert_eq!(agent.stop().await?, Some(0), "{}", agent.log());
    assert_eq!(server.stop().await?, Some(0), "{}", server.log());
    Ok(())
}

/// Why, and when to try again, goes from the agent through the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_flushes_no_more_says_so_beside_the_others() -> Result<()> {
    let server = Start::server()?.start().await?;
    let start = |name| Start::agent().map(|start| start.registered(&server, name));
    let _limited = start("limited")?.flag("--flushes-per-second-max", "1").start().await?;
    let _free = start("free")?.flushing_freely().start().await?;
    fleet::all_up(&server, &["free", "limited"]).await?;
    let tree = TestTree::v2()?;
    let spec = spec(by_path(tree.path("")), CgroupOrder::SelfOnly);
    let spec = WalkSpec { flush: FlushMode::Always.into(), ..spec };
    let request =
        || QueryRequest { hosts: Some(everywhere()), spec: Some(spec.clone()), ..QueryRequest::default() };
    let results = wait::until("a host that is limited", Duration::from_secs(20), || async {
        query(&server, request()).await?;
        let queried = query(&server, request()).await?;
        Ok((queried.summary.hosts_failed == 1).then_some(queried.results))
    })
    .await?;
    for result in results {
        match (result.hostname.as_str(), result.outcome) {
            ("free", Some(Outcome::Summary(summary))) => assert!(summary.flushed_at.is_some(), "{summary:?}"),
            ("limited", Some(Outcome::Error(error))) => {
                assert_eq!(error.reason(), ErrorReason::FlushRateLimited, "{error:?}");
                let retry_after = Duration::try_from(error.retry_after.context("no retry_after")?)?;
                assert!(!retry_after.is_zero() && retry_after <= Duration::from_secs(1), "{retry_after:?}");
            }
            (host, outcome) => panic!("{host}: {outcome:?}"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_fans_out_and_a_trace_crosses_hosts() -> Result<()> {
    let server = Start::server()?.flag("--log-format", "json").start().await?;
    let agent = Start::agent()?.registered(&server, "only").flag("--log-format", "json").start().await?;
    fleet::all_up(&server, &["only"]).await?;
    let tree = TestTree::v2()?;

    let request = FleetServiceFlushRequest {
        hosts: Some(everywhere()),
        target: Some(by_path(tree.path(""))),
        ..FleetServiceFlushRequest::default()
    };
    let mut flushed = server.fleet()?.flush(request).await?.into_inner();
    let response = flushed.message().await?.context("no answer")?;
    let Some(FlushOutcome::Flush(flush)) = response.outcome else { panic!("{response:?}") };
    assert_eq!((response.hostname.as_str(), flush.cgroup_id), ("only", tree.id("")?));
    assert!(flushed.message().await?.is_none(), "one answer a host");

    let url = server.url();
    let ran = cli::run("cgctl", &["--server", &url, "--trace", "query", "--all", &tree.path("")]).await?;
    assert_eq!(ran.code, 0, "{ran:?}");
    let is_trace_id = |word: &&str| word.len() == 32 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    let trace_id =
        ran.stderr.split_whitespace().find(is_trace_id).context("cgctl --trace prints the trace id")?;
    let walked = agent.log().lines().any(|line| line.contains("walked") && line.contains(trace_id));
    assert!(walked, "the agent's walk is in the trace {trace_id}:\n{}", agent.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_url_is_used_instead_of_a_private_postgres() -> Result<()> {
    let first = Start::server()?.start().await?;
    let socket_dir = first.state().join("postgres/run");
    let url = format!("postgres://cgfleet@localhost/cgfleet?host={}", socket_dir.display());
    let second = Start::server()?.flag("--database-url", &url).start().await?;
    assert!(!second.state().join("postgres").exists());
    let _agent = Start::agent()?.registered(&second, "only").start().await?;
    fleet::all_up(&second, &["only"]).await?;
    fleet::more_history(&second, "only", by_path("/"), 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn text_views_are_made_listed_and_removed_on_many_hosts() -> Result<()> {
    let server = Start::server()?.start().await?;
    let left = Start::agent()?.registered(&server, "left").start().await?;
    let right = Start::agent()?.registered(&server, "right").start().await?;
    fleet::all_up(&server, &["left", "right"]).await?;
    let tree = TestTree::v2()?;
    let (url, path) = (server.url(), tree.path(""));
    let cgctl = async |exit: i32, arguments: &[&str]| {
        let ran = cli::run("cgctl", &[&["--server", &url, "view"], arguments].concat()).await?;
        ensure!(ran.code == exit, "{arguments:?}: {ran:?}");
        Ok(ran)
    };
    let files = [&left, &right].map(|agent| agent.bpffs_dir().join("views/web"));
    cgctl(0, &["create", "--host", "left", "web", &path, "--fields", "cpu"]).await?;
    let again = cgctl(3, &["create", "--all", "web", &path]).await?;
    ensure!(again.stderr.contains("host left: VIEW_EXISTS: "), "{again:?}");
    let listed = cgctl(0, &["list", "--all", "-o", "json"]).await?;
    for file in &files {
        ensure!(file.exists() && listed.stdout.contains(&file.display().to_string()), "{listed:?}");
    }
    cgctl(0, &["delete", "--all", "web"]).await?;
    ensure!(files.iter().all(|file| !file.exists()), "they are removed");
    Ok(())
}
