//! VictoriaMetrics beside the store: the same values into it, merged by force, and how much disk that takes.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{bench::Bench, daemon::free_port};

/// As long as anything that is asked of it may take.
const PATIENCE: Duration = Duration::from_mins(10);
const POLL: Duration = Duration::from_millis(500);
/// Text that is collected before it is sent.
const REQUEST_BYTES: usize = 16 << 20;

/// One that runs until this is dropped.
pub(super) struct Victoria {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

/// One series, as its import takes it.
pub(super) struct Series<'a> {
    pub(super) metric: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    /// Milliseconds since the Unix epoch, and values.
    pub(super) points: &'a [(i64, u64)],
}

impl Victoria {
    /// On loopback, with a directory of its own, and never dropping what is old.
    pub(super) fn start(bench: &Bench) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("cgfleet-bench-").tempdir_in("/tmp")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let log = fs::File::create(directory.path().join("log"))?;
        let child = Command::new("victoria-metrics")
            .arg(format!("-storageDataPath={}", directory.path().join("data").display()))
            .arg(format!("-httpListenAddr={address}"))
            .args(["-retentionPeriod=100y", "-loggerLevel=WARN"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start victoria-metrics; `cargo xtask install bench` brings it")?;
        let victoria = Self { child, address, directory };
        victoria
            .until(bench, "serving", || Ok(victoria.get("/health").is_ok_and(|body| body.contains("OK"))))?;
        Ok(victoria)
    }

    /// An import, to which series are added.
    pub(super) fn import(&self) -> Import<'_> {
        Import { victoria: self, text: String::new(), values: 0 }
    }

    /// Has everything merged, and gives the bytes of its directory, values and indexes.
    pub(super) fn merged_bytes(&self, bench: &Bench) -> Result<u64> {
        self.get("/internal/force_flush")?;
        self.get("/internal/force_merge")?;
        bench.pause(Duration::from_secs(1))?;
        self.until(bench, "done with merging", || {
            let metrics = self.get("/metrics")?;
            let is_idle = |line: &str| {
                line.starts_with("vm_active_") && line.contains("merge") && !line.ends_with(" 0")
            };
            Ok(!metrics.lines().any(is_idle))
        })?;
        // Parts that were merged into others are removed a moment later.
        let mut last = bytes_below(&self.directory.path().join("data"))?;
        self.until(bench, "rid of what was merged", || {
            let now = bytes_below(&self.directory.path().join("data"))?;
            Ok(std::mem::replace(&mut last, now) == now)
        })?;
        Ok(last)
    }

    fn until(&self, bench: &Bench, what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
        let began = std::time::Instant::now();
        while began.elapsed() < PATIENCE {
            bench.pause(POLL)?;
            if check()? {
                return Ok(());
            }
        }
        bail!("victoria-metrics is not {what} within {PATIENCE:?}: {}", self.log())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Result<String> {
        self.request(&format!("GET {path}"), "")
    }

    /// One request, with a connection of its own.
    fn request(&self, what: &str, body: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        write!(
            stream,
            "{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        ensure!(status.starts_with('2'), "victoria-metrics: {what}: {answer}");
        Ok(answer)
    }
}

impl Drop for Victoria {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Series on their way.
pub(super) struct Import<'a> {
    victoria: &'a Victoria,
    text: String,
    values: u64,
}

impl Import<'_> {
    /// Adds a series, or more points of it.
    pub(super) fn add(&mut self, series: &Series<'_>) -> Result<()> {
        use std::fmt::Write as _;
        let Series { metric, host, path, points } = series;
        let name = metric.replace('.', "_");
        let metric = serde_json::json!({ "__name__": name, "host": host, "path": path });
        write!(self.text, "{{\"metric\":{metric},\"values\":[")?;
        for (number, (_, value)) in points.iter().enumerate() {
            write!(self.text, "{}{value}", if number == 0 { "" } else { "," })?;
        }
        self.text.push_str("],\"timestamps\":[");
        for (number, (at, _)) in points.iter().enumerate() {
            write!(self.text, "{}{at}", if number == 0 { "" } else { "," })?;
        }
        self.text.push_str("]}\n");
        self.values += points.len() as u64;
        if self.text.len() < REQUEST_BYTES { Ok(()) } else { self.send() }
    }

    /// Sends what is left; how many values there were in all.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.send()?;
        Ok(self.values)
    }

    fn send(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        self.victoria.request("POST /api/v1/import", &text)?;
        Ok(())
    }
}

/// Bytes that the files below take, in whole blocks.
fn bytes_below(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    let Ok(entries) = fs::read_dir(directory) else { return Ok(0) };
    for entry in entries {
        let entry = entry?;
        // It may be removed meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += bytes_below(&entry.path())?;
        }
    }
    Ok(bytes)
}
