//! Text views: files in a BPF filesystem that show cgroups to whoever may read them. docs/views.md has their
//! format, ebpf/src/view.bpf.c writes it.
//!
//! Owns which views there are, and sees that none outlives its cgroup or the agent. Must not know gRPC.

mod columns;
mod directory;
mod shown;
mod spec;

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use cgfleet_proto::v1;
use tokio::sync::oneshot;

pub(crate) use self::{
    columns::Columns,
    directory::ViewDirectory,
    shown::Shown,
    spec::{FORM, NAMES, ViewName, ViewSpec},
};
use crate::{kernel, walker::WalkError};

/// A view is gone so soon after its cgroup.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Requests that wait.
const QUEUE_MAX: usize = 16;

/// A view that cannot be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewsError {
    /// There are none here.
    #[error("there are no views on this host: {0}")]
    Unavailable(String),
    /// The name is taken.
    #[error("there is a view {0} already; delete it, or choose another name")]
    Exists(String),
    /// There is no such view.
    #[error("no such view: {0}; `cgctl view list` lists those that exist")]
    NotFound(String),
    /// The kernel's buffer does not hold the text.
    #[error(
        "the text of view {name} has room for {cgroups} cgroups, and there are more: the kernel keeps {bytes} bytes; \
         choose a smaller subtree or fewer fields, or ask for it to be truncated"
    )]
    TooLarge {
        /// Of the view.
        name: String,
        /// That fit.
        cgroups: String,
        /// The buffer's.
        bytes: String,
    },
    /// The kernel has no such order.
    #[error("this kernel's iterator has no such order: {0}")]
    NoSuchOrder(io::Error),
    /// Its cgroup is not to be had.
    #[error(transparent)]
    Target(#[from] WalkError),
    /// The kernel refused something.
    #[error("view {name}: {source}")]
    Kernel {
        /// Of the view.
        name: String,
        /// What.
        source: kernel::ViewError,
    },
    /// Too many requests wait.
    #[error("{QUEUE_MAX} requests for views wait already; try again")]
    QueueFull,
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopped,
}

enum Job {
    Create(ViewSpec, oneshot::Sender<Result<v1::View, ViewsError>>),
    List(oneshot::Sender<Result<Vec<v1::View>, ViewsError>>),
    Delete(ViewName, oneshot::Sender<Result<(), ViewsError>>),
    Stop(oneshot::Sender<Result<(), ViewsError>>),
}

/// A handle to the thread that has the views.
#[derive(Debug, Clone)]
pub(crate) struct Views {
    jobs: mpsc::SyncSender<Job>,
}

impl Views {
    /// Starts the thread, which makes the `wanted` views first.
    pub(crate) fn start(mut shown: Shown, wanted: Vec<ViewSpec>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel(QUEUE_MAX);
        thread::Builder::new().name("views".to_owned()).spawn(move || {
            for spec in wanted {
                if let Err(error) = shown.create(&spec) {
                    tracing::warn!(view = spec.name.as_str(), %error, "a view of the configuration is not there");
                }
            }
            serve(&mut shown, &queue);
        })?;
        Ok(Self { jobs })
    }

    /// Makes a view.
    pub(crate) async fn create(&self, spec: ViewSpec) -> Result<v1::View, ViewsError> {
        self.ask(|answer| Job::Create(spec, answer)).await
    }

    /// Every view, by name.
    pub(crate) async fn list(&self) -> Result<Vec<v1::View>, ViewsError> {
        self.ask(Job::List).await
    }

    /// Removes a view.
    pub(crate) async fn delete(&self, name: ViewName) -> Result<(), ViewsError> {
        self.ask(|answer| Job::Delete(name, answer)).await
    }

    /// Removes every view, and comes back when they are gone.
    pub(crate) async fn stop(&self) -> Result<(), ViewsError> {
        self.ask(Job::Stop).await
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, ViewsError>>) -> Job,
    ) -> Result<T, ViewsError> {
        let (sender, answer) = oneshot::channel();
        self.jobs.try_send(job(sender)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => ViewsError::QueueFull,
            mpsc::TrySendError::Disconnected(_) => ViewsError::Stopped,
        })?;
        answer.await.map_err(|_| ViewsError::Stopped)?
    }
}

fn serve(shown: &mut Shown, queue: &mpsc::Receiver<Job>) {
    loop {
        let job = if shown.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(CHECK_INTERVAL)
        };
        shown.remove_gone();
        match job {
            Ok(Job::Create(spec, answer)) => drop(answer.send(shown.create(&spec))),
            Ok(Job::List(answer)) => drop(answer.send(shown.list())),
            Ok(Job::Delete(name, answer)) => drop(answer.send(shown.delete(&name))),
            Ok(Job::Stop(answer)) => {
                shown.remove_all();
                drop(answer.send(Ok(())));
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
