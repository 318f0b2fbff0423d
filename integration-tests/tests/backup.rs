//! A server's own Postgres, backed up while it runs and restored into an empty state directory, by the commands that
//! docs/postgres.md names; with the newest Postgres that is installed, which may be another than the one before.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use integration_tests::{
    cli::{self, Ran},
    daemon::{Start, state_dir},
    fleet,
    walk::by_path,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_from_its_backup() -> Result<()> {
    let mut server = Start::server()?.flag("--heartbeat-interval", "300ms").start().await?;
    let mut agent = Start::agent()?.registered(&server, "host").start().await?;
    let before = fleet::more_history(&server, "host", by_path("/"), 2).await?;
    let kept = state_dir()?;
    let file = kept.path().join("backup");
    let state = server.state();
    let command = async |command: &str, file: &Path| -> Result<Ran> {
        let words = [command, &file.display().to_string(), "--state-dir", &state.display().to_string()]
            .map(str::to_owned);
        cli::run("cgfleet-server", &words.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let check = async |name: &str, file: &Path, code: i32, expect: &str| -> Result<()> {
        let ran = command(name, file).await?;
        ensure!(ran.code == code && ran.stderr.contains(expect), "{name}: {ran:?}");
        Ok(())
    };
    check("backup", &file, 0, "").await?;
    check("backup", &file, 1, "File exists").await?;
    check("restore", &file, 1, "another cgfleet-server runs").await?;
    agent.stop().await?;
    server.stop().await?;
    check("restore", &file, 1, "move it away").await?;

    fs::rename(state.join("postgres"), state.join("postgres.old"))?;
    check("restore", &kept.path().join("none"), 1, "No such file").await?;
    check("restore", &file, 0, "").await?;
    server.start_again().await?;
    let after = fleet::history(&server, "host", by_path("/")).await?;
    ensure!(after.points.starts_with(&before.points[..2]), "{after:?}\nbefore: {before:?}");
    // Ticks go on behind those of the backup.
    agent.start_again().await?;
    fleet::more_history(&server, "host", by_path("/"), after.points.len()).await?;
    Ok(())
}
