//! Mistakes on cgctl's command line, and hosts, agents and servers that are not there.

use anyhow::Result;
use cgfleet_proto::v1::{ErrorReason, Host, RegisterHostRequest};
use integration_tests::{
    cli,
    daemon::{Daemon, Start, free_port},
};

use super::{check_line, host_up, in_time};

/// The exit codes of docs/cli.md.
const USAGE: i32 = 2;
const PARTIAL: i32 = 3;
const UNREACHABLE: i32 = 4;

/// Two hosts, one name.
const TWINS: [&str; 2] = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];

/// A command line, its exit code, the reason if a daemon refused it, and what its line says.
type Row<'a> = (&'a str, i32, Option<ErrorReason>, &'a [&'a str]);

/// Needs no daemon: nothing listens where these look for one.
const COMMAND_LINES: &[Row<'_>] = &[
    ("frobnicate", USAGE, None, &["'frobnicate'", "--help"]),
    ("query --all --frobnicate", USAGE, None, &["'--frobnicate'", "--help"]),
    ("query --all --order up", USAGE, None, &["'up'", "self, pre, post, ancestors"]),
    ("query --all --fields disk", USAGE, None, &["\"disk\"", "allowed: cpu, memory", "`cgctl metrics`"]),
    ("query --all --stop-when memory<1", USAGE, None, &["'memory<1'", "\"memory\"", "`cgctl metrics`"]),
    ("query --all --stop-when pids.current", USAGE, None, &["'pids.current'", "METRIC<VALUE"]),
    ("query --all --stop-when pids.current<max", USAGE, None, &["\"max\"", "or max for a limit"]),
    ("query --all --stop-when memory.max_bytes<1G", USAGE, None, &["\"1G\"", "a whole number"]),
    ("query --all --join id", USAGE, None, &["'id'", "path"]),
    ("query --all --limit many", USAGE, None, &["'many'", "--limit", "1 to 4294967295"]),
    ("query --all --limit -1", USAGE, None, &["'-1'", "--limit", "1 to 4294967295"]),
    ("query --all --limit 0", USAGE, None, &["'0'", "--limit", "1 to 4294967295"]),
    ("query --all --max-depth deep", USAGE, None, &["'deep'", "--max-depth", "0 to 4294967295"]),
    ("query --all --max-depth -1", USAGE, None, &["'-1'", "--max-depth", "0 to 4294967295"]),
    ("query --all --engine fast", USAGE, None, &["'fast'", "locked, unlocked, files"]),
    ("query --all --pod Web", USAGE, None, &["'Web'", "--pod", "namespace/name"]),
    ("query --all --pod a/b/c", USAGE, None, &["'a/b/c'", "--pod", "namespace/name"]),
    ("query --all --container 3f4a9b", USAGE, None, &["'3f4a9b'", "--container", "12 or more digits"]),
    ("query --all --unit ssh", USAGE, None, &["'ssh'", "--unit", "ssh.service"]),
    ("query --all a/b", USAGE, None, &["'a/b'", "allowed: a path from the root", "/a/b"]),
    ("query --all memory:1234", USAGE, None, &["'memory:1234'", "HIERARCHY:/path"]),
    ("query --all 0", USAGE, None, &["'0'", "allowed as a cgroup id: 1 to"]),
    ("query --all /a\\b", USAGE, None, &["/a\\b", "write a backslash in a cgroup's name as \\x5c"]),
    ("query --host web-1 --all", USAGE, None, &["--host", "cannot be used with", "--all"]),
    ("query --agent 127.0.0.1:1 --all", USAGE, None, &["--agent", "cannot be used with", "--all"]),
    ("query", USAGE, None, &["--host <HOST>|--all|--agent <ADDR>"]),
    ("query --host=", USAGE, None, &["--host"]),
    ("query --all -o xml", USAGE, None, &["'xml'", "table, json, ndjson"]),
    ("query --all --timeout 5", USAGE, None, &["'5'", "a time with its unit (500ms, 5s, 2m)"]),
    ("query --agent nowhere", USAGE, None, &["--agent", "\"nowhere\"", "allowed: host:port"]),
    ("flush --all --scope up", USAGE, None, &["'up'", "subtree, ancestors"]),
    (
        "flush --all --max-staleness 5",
        USAGE,
        None,
        &["'5'", "--max-staleness", "a time with its unit", "or 0s"],
    ),
    ("flush --all --max-staleness -1s", USAGE, None, &["'-1s'", "--max-staleness", "a time with its unit"]),
    ("hosts --server https://a:1", USAGE, None, &["--server", "\"https://a:1\"", "allowed: host:port"]),
    ("history --host web-1", USAGE, None, &["<TARGET>", "--glob", "--step"]),
    ("history / --agg rate", USAGE, None, &["--host <HOST>|--all"]),
    ("history --all / --step 0s", USAGE, None, &["'0s'", "--step", "allowed: whole seconds"]),
    ("history --all / --agg median", USAGE, None, &["'median'", "--agg", "p50"]),
    ("history --all / --agg rate --group-by rack", USAGE, None, &["'rack'", "--group-by", "pod"]),
    ("history --all / --agg rate --top 0", USAGE, None, &["'0'", "--top", "1 to 10000"]),
    ("history export --all /", USAGE, None, &["--out <FILE>"]),
    ("history --host web-1 / --since yesterday", USAGE, None, &["'yesterday'", "3h ago"]),
    (
        "history --host web-1 / --since 2026-11-23T08:00:00Z --until 2026-11-23T07:00:00Z",
        USAGE,
        None,
        &["--since 2026-11-23T08:00:00Z is not before --until 2026-11-23T07:00:00Z", "move one"],
    ),
    ("collectors", USAGE, None, &["--host <HOST>|--all|--agent <ADDR>"]),
    (
        "collectors --all --enable disk",
        USAGE,
        None,
        &["--enable", "\"disk\"", "allowed: reclaim, attach, runqueue, block_io"],
    ),
    ("collectors --all --disable Reclaim", USAGE, None, &["--disable", "\"Reclaim\"", "allowed: reclaim, "]),
    (
        "collectors --all --enable attach --enable runqueue --disable runqueue",
        USAGE,
        None,
        &["--enable runqueue and --disable runqueue", "leave out one"],
    ),
    (
        "query --all --fields reclaim.cost",
        USAGE,
        None,
        &["\"reclaim.cost\"", "reclaim, attach", "`cgctl metrics`"],
    ),
    (
        "hosts",
        UNREACHABLE,
        None,
        &["cannot reach the server at", "connection refused", "start it or", "--server"],
    ),
    (
        "query --agent 127.0.0.1:1",
        UNREACHABLE,
        None,
        &["cannot reach the agent at 127.0.0.1:1", "connection refused", "start it or", "--agent"],
    ),
];

