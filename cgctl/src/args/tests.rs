//! Command lines, read or refused.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, String> {
    let words = std::iter::once("cgctl").chain(line.split_whitespace());
    Cli::try_parse_from(words).map_err(|error| usage_line(&error).unwrap_or_default())
}

#[test]
fn clap_finds_no_fault() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_asked_of_whom_is_read() {
    for line in [
        "query --all",
        "query --host a --host b /x --order self --limit 1 --stop-at 12 --host-timeout 500ms -o ndjson",
        "query --agent 127.0.0.1:7401 memory:/a --order ancestors --fields cpu,cpu.usage_usec",
        "query --all /a --order ancestors --stop-when memory.max_bytes<max --join path --engine files",
        "query --all --pod shop/web-0 --container nginx --unit kubepods.slice",
        "query --all --pod 74c13223-5a00-11e9-b385-42010a80018d --container 3f4a9b12cdef",
        "query --all --max-staleness 2s --flush if-stale",
        "query --agent h:1 --max-staleness 1h --flush always",
        "query --all --flush never",
        "watch --all /a --max-depth 1 --fields cpu --interval 500ms --rate --dead-band 5% --ticks 3 -o ndjson",
        "watch --agent h:1 1234 --delta --positions /tmp/p",
        "watch --all --pod shop/web-0 --container nginx --unit kubepods.slice",
        "flush --all /a --server http://s:1 --timeout 2m",
        "flush --agent h:1",
        "history --host a /x --since now",
        "history --host a --host b /x --step 1m --agg rate --metric cpu.usage_usec --group-by pod,host --top 10 -o csv",
        "history --all --step 1h --group-by none",
        "history --all --glob /kubepods.slice/** --below /a --pod shop/web-0 --plot",
        "history export --host a /x --format parquet --out /tmp/f",
        "history export --all --agg p99 --out f",
        "collectors --all",
        "collectors --host a --enable runqueue --enable block_io --disable attach --host-timeout 1s -o json",
        "collectors --agent h:1 --disable reclaim",
        "view list --all",
        "view create --host a web /x --order post --fields cpu,pids --truncate --host-timeout 1s -o json",
        "view create --agent h:1 web",
        "view delete --all web",
        "hosts -o json --trace",
        "metrics",
        "doctor --agent h:1 --output json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
    }
}

#[test]
fn bad_usage_is_one_line_that_says_what_is_allowed() {
    let check = |line: &str, expect: &[&str]| {
        let said = parse(line).expect_err(line);
        assert!(!said.contains('\n'), "{said}");
        for part in expect {
            assert!(said.contains(part), "{line}: {said}");
        }
    };
    check("query", &["--host <HOST>|--all|--agent <ADDR>"]);
    check("query --host a --all", &["cannot be used with"]);
    check("query --agent h:1 --server http://s:1", &["--agent", "--server", "cannot be used with"]);
    check("query --agent h:1 --host-timeout 1s", &["--host-timeout", "cannot be used with"]);
    check("query --agent h:1 --all", &["cannot be used with"]);
    check("query --all a/b", &["'a/b'", "a cgroup id (1234)"]);
    check("query --all --order up", &["'up'", "self, pre, post, ancestors, children"]);
    check("query --all --fields disk", &["\"disk\"", "memory_stat", "cpu.usage_usec"]);
    check("query --all --stop-when memory<1", &["'memory<1'", "unknown field"]);
    check("query --all --stop-when cpu.usage_usec", &["METRIC<VALUE"]);
    check("query --all --join id", &["'id'", "path"]);
    check("query --all --max-staleness 2", &["'2'", "a time with its unit", "0s to 1h"]);
    check("query --all --max-staleness 61m", &["'61m'", "0s to 1h"]);
    check("query --all --max-staleness -1s", &["'-1s'", "0s to 1h"]);
    check("query --all --flush now", &["'now'", "never, if-stale, always"]);
    check("flush --all --max-staleness 2", &["'2'", "a time with its unit"]);
    check("query --all --limit 0", &["'0'", "1 to 4294967295"]);
    check("query --all --pod Web", &["'Web'", "--pod", "namespace/name"]);
    check("query --all --pod=", &["--pod", "a pod's name"]);
    check("query --all --container 3f4a9b", &["'3f4a9b'", "--container", "the first 12 or more digits"]);
    check("query --all --unit ssh", &["'ssh'", "--unit", "ssh.service"]);
    check("query --all -o xml", &["'xml'", "table, json, ndjson"]);
    check("query --all --timeout 0s", &["'0s'", "500ms"]);
    check("query --all --timeout 25h", &["24h"]);
    check("query --all --host-timeout 5", &["'5'", "a time with its unit"]);
    check("query --hots a", &["'--hots' found; tip:", "--host"]);
    check("history /x", &["--host <HOST>|--all"]);
    check("history --host a /x --glob /y", &["cannot be used with", "--glob"]);
    check("history --host a /x --step 1.5s", &["'1.5s'", "--step", "allowed: whole seconds"]);
    check("history --host a /x --step 367d", &["'367d'", "1s to 366 days"]);
    check("history --host a /x --agg average", &["'average'", "mean"]);
    check("history --host a /x --agg mean --group-by rack", &["'rack'", "pod"]);
    check("history --host a /x --agg mean --top 0", &["'0'", "allowed: a number of series, 1 to 10000"]);
    check("history --host a /x --plot -o json", &["cannot be used with"]);
    check("history export --host a /x", &["--out <FILE>"]);
    check("history export --host a /x --out f --format orc", &["'orc'", "parquet"]);
    check("history --host a /x --since yesterday", &["'yesterday'", "3h ago"]);
    check("collectors", &["--host <HOST>|--all|--agent <ADDR>"]);
    check("collectors --all --enable disk", &["--enable", "\"disk\"", "reclaim, attach, runqueue, block_io"]);
    check("collectors --all --disable", &["--disable <NAME>"]);
    check("view create --all", &["<NAME>"]);
    check("view list", &["--host <HOST>|--all|--agent <ADDR>"]);
    check("frobnicate", &["'frobnicate'; see '--help'"]);
}
