//! Ticks on their way from a real agent into a server's Postgres: nothing is missing that the agent's history had, and
//! nothing is stored twice.

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_proto::v1::{
    CgroupSample, GetLatestRequest, HostSelector, LatestTick, get_latest_response::Part,
};
use integration_tests::{
    cgroups::TestTree,
    churn::churn,
    daemon::{Daemon, Start},
    fleet,
    network::Network,
    wait,
    walk::by_path,
};

const TICK: Duration = Duration::from_millis(200);
/// How long a host or a server is away.
const OUTAGE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_mins(1);

/// The answer of the server's Postgres, columns apart by a space.
fn sql(server: &Daemon, statement: &str) -> Result<String> {
    let output = Command::new("psql")
        .args(["-U", "cgfleet", "-d", "cgfleet", "-AtF", " ", "-c", statement, "-h"])
        .arg(server.state().join("postgres/run"))
        .output()
        .context("run psql (package postgresql-client)")?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn stored(server: &Daemon) -> Result<u64> {
    Ok(sql(server, "select count(*) from head")?.parse()?)
}

/// Waits until so many ticks more are stored.
async fn more(server: &Daemon, ticks: u64) -> Result<()> {
    let before = stored(server)?;
    wait::until(&format!("{ticks} ticks more than {before}"), PATIENCE, || async {
        Ok((stored(server)? >= before + ticks).then_some(()))
    })
    .await
}

/// Every tick is stored once; where a number is passed over within an agent process, the agent took no tick. The
/// gaps of other reasons.
fn gaps(server: &Daemon) -> Result<String> {
    let twice = "select count(*) - count(distinct (host_id, agent_epoch, sequence)) from head";
    assert_eq!(sql(server, twice)?, "0", "ticks are stored twice");
    let holes = "select count(*) from (
                     select sequence - lag(sequence) over (partition by agent_epoch order by tick_at) as step
                     from head) as steps
                 where step <> 1";
    let not_taken = "select count(*) from gap where reason = 'not_taken'";
    assert_eq!(sql(server, holes)?, sql(server, not_taken)?, "{}", sql(server, "select * from gap")?);
    sql(
        server,
        "select coalesce(string_agg(reason, ' ' order by before_at), '') from gap where reason <> 'not_taken'",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_that_the_agents_history_bridges_leave_no_gap() -> Result<()> {
    let mut network = Network::new()?;
    let (namespace, address) = network.host()?;
    let mut server = Start::server()?
        .listening_on(SocketAddr::from((network.address(1), 7400)))
        .flag("--heartbeat-interval", "300ms")
        .start()
        .await?;
    let mut agent = Start::agent()?
        .registered(&server, "only")
        .in_namespace(&namespace, SocketAddr::from((address, 7401)))
        .start()
        .await?;
    fleet::all_up(&server, &["only"]).await?;
    more(&server, 5).await?;

    // Until the connection is given up, which takes longer than the outage has to.
    network.connect(&namespace, false)?;
    wait::until("that the stream is given up", PATIENCE, || async {
        Ok(server.log().contains("a host's stream ended").then_some(()))
    })
    .await?;
    tokio::time::sleep(OUTAGE).await;
    let before = stored(&server)?;
    network.connect(&namespace, true)?;
    more(&server, 25).await?;
    assert_eq!(gaps(&server)?, "", "a cut link, {before} ticks before it");

    server.kill_9()?;
    tokio::time::sleep(OUTAGE).await;
    server.start_again().await?;
    more(&server, 25).await?;
    assert_eq!(gaps(&server)?, "", "a server that was killed");
    assert_eq!(server.stop().await?, Some(0), "{}", server.log());
    tokio::time::sleep(OUTAGE).await;
    server.start_again().await?;
    more(&server, 25).await?;
    assert_eq!(gaps(&server)?, "", "a server that was stopped");

    agent.kill_9()?;
    agent.start_again().await?;
    more(&server, 5).await?;
    assert_eq!(gaps(&server)?, "agent_restarted");
    // What was under way when the agent died is all that can be missing.
    let lost = sql(
        &server,
        "select extract(epoch from before_at - after_at) from gap where reason = 'agent_restarted'",
    )?;
    println!("the agent was away for {lost} s");
    Ok(())
}

/// The history is all that an agent keeps for a server that is away.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_is_longer_than_the_history_is_one_gap() -> Result<()> {
    let mut server = Start::server()?.flag("--heartbeat-interval", "300ms").start().await?;
    let _agent = Start::agent()?.registered(&server, "only").flag("--history-bytes-max", "0").start().await?;
    fleet::all_up(&server, &["only"]).await?;
    more(&server, 3).await?;
    server.kill_9()?;
    tokio::time::sleep(OUTAGE).await;
    server.start_again().await?;
    more(&server, 3).await?;
    let reasons = sql(&server, "select distinct reason from gap where reason <> 'not_taken'")?;
    assert_eq!(reasons, "not_received");
    let longest = sql(&server, "select max(before_at - after_at) > interval '3 s' from gap")?;
    assert_eq!(longest, "t", "ticks keep their distances: {}", sql(&server, "select * from gap")?);
    Ok(())
}

/// What a host had last: its rows, and the tick that they are of.
async fn latest(server: &Daemon, path: String) -> Result<(Vec<CgroupSample>, LatestTick)> {
    let request = GetLatestRequest {
        hosts: Some(HostSelector { hosts: vec!["only".to_owned()], all: false }),
        target: Some(by_path(path)),
        ..GetLatestRequest::default()
    };
    let mut stream = server.fleet()?.get_latest(request).await?.into_inner();
    let mut rows = Vec::new();
    while let Some(response) = stream.message().await? {
        match response.part {
            Some(Part::Rows(batch)) => rows.extend(batch.samples),
            Some(Part::Tick(tick)) => {
                ensure!(stream.message().await?.is_none() && tick.rows == rows.len() as u64, "{tick:?}");
                return Ok((rows, tick));
            }
            other => bail!("{other:?}"),
        }
    }
    bail!("a host without an end")
}

/// From memory while the server runs, and from the store after it was started anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_had_last_is_known_while_it_is_down() -> Result<()> {
    let mut server = Start::server()?.start().await?;
    let mut agent = Start::agent()?.registered(&server, "only").start().await?;
    fleet::all_up(&server, &["only"]).await?;
    let mut tree = TestTree::v2()?;
    tree.make("a/b")?;
    tree.work_in("a")?;
    let expect = [tree.path(""), tree.path("a"), tree.path("a/b")];
    wait::until("the tree's rows", PATIENCE, || async {
        let (rows, _) = latest(&server, tree.path("")).await?;
        Ok(rows.iter().map(|row| &row.path).eq(&expect).then_some(()))
    })
    .await?;
    let (none, tick) = latest(&server, tree.path("none")).await?;
    assert!(none.is_empty() && tick.tick_at.is_some(), "{tick:?}");
    agent.kill_9()?;
    let (rows, tick) = wait::until("that the last tick is stored", PATIENCE, || async {
        let (rows, tick) = latest(&server, tree.path("")).await?;
        let hosts = fleet::hosts(&server).await?;
        ensure!(hosts[0].ingest_lag.is_some(), "{hosts:?}");
        Ok((hosts[0].last_tick_at == tick.tick_at).then_some((rows, tick)))
    })
    .await?;
    ensure!(rows.len() == 3 && rows.iter().all(|row| row.cpu.is_some()), "{rows:?}");
    server.kill_9()?;
    server.start_again().await?;
    assert_eq!(latest(&server, tree.path("")).await?, (rows, tick));
    Ok(())
}