/// Asked of a server with the host web-1, and with two hosts called twin whose agents are not there.
const WITH_A_SERVER: &[Row<'_>] = &[
    (
        "query --host web-1 /no/such/cgroup",
        USAGE,
        Some(ErrorReason::CgroupNotFound),
        &["host web-1", "/no/such/cgroup: no such cgroup", "`cgctl query` lists"],
    ),
    ("query --host web-1 /etc", USAGE, Some(ErrorReason::CgroupNotFound), &["/etc: no such cgroup"]),
    (
        "query --host web-1 /cgroup.procs",
        USAGE,
        Some(ErrorReason::CgroupNotFound),
        &["/cgroup.procs: no such cgroup"],
    ),
    (
        "query --host web-1 18446744073709551615",
        USAGE,
        Some(ErrorReason::CgroupNotFound),
        &["18446744073709551615: no such cgroup"],
    ),
    ("query --host web-1 /a/../b", USAGE, Some(ErrorReason::InvalidField), &["/a/../b", "has no .. in it"]),
    (
        "query --host web-1 nosuch:/a",
        USAGE,
        Some(ErrorReason::InvalidField),
        &["target.hierarchy", "\"nosuch\"", "allowed: empty (cgroup v2), "],
    ),
    (
        "query --host web-1 --stop-at /no/such/cgroup --order ancestors",
        USAGE,
        Some(ErrorReason::CgroupNotFound),
        &["stop_at /no/such/cgroup"],
    ),
    (
        "query --host web-1 memory:/ --join path",
        USAGE,
        Some(ErrorReason::InvalidField),
        &["target", "\"memory:/\"", "a path without a hierarchy"],
    ),
    ("flush --host web-1 /no/such", USAGE, Some(ErrorReason::CgroupNotFound), &["host web-1", "/no/such"]),
    (
        "query --host nobody",
        USAGE,
        Some(ErrorReason::HostUnknown),
        &["\"nobody\"", "`cgctl hosts` lists those that registered"],
    ),
    (
        "query --host twin",
        USAGE,
        Some(ErrorReason::HostAmbiguous),
        &["2 hosts are called \"twin\"", "name one by its id", TWINS[0], TWINS[1]],
    ),
    (
        "collectors --host twin --enable runqueue",
        USAGE,
        Some(ErrorReason::HostAmbiguous),
        &["2 hosts are called \"twin\"", TWINS[0], TWINS[1]],
    ),
    ("collectors --host nobody", USAGE, Some(ErrorReason::HostUnknown), &["\"nobody\"", "`cgctl hosts`"]),
    (
        "collectors --host 22222222-2222-4222-8222-222222222222 --enable runqueue --disable attach",
        UNREACHABLE,
        Some(ErrorReason::HostUnreachable),
        &["host twin", "127.0.0.1:1", "Connection refused", "does the agent run"],
    ),
    (
        "history --host web-1 /no/such/cgroup",
        USAGE,
        Some(ErrorReason::CgroupNotFound),
        &["/no/such/cgroup", "web-1", "`cgctl query` lists"],
    ),
    (
        "history --host web-1 / --agg rate --fields memory",
        USAGE,
        Some(ErrorReason::InvalidField),
        &["read_mask", "\"memory\"", "a counter"],
    ),
    (
        "history --all --glob a/* --agg rate",
        USAGE,
        Some(ErrorReason::InvalidField),
        &["cgroups.path_glob", "\"a/*\"", "begins with /"],
    ),
    (
        "history --host web-1 / --top 3",
        USAGE,
        Some(ErrorReason::InvalidField),
        &["top", "\"3\"", "with step or aggregation"],
    ),
    (
        "history --host web-1 memory:/a",
        USAGE,
        Some(ErrorReason::InvalidField),
        &["target.hierarchy", "\"memory\"", "cgroup v2"],
    ),
    (
        "history --host web-1 / --since 2999-01-01T00:00:00Z",
        USAGE,
        Some(ErrorReason::InvalidField),
        &["since", "2999-01-01T00:00:00Z", "a moment before until"],
    ),
    (
        "query --host 11111111-1111-4111-8111-111111111111",
        UNREACHABLE,
        Some(ErrorReason::HostUnreachable),
        &["host twin", "127.0.0.1:1", "Connection refused", "does the agent run"],
    ),
    (
        "query --host web-1 --host 11111111-1111-4111-8111-111111111111 --order self",
        PARTIAL,
        Some(ErrorReason::HostUnreachable),
        &["host twin", "127.0.0.1:1", "Connection refused", "does the agent run"],
    ),
];

