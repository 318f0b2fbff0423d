//! Any gRPC client can use the daemons, whatever its language and without our protos: here Python's,
//! which learns every message through reflection.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{HostState, ListHostsRequest};
use integration_tests::{
    cgroups::TestTree,
    cli,
    daemon::{self, Daemon, Start},
    wait,
};
use serde_json::{Value, json};
use tokio::process::Command;

/// What every daemon offers beside its own service.
const BESIDE: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_generic_python_client_lists_the_services_and_runs_walk_and_query() -> Result<()> {
    let server = Start::server()?.start().await?;
    let agent = Start::agent()?.registered(&server, "web-1").start().await?;
    wait::until("web-1 up", Duration::from_secs(20), || is_up(&server)).await?;
    let mut tree = TestTree::v2()?;
    tree.make("busy/leaf")?;
    tree.work_in("busy/leaf")?;

    let said = run_client(&agent, &server, &tree.path("busy/leaf")).await?;
    for (daemon, own) in [("agent", "cgfleet.v1.AgentService"), ("server", "cgfleet.v1.FleetService")] {
        let services: Vec<_> = [own].into_iter().chain(BESIDE).collect();
        assert_eq!(said[daemon]["services"], json!(services), "those served here, and no others");
        assert_eq!(said[daemon]["health"], "SERVING", "{daemon}");
    }
    let levels = ["busy/leaf", "busy", ""].map(|below| Ok((tree.id(below)?, tree.path(below))));
    let expect = levels.into_iter().collect::<Result<Vec<_>>>()?;
    check_walk(said["agent"]["walk"].as_array().context("a walk")?, &expect)?;
    check_query(said["server"]["query"].as_array().context("a query")?, &expect)?;

    let refused = &said["refused"];
    assert_eq!(refused["code"], "INVALID_ARGUMENT");
    let info = &refused["details"][0];
    assert_eq!((&info["reason"], &info["domain"]), (&json!("INVALID_FIELD"), &json!("cgfleet")));
    assert_eq!(info["metadata"]["field"], "spec.order");
    assert_eq!(info["metadata"]["value"], "CGROUP_ORDER_UNSPECIFIED");
    let allowed = info["metadata"]["allowed"].as_str().context("what is allowed")?;
    let message = refused["message"].as_str().context("a message")?;
    assert!(allowed.contains("CGROUP_ORDER_ANCESTORS_UP") && message.contains(allowed), "{refused}");
    Ok(())
}

async fn is_up(server: &Daemon) -> Result<Option<()>> {
    let hosts = server.fleet()?.list_hosts(ListHostsRequest::default()).await?.into_inner().hosts;
    Ok(hosts.iter().any(|host| host.state() == HostState::Up).then_some(()))
}

async fn run_client(agent: &Daemon, server: &Daemon, path: &str) -> Result<Value> {
    let target = daemon::binary("cgfleet-agent")?.ancestors().nth(2).map(Path::to_owned);
    let python = target.context("target/ has a directory per profile")?.join("venv/bin/python");
    ensure!(python.exists(), "{} is missing; make it with `cargo xtask install test`", python.display());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/generic_client.py");
    let addresses = [agent, server].map(|daemon| daemon.address().to_string());
    let ran = cli::run_command(Command::new(python).arg(script).args(addresses).arg(path)).await?;
    ensure!(ran.code == 0, "{script} ended with {}: {}", ran.code, ran.stderr);
    Ok(serde_json::from_str(&ran.stdout)?)
}

/// Rows of these cgroups (id, path), and then of the root.
fn check_rows(rows: &[&Value], expect: &[(u64, String)]) -> Result<()> {
    let (root, below) = rows.split_last().context("no rows")?;
    let found: Vec<Value> =
        below.iter().map(|row| json!([row["cgroup_id"], row["path"], row["cpu"]["source"]])).collect();
    // Numbers of 64 bits are text in protobuf's JSON.
    let expect: Vec<Value> =
        expect.iter().map(|(id, path)| json!([id.to_string(), path, "SOURCE_BPF"])).collect();
    assert_eq!(found, expect);
    assert_eq!((&root["path"], &root["cpu"]["source"]), (&json!("/"), &json!("SOURCE_FILE")));
    for row in rows {
        let usage_usec: u64 = row["cpu"]["usage_usec"].as_str().context("no usage")?.parse()?;
        assert!(usage_usec > 0, "{row}");
        assert_eq!(row["cpu"].get("user_usec"), None, "not asked for");
    }
    Ok(())
}

fn check_walk(parts: &[Value], expect: &[(u64, String)]) -> Result<()> {
    assert_eq!(parts[0]["header"]["hostname"], "web-1");
    let batches = parts.iter().filter_map(|part| part["batch"]["samples"].as_array());
    check_rows(&batches.flatten().collect::<Vec<_>>(), expect)?;
    assert_eq!(parts.last().context("no parts")?["summary"]["end"], "WALK_END_COMPLETE");
    Ok(())
}

fn check_query(parts: &[Value], expect: &[(u64, String)]) -> Result<()> {
    let batches = parts.iter().filter_map(|part| part["samples"]["samples"].as_array());
    check_rows(&batches.flatten().collect::<Vec<_>>(), expect)?;
    let result = parts.iter().find_map(|part| part.get("result")).context("no result")?;
    assert_eq!((&result["hostname"], &result["rows"]), (&json!("web-1"), &json!("4")));
    assert_eq!(parts.last().context("no parts")?["summary"], json!({ "hosts": 1, "hosts_complete": 1 }));
    Ok(())
}