/// Cgroups that live for less than a tick are known, with what they used.
#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_that_no_tick_met_has_its_last_point() -> Result<()> {
    let server = Start::server()?.start().await?;
    let _agent = Start::agent()?.registered(&server, "only").flag("--sample-interval", "1s").start().await?;
    fleet::all_up(&server, &["only"]).await?;
    let tree = Arc::new(TestTree::v2()?);
    tree.make("rest")?;
    let made = churn(&tree, "brief", "rest", 100, TICK / 4)?;
    ensure!(made.len() == 100, "{} cgroups were made", made.len());
    let ended = format!(
        "select count(*) from cgroup
         where cgroup_id = any('{{{}}}') and last_tick_at >= first_tick_at and created_at is not null
           and path like '{}/%'",
        made.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
        tree.path("")
    );
    wait::until("that all are known to be gone", PATIENCE, || async {
        Ok((sql(&server, &ended)? == "100").then_some(()))
    })
    .await?;
    let brief = sql(&server, "select count(*) from cgroup where first_tick_at = last_tick_at")?;
    println!("{brief} cgroups are in one tick alone");
    let path =
        sql(&server, "select path from cgroup where path like '%/brief/%' order by cgroup_id limit 1")?;
    let history = fleet::history(&server, "only", by_path(path)).await?;
    let last = history.points.last().and_then(|point| point.sample.as_ref());
    ensure!(last.and_then(|last| last.cpu.as_ref()?.usage_usec).is_some(), "{:?}", history.points);
    let alive = sql(
        &server,
        &format!("select last_tick_at is null from cgroup where path = '{}'", tree.path("rest")),
    )?;
    assert_eq!(alive, "t");
    Ok(())
}
