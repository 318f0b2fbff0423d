//! The server's private Postgres, asked by psql: what is stored, how large it is, when it was committed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::daemon::Daemon;

/// One database of it, with a superuser's rights.
#[derive(Debug, Clone)]
pub(super) struct Psql {
    socket_dir: PathBuf,
    database: String,
}

impl Psql {
    /// That of the server.
    pub(super) fn of(server: &Daemon) -> Self {
        Self { socket_dir: server.state().join("postgres/run"), database: "cgfleet".to_owned() }
    }

    /// Another database beside it, made anew.
    pub(super) fn beside(&self, database: &str) -> Result<Self> {
        self.run(&format!("drop database if exists {database}"))?;
        self.run(&format!("create database {database}"))?;
        Ok(Self { database: database.to_owned(), ..self.clone() })
    }

    /// Where its socket is.
    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// A psql that reads no settings of whoever runs this, and stops at the first error.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--username=postgres"])
            .args(["--set=ON_ERROR_STOP=1", "--field-separator=\t"])
            .arg(format!("--dbname={}", self.database))
            .arg(format!("--host={}", self.socket_dir.display()))
            .stdin(Stdio::null());
        command
    }

    /// What a statement, or a command of psql's own, prints.
    pub(super) fn run(&self, statement: &str) -> Result<String> {
        let output = self.command().args(["--command", statement]).output().context("start psql")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "psql: {statement}: {complaint}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The columns of the one row that a statement gives, as numbers; empty is none.
    pub(super) fn numbers<const N: usize>(&self, statement: &str) -> Result<[f64; N]> {
        let text = self.run(statement)?;
        let row = text.trim_end_matches('\n');
        let read = |column: &str| if column.is_empty() { Ok(f64::NAN) } else { f64::from_str(column) };
        let columns: Vec<f64> = row
            .split('\t')
            .map(read)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{statement}: {text}"))?;
        match <[f64; N]>::try_from(columns) {
            Ok(columns) => Ok(columns),
            Err(columns) => bail!("{statement}: {} columns", columns.len()),
        }
    }

    /// The one number that a statement gives.
    pub(super) fn number(&self, statement: &str) -> Result<f64> {
        self.numbers::<1>(statement).map(|[number]| number)
    }

    /// Bytes on disk of a table and all its partitions, with indexes and TOAST.
    pub(super) fn table_bytes(&self, table: &str) -> Result<f64> {
        self.number(&format!(
            "select coalesce(sum(pg_total_relation_size(relid)), 0) from pg_partition_tree('{table}')"
        ))
    }
}
