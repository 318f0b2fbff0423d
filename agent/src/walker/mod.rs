//! One thread that owns the kernel's objects and runs every walk and flush, one at a time.
//!
//! Requests come through a bounded queue; answers go back whole. Must not know gRPC.

mod bpf;
mod engine;
mod files;
mod find;
mod join;
mod request;
mod sample_files;
mod sources;

use std::{io, thread};

use cgfleet_model::Collector;
use cgfleet_proto::v1::{self, CgroupSample, WalkSummary};
use tokio::sync::{mpsc, oneshot};

pub use engine::Engine;
pub(crate) use find::{Found, find};
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

/// The answer to a flush.
#[derive(Debug)]
pub struct FlushedSubtree {
    /// The cgroup whose subtree was flushed.
    pub cgroup_id: u64,
    /// Its path as text.
    pub path: String,
    /// Time in the flush, in nanoseconds.
    pub flush_ns: u64,
}

enum Job {
    Walk(WalkSpec, oneshot::Sender<Result<Walked, WalkError>>),
    Flush(Target, oneshot::Sender<Result<FlushedSubtree, WalkError>>),
    ListCollectors(oneshot::Sender<Result<Vec<v1::Collector>, WalkError>>),
    SwitchCollector(Collector, bool, oneshot::Sender<Result<v1::Collector, WalkError>>),
}

/// A handle to the walker thread, which ends with the last handle.
#[derive(Debug, Clone)]
pub struct Walker {
    jobs: mpsc::Sender<Job>,
}

impl Walker {
    /// Starts the thread. At most `queue_max` requests wait; more are refused.
    pub fn start(mut engine: Engine, queue_max: usize) -> io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel(queue_max);
        thread::Builder::new().name("walker".to_owned()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                engine.tidy();
                // A requester that has gone does not want the answer, nor the work for it.
                match job {
                    Job::Walk(_, answer) if answer.is_closed() => {}
                    Job::Walk(spec, answer) => drop(answer.send(engine.walk(&spec))),
                    Job::Flush(_, answer) if answer.is_closed() => {}
                    Job::Flush(target, answer) => drop(answer.send(engine.flush(&target))),
                    Job::ListCollectors(answer) => {
                        drop(answer.send(engine.collectors.list().map_err(WalkError::from)));
                    }
                    Job::SwitchCollector(collector, on, answer) => {
                        let switched = engine.collectors.switch(collector, on);
                        drop(answer.send(switched.map_err(WalkError::from)));
                    }
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Walks.
    pub async fn walk(&self, spec: WalkSpec) -> Result<Walked, WalkError> {
        self.ask(|answer| Job::Walk(spec, answer)).await
    }

    /// Flushes the subtree of a cgroup.
    pub async fn flush(&self, target: Target) -> Result<FlushedSubtree, WalkError> {
        self.ask(|answer| Job::Flush(target, answer)).await
    }

    /// Every collector, as it is now.
    pub async fn collectors(&self) -> Result<Vec<v1::Collector>, WalkError> {
        self.ask(Job::ListCollectors).await
    }

    /// Switches a collector on or off, and says how it is then.
    pub async fn switch_collector(&self, collector: Collector, on: bool) -> Result<v1::Collector, WalkError> {
        self.ask(|answer| Job::SwitchCollector(collector, on, answer)).await
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, WalkError>>) -> Job,
    ) -> Result<T, WalkError> {
        let (sender, answer) = oneshot::channel();
        self.jobs.try_send(job(sender)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                WalkError::QueueFull { queue_max: self.jobs.max_capacity() }
            }
            mpsc::error::TrySendError::Closed(_) => WalkError::Stopped,
        })?;
        answer.await.map_err(|_| WalkError::Stopped)?
    }
}