/// Asked after the agent of web-1 was killed.
const WITH_THE_AGENT_DEAD: &[Row<'_>] = &[
    (
        "query --host web-1",
        UNREACHABLE,
        Some(ErrorReason::HostUnreachable),
        &["host web-1", "Connection refused", "does the agent run"],
    ),
    (
        "flush --host web-1",
        UNREACHABLE,
        Some(ErrorReason::HostUnreachable),
        &["host web-1", "Connection refused", "does the agent run"],
    ),
    (
        "collectors --host web-1",
        UNREACHABLE,
        Some(ErrorReason::HostUnreachable),
        &["host web-1", "Connection refused", "does the agent run"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_command_line_is_refused_before_anybody_is_asked() -> Result<()> {
    check_all(COMMAND_LINES, &format!("127.0.0.1:{}", free_port()?)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() -> Result<()> {
    let mut server = Start::server()?.start().await?;
    let mut agent = Start::agent()?.registered(&server, "web-1").start().await?;
    host_up(&server, "web-1").await?;
    for host_id in TWINS {
        register(&server, host_id, "twin").await?;
    }
    check_all(WITH_A_SERVER, &server.url()).await?;
    agent.kill_9()?;
    check_all(WITH_THE_AGENT_DEAD, &server.url()).await?;
    server.stop().await?;
    let gone = ("query --all", UNREACHABLE, None, &["cannot reach the server at", "connection refused"][..]);
    check_all(&[gone], &server.url()).await
}

/// Registers a host whose agent does not exist.
async fn register(server: &Daemon, host_id: &str, hostname: &str) -> Result<()> {
    let host = Host {
        host_id: host_id.to_owned(),
        boot_id: host_id.to_owned(),
        agent_epoch: host_id.to_owned(),
        hostname: hostname.to_owned(),
        address: "127.0.0.1:1".to_owned(),
        kernel_release: "6.12.0".to_owned(),
        agent_version: "0.1.0".to_owned(),
    };
    server.fleet()?.register_host(RegisterHostRequest { host: Some(host) }).await?;
    Ok(())
}

async fn check_all(rows: &[Row<'_>], server: &str) -> Result<()> {
    for row in rows {
        check(row, server).await?;
    }
    Ok(())
}

async fn check((line, code, reason, says): &Row<'_>, server: &str) -> Result<()> {
    let mut arguments: Vec<&str> = line.split_whitespace().collect();
    let names_the_peer = arguments.iter().any(|word| ["--agent", "--server"].contains(word));
    if !names_the_peer {
        arguments.extend(["--server", server]);
    }
    let ran = in_time(line, cli::run("cgctl", &arguments)).await??;
    // Below the trouble of a host, cgctl says what the others cost and how many there were.
    let footer = |line: &&str| line.contains(" engine, ") || line.ends_with(" hosts, 1 failed");
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| !footer(line)).collect();
    check_line(&format!("cgctl {line}"), &lines.join("\n"), says);
    let reason = reason.map(ErrorReason::as_wire).unwrap_or_default();
    assert!(ran.stderr.contains(reason), "cgctl {line}: {} does not say {reason}", ran.stderr);
    assert_eq!(ran.code, *code, "cgctl {line}: {}", ran.stderr);
    Ok(())
}
