//! One thread that owns the kernel's objects and runs every walk and flush, one at a time.
//!
//! Requests come through a bounded queue; answers go back whole. Must not know gRPC.

mod answers;
mod bpf;
mod demand;
mod engine;
mod files;
mod find;
mod flush;
mod join;
mod naming;
mod removals;
mod request;
mod sample_files;
mod sources;
mod waiting;

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cgfleet_model::Collector;
use cgfleet_proto::v1::{self, CgroupSample, WalkSummary};
use tokio::{
    runtime::{self, Runtime},
    sync::{mpsc, oneshot},
    time::timeout,
};

use answers::{Answers, Asked, WalkWaiter};
use demand::Demand;
use flush::{FlushDemand, FlushRule, FlushWaiter, Freshening, Ledger};
use waiting::Waiting;

pub use answers::Answered;
pub use demand::{FlushMode, Freshness};
pub use engine::{Engine, Tree};
pub(crate) use find::{Found, find};
pub use flush::{
    FlushAnswer, FlushMethod, FlushScope, FlushSpec, FlushedSubsystem, FlushedSubtree, Subsystem,
};
pub use naming::Naming;
pub use removals::{Removals, Removed, RemovedValues};
pub use request::{Order, Target, WalkEngine, WalkError, WalkSpec};
pub use sources::MetricSource;

/// The answer to a walk.
#[derive(Debug)]
pub struct Walked {
    /// One sample a cgroup, in the order of the walk.
    pub samples: Vec<CgroupSample>,
    /// How the walk ended and what it cost.
    pub summary: WalkSummary,
}

/// What a feed gets of a walk.
#[derive(Debug)]
pub enum Rows {
    /// Made for it.
    Made(Vec<CgroupSample>),
    /// Of a [`Tree`], which has what did not change only once.
    Shared(Vec<Arc<CgroupSample>>),
}

impl Rows {
    /// Each of them.
    pub(crate) fn samples(&self) -> Vec<&CgroupSample> {
        match self {
            Self::Made(samples) => samples.iter().collect(),
            Self::Shared(samples) => samples.iter().map(AsRef::as_ref).collect(),
        }
    }
}

/// What may change of what the agent can do.
#[derive(Debug)]
pub struct Description {
    /// Where each metric comes from.
    pub sources: Vec<MetricSource>,
    /// Every collector.
    pub collectors: Vec<v1::Collector>,
}

/// What the walker may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct WalkerLimits {
    /// The most requests that wait, equal ones being one; more are refused.
    pub queue_max: usize,
    /// The most requesters that wait for walks; more are refused.
    pub walk_waiters_max: usize,
    /// The most rows of answers that are kept for others.
    pub kept_rows_max: usize,
    /// The most requesters that wait for flushes; more are refused.
    pub flush_waiters_max: usize,
    /// The most flushes that are performed in a second because they, or walks, were requested.
    pub flushes_per_second_max: u32,
}

enum Job {
    /// For the agent itself.
    Walk(WalkSpec, oneshot::Sender<Result<Walked, WalkError>>),
    /// For a feed.
    Read(WalkSpec, Reader),
    /// Who asks for it is among those who wait.
    Answer(Asked),
    /// Who asks for it is among those who wait.
    Flush(FlushSpec),
    Describe(oneshot::Sender<Result<Description, WalkError>>),
    ListCollectors(oneshot::Sender<Result<Vec<v1::Collector>, WalkError>>),
    SwitchCollector(Collector, bool, oneshot::Sender<Result<v1::Collector, WalkError>>),
    WatchRemovals(bool, oneshot::Sender<Result<bool, WalkError>>),
    Removals(oneshot::Sender<Result<Removals, WalkError>>),
}

/// What a feed does with a walk and the removals behind it, on the walker's thread.
type Reader = Box<dyn FnOnce(Result<(Rows, WalkSummary), WalkError>, Removals) + Send>;

/// A handle to the walker thread, which ends with the last handle.
#[derive(Debug, Clone)]
pub struct Walker {
    jobs: mpsc::Sender<Job>,
    answers: Answers,
    waiting: Waiting<FlushSpec, FlushWaiter>,
}

