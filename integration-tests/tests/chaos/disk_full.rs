//! A state directory whose file system is full.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_proto::v1::{CgroupOrder, HostSelector, HostStatus, ListHostsRequest, QueryRequest};
use integration_tests::{
    cgroups::TestTree,
    chaos::{
        is_stored,
        oracle::{Journal, Stored, verify, verify_gaps},
        postgres::Postgres,
    },
    cli,
    daemon::{Daemon, Start, state_dir},
    fleet, wait,
    walk::{by_path, query, spec},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A small file system of its own, unmounted when it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Result<Self> {
        let dir = state_dir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0755"), "cgfleet-test"])
            .arg(dir.path())
            .status()?;
        ensure!(mounted.success(), "mount a tmpfs on {}", dir.path().display());
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Fills it up to the last byte.
    fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler())?;
        for block in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; block];
            while filler.write(&zeros).is_ok_and(|written| written == block) {}
        }
        let left = rustix::fs::statvfs(self.path())?;
        ensure!(left.f_bavail == 0, "{} blocks are left", left.f_bavail);
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

async fn only_host(server: &Daemon) -> Result<HostStatus> {
    let hosts = server.fleet()?.list_hosts(ListHostsRequest::default()).await?.into_inner();
    hosts.hosts.into_iter().next().context("no host")
}

/// A stored tick that is damaged, or an index that has not what its table has, is an error.
fn nothing_is_corrupt(postgres: &Postgres) -> Result<()> {
    postgres.sql_as("postgres", "create extension amcheck")?;
    let damaged = postgres.sql_as(
        "postgres",
        "select count(*)
         from pg_class as relation, lateral verify_heapam(relation.oid)
         where relation.relkind = 'r' and relation.relnamespace = 'public'::regnamespace",
    )?;
    ensure!(damaged == "0", "verify_heapam finds {damaged}");
    let indexes = postgres.sql_as(
        "postgres",
        "select count(bt_index_check(relation.oid, true)::text)
         from pg_class as relation join pg_am on pg_am.oid = relation.relam
         where relation.relkind = 'i' and amname = 'btree' and relation.relnamespace = 'public'::regnamespace",
    )?;
    ensure!(indexes.parse::<u32>()? > 10, "{indexes} indexes were checked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_query_loses_no_tick_and_is_over_when_there_is_room() -> Result<()> {
    let disk = SmallDisk::mount(400 << 20)?;
    let state = disk.path().join("state");
    let server = Start::server()?
        .flag("--state-dir", &state.display().to_string())
        .flag("--state-free-bytes-min", &(64 << 20).to_string())
        .flag("--spool-after", "500ms")
        .flag("--log", "info")
        .start()
        .await?;
    let agent = Start::agent()?
        .registered(&server, "only")
        .flag("--tick-journal", "journal")
        .flag("--history-bytes-max", "134217728")
        .start()
        .await?;
    fleet::all_up(&server, &["only"]).await?;
    let tree = TestTree::v2()?;
    let (postgres, journal) = (Postgres::of(&state), agent.state().join("journal"));

    disk.fill()?;
    wait::until("an error in the log", PATIENCE, || async {
        let says = "is full: 0 bytes are free, and 67108864 stay free (state_free_bytes_min)";
        Ok(server.log().lines().any(|line| line.contains("ERROR") && line.contains(says)).then_some(()))
    })
    .await?;
    // Until the agent has ticks of some seconds that nobody took.
    let taken = Journal::read(&journal)?.last().context("no tick")?.1;
    wait::until("ticks while the disk is full", PATIENCE, || async {
        Ok((Journal::read(&journal)?.last().context("no tick")?.1 > taken + 15).then_some(()))
    })
    .await?;
    let waiting = only_host(&server).await?.backlog.context("no backlog")?.waiting_since;
    ensure!(waiting.is_some(), "no tick waits");
    let shown = cli::run("cgctl", &["--server", &server.url(), "hosts"]).await?;
    ensure!(shown.code == 0 && shown.stderr.contains("takes no ticks"), "{shown:?}");
    ensure!(shown.stderr.contains("is full"), "{shown:?}");
    let request = QueryRequest {
        hosts: Some(HostSelector { all: true, ..HostSelector::default() }),
        spec: Some(spec(by_path(tree.path("")), CgroupOrder::SelfOnly)),
        ..QueryRequest::default()
    };
    let live = query(&server, request).await?;
    assert_eq!((live.summary.hosts_complete, live.samples.len()), (1, 1));
    let before = fleet::history(&server, "only", by_path("/")).await?;
    ensure!(!before.points.is_empty(), "what was stored is read while the disk is full");

    disk.make_room()?;
    let noted = Journal::read(&journal)?;
    is_stored(&postgres, noted.last().context("no tick")?).await.with_context(|| server.log())?;
    let host_id = only_host(&server).await?.host.context("no host")?.host_id;
    let stored = Stored::read(&postgres, &host_id)?;
    let verified = verify(&noted, &stored, &Journal::read(&journal)?, 0)?;
    println!("{verified:?}");
    verify_gaps(&postgres, &host_id, 0)?;
    let after = fleet::more_history(&server, "only", by_path("/"), before.points.len() + 15).await?;
    assert_eq!(after.points[..before.points.len()], before.points[..], "what was stored stays");
    let over = server.log();
    ensure!(over.contains("the store takes ticks again"), "{over}");
    nothing_is_corrupt(&postgres)?;
    let mut server = server;
    assert_eq!(server.stop().await?, Some(0), "{}", server.log());
    Ok(())
}
