//! Neither the server nor its Postgres has any privilege, and others may not look into their state.

use std::fs;

use anyhow::{Result, ensure};
use cgfleet_proto::v1::{CgroupOrder, HostSelector, ListHostsRequest, QueryRequest};
use integration_tests::{
    daemon::{Daemon, Start},
    fleet,
    privileges::{check_closed_to_others, check_unprivileged, descendants},
    walk::{by_path, query, spec},
};

/// Checks the server and what it started, and gives how many processes that is.
fn check(server: &Daemon) -> Result<usize> {
    let user = check_unprivileged(server.pid())?;
    let started = descendants(server.pid())?;
    for pid in &started {
        // A session of Postgres may end at any time.
        match check_unprivileged(*pid) {
            Err(_) if fs::metadata(format!("/proc/{pid}")).is_err() => {}
            checked => ensure!(checked? == user, "{pid} runs as another user than the server"),
        }
    }
    Ok(started.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_its_postgres_have_no_privilege() -> Result<()> {
    let server = Start::server()?.flag("--heartbeat-interval", "300ms").start().await?;
    let _agent = Start::agent()?.registered(&server, "host").start().await?;
    fleet::all_up(&server, &["host"]).await?;
    let request = QueryRequest {
        hosts: Some(HostSelector { all: true, ..HostSelector::default() }),
        spec: Some(spec(by_path("/"), CgroupOrder::SelfOnly)),
        ..QueryRequest::default()
    };
    assert_eq!(query(&server, request).await?.samples.len(), 1);

    let processes = check(&server)?;
    assert!(processes > 2, "the postmaster and its children, not {processes} processes");
    let user = check_unprivileged(server.pid())?;
    for below in ["", "postgres", "postgres/data", "postgres/run"] {
        check_closed_to_others(&server.state().join(below), user)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_postgres_has_no_privilege_and_a_spool_alone() -> Result<()> {
    let owner = Start::server()?.start().await?;
    let socket_dir = owner.state().join("postgres/run").display().to_string().replace('/', "%2F");
    let url = format!("postgres://cgfleet@{socket_dir}:5432/cgfleet");
    let server = Start::server()?.flag("--database-url", &url).start().await?;
    assert_eq!(check(&server)?, 0, "it started no Postgres");
    assert!(server.fleet()?.list_hosts(ListHostsRequest::default()).await?.into_inner().hosts.is_empty());
    let kept: Vec<_> =
        fs::read_dir(server.state())?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(kept, ["spool"]);
    let user = check_unprivileged(server.pid())?;
    check_closed_to_others(&server.state().join("spool"), user)?;
    Ok(())
}