impl Walker {
    /// Starts the thread.
    pub fn start(mut engine: Engine, limits: WalkerLimits) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(limits.queue_max);
        let answers = Answers::new(limits.walk_waiters_max, limits.kept_rows_max);
        let full = |waiters_max| WalkError::FlushWaitersFull { waiters_max };
        let waiting = Waiting::new(limits.flush_waiters_max, full);
        let (of_walks, waiters) = (answers.clone(), waiting.clone());
        let mut ledger = Ledger::new(limits.flushes_per_second_max);
        let clock = runtime::Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new().name("walker".to_owned()).spawn(move || {
            // Should the engine panic, who waits is told, and nobody can be queued any more by then.
            let _abandoned = (of_walks.waiting.abandoned_on_drop(), waiters.abandoned_on_drop());
            let mut queue = queue;
            while let Some(job) = next_job(&mut engine, &mut queue, &clock) {
                engine.tidy();
                // A requester that has gone does not want the answer, nor the work for it.
                match job {
                    Job::Walk(_, answer) if answer.is_closed() => {}
                    Job::Walk(spec, answer) => {
                        let mut freshening = Freshening::new(&mut ledger, FlushRule::Always);
                        drop(answer.send(engine.walk(&spec, &mut freshening)));
                    }
                    Job::Read(spec, reader) => {
                        let mut freshening = Freshening::new(&mut ledger, FlushRule::Always);
                        let walked = engine.read(&spec, &mut freshening);
                        reader(walked, engine.removals.take());
                    }
                    Job::Answer(asked) => of_walks.answer_all(&mut engine, &mut ledger, &asked),
                    Job::Describe(answer) => drop(answer.send(engine.describe())),
                    Job::ListCollectors(answer) => {
                        drop(answer.send(engine.collectors.list().map_err(WalkError::from)));
                    }
                    Job::SwitchCollector(collector, on, answer) => {
                        let switched = engine.collectors.switch(collector, on);
                        drop(answer.send(switched.map_err(WalkError::from)));
                    }
                    Job::WatchRemovals(on, answer) => drop(answer.send(Ok(engine.removals.watch(on)))),
                    Job::Removals(answer) if answer.is_closed() => {}
                    Job::Removals(answer) => drop(answer.send(Ok(engine.removals.take()))),
                    Job::Flush(spec) => {
                        flush::answer_all(&mut engine, &mut ledger, &spec, waiters.take(&spec));
                    }
                }
            }
        })?;
        Ok(Self { jobs, answers, waiting })
    }

    /// Has a request answered: by a walk of its own, or one that it shares.
    pub async fn answer(&self, spec: WalkSpec, freshness: Freshness) -> Result<Answered, Arc<WalkError>> {
        let demand = Demand { asked_at: Instant::now(), freshness };
        if let Some(answered) = self.answers.kept(&spec, &demand) {
            return Ok(answered);
        }
        let (sender, answer) = oneshot::channel();
        let asked = Asked { spec, flush: freshness.flush };
        let waiter = WalkWaiter { demand, answer: sender };
        self.answers.waiting.join(asked, waiter, |asked| self.queue(Job::Answer(asked)))?;
        answer.await.map_err(|_| WalkError::Stopped)?
    }

    /// Walks for the agent itself: flushed, out of no budget, and shared with nobody.
    pub async fn walk(&self, spec: WalkSpec) -> Result<Walked, WalkError> {
        self.ask(|answer| Job::Walk(spec, answer)).await
    }

    /// Walks for the agent itself, and takes the removals behind it: as [`Self::walk`], and [`Self::removals`] with
    /// nothing between them. `reader` is given both where they are made, on the walker's thread, so that no other
    /// removals are handed out before these, and nobody has to be woken up to have them. It has to be short, and
    /// waits for nothing. Gives what it gives.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        spec: WalkSpec,
        reader: impl FnOnce(Result<(Rows, WalkSummary), WalkError>, Removals) -> Result<T, WalkError>
        + Send
        + 'static,
    ) -> Result<T, WalkError> {
        let read = |answer: oneshot::Sender<_>| {
            let reader = move |walked, removals| drop(answer.send(reader(walked, removals)));
            Job::Read(spec, Box::new(reader))
        };
        self.ask(read).await
    }

    /// What may change while the agent runs.
    pub async fn describe(&self) -> Result<Description, WalkError> {
        self.ask(Job::Describe).await
    }

    /// Every collector, as it is now.
    pub async fn collectors(&self) -> Result<Vec<v1::Collector>, WalkError> {
        self.ask(Job::ListCollectors).await
    }

    /// Switches a collector on or off, and says how it is then.
    pub async fn switch_collector(&self, collector: Collector, on: bool) -> Result<v1::Collector, WalkError> {
        self.ask(|answer| Job::SwitchCollector(collector, on, answer)).await
    }

    /// Has removed cgroups reported from now on, or no more. False: this host cannot.
    pub async fn watch_removals(&self, on: bool) -> Result<bool, WalkError> {
        self.ask(|answer| Job::WatchRemovals(on, answer)).await
    }

    /// The cgroups that were removed since the last call, while removals are watched: every one that was
    /// removed before this call is in this answer or in an earlier one, or counted as lost. So is what a walk
    /// that ended before this call did not meet any more because it was being removed: this waits until
    /// such removals have ended. None of them is in a walk that is asked for later, as the walker does one
    /// thing at a time.
    pub async fn removals(&self) -> Result<Removals, WalkError> {
        self.ask(Job::Removals).await
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, WalkError>>) -> Job,
    ) -> Result<T, WalkError> {
        let (sender, answer) = oneshot::channel();
        self.queue(job(sender))?;
        answer.await.map_err(|_| WalkError::Stopped)?
    }

    /// Has a cgroup flushed, unless a flush that ended no longer than `max_staleness` ago will do.
    pub async fn flush(&self, spec: FlushSpec, max_staleness: Duration) -> Result<FlushAnswer, WalkError> {
        let (sender, answer) = oneshot::channel();
        let demand = FlushDemand { asked_at: Instant::now(), max_staleness };
        let waiter = FlushWaiter { demand, answer: sender };
        self.waiting.join(spec, waiter, |spec| self.queue(Job::Flush(spec)))?;
        answer.await.map_err(|_| WalkError::Stopped)?
    }

    fn queue(&self, job: Job) -> Result<(), WalkError> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                WalkError::QueueFull { queue_max: self.jobs.max_capacity() }
            }
            mpsc::error::TrySendError::Closed(_) => WalkError::Stopped,
        })
    }
}

/// The next job; `None` behind the last. What is watched is looked at meanwhile.
fn next_job(engine: &mut Engine, queue: &mut mpsc::Receiver<Job>, clock: &Runtime) -> Option<Job> {
    while engine.removals.is_on() {
        match clock.block_on(async { timeout(removals::LOOK_INTERVAL, queue.recv()).await }) {
            Ok(job) => return job,
            Err(_) => engine.tidy(),
        }
    }
    queue.blocking_recv()
}
