//! Workers: this program, started once more, for what no thread of it can do alone: move from cgroup
//! to cgroup, or have a real-time priority.
//!
//! Owns how they are asked, a line at a time. Must not know what they do.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{collectors::workload, dirtier, probe};

/// The argument before a worker's name.
pub(super) const FLAG: &str = "--worker";

/// A worker's main, with the arguments behind its name.
type Work = fn(&[String]) -> Result<()>;

/// What this program becomes with that argument.
const KINDS: [(&str, Work); 3] =
    [(dirtier::NAME, dirtier::work), (probe::NAME, probe::work), (workload::NAME, workload::work)];

/// A running worker, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    name: &'static str,
    child: Child,
    /// `None` once it is to end.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts the worker of this name, by way of the program `through` if there is one.
    pub(super) fn start(name: &'static str, through: &[&str], arguments: &[String]) -> Result<Self> {
        let itself = env::current_exe()?;
        let mut command = match through.split_first() {
            Some((program, before)) => {
                let mut command = Command::new(program);
                command.args(before).arg(itself);
                command
            }
            None => Command::new(itself),
        };
        let started = command.args([FLAG, name]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = started.spawn().with_context(|| format!("start the worker {name} {through:?}"))?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("a worker without a pipe")?);
        Ok(Self { name, child, questions, answers })
    }

    /// Has it do its work once, and gives what it says of that.
    pub(super) fn ask(&mut self) -> Result<String> {
        let mut answer = String::new();
        let mut ask = || -> io::Result<()> {
            if let Some(questions) = &mut self.questions {
                questions.write_all(b"\n")?;
            }
            self.answers.read_line(&mut answer).map(drop)
        };
        ask().with_context(|| format!("ask the worker {}", self.name))?;
        ensure!(!answer.is_empty(), "the worker {} ended", self.name);
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends at the end of its input, and whatever it is doing is short.
        self.questions = None;
        let _ = self.child.wait();
    }
}

/// Becomes the worker that the arguments name.
pub(super) fn become_one(arguments: &[String]) -> Result<()> {
    let (name, arguments) = arguments.split_first().context("no worker is named")?;
    let kind = KINDS.iter().find(|(known, _)| known == name);
    let (_, work) = kind.with_context(|| format!("no worker is called {name}"))?;
    work(arguments)
}

/// Works each time it is asked, until its input ends.
pub(super) fn serve(mut work: impl FnMut() -> Result<String>) -> Result<()> {
    for question in io::stdin().lines() {
        question?;
        let answer = work()?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}
